"""Known networks as designs: published counts, refusals, a training by the found networks' recipe, local weights."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

import dasgm
from dasgm.cli import main as cli
from dasgm.cli.evaluate import choose_training
from dasgm.data import digits
from dasgm.designs.design import Design, load_design, read_design
from dasgm.designs.known import KnownNetwork, names
from dasgm.jobs.evaluate import fits, main
from dasgm.jobs.session import Hooks
from dasgm.measures.counts import MeasureOptions, measure, measure_genotype, measure_network
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN
from dasgm.store.run import Run

SMALL = "torchvision:shufflenet_v2_x0_5"
CONFIG = EvaluateConfig(data=digits.Config(limit=200), epochs=1, batch_size=32, threads=1)

# Table 3's rows that torchvision has, and others: parameters, billions of multiply-adds (torchvision's own records)
PUBLISHED = {
    "googlenet": (6_624_904, 1.498),
    "mobilenet_v2": (3_504_872, 0.301),
    "shufflenet_v2_x2_0": (7_393_996, 0.583),
    "mnasnet1_0": (4_383_312, 0.314),
    "densenet121": (7_978_856, 2.834),
    "resnet18": (11_689_512, 1.814),
    "efficientnet_b0": (5_288_548, 0.386),
    "regnet_y_400mf": (4_344_144, 0.402),
    "squeezenet1_1": (1_235_496, 0.349),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    found = measure(f"torchvision:{name}")
    assert (found["classes"], found["image_size"]) == (1000, 224)
    assert (found["parameters"], round(found["multiply_adds"] / 1e9, 3)) == PUBLISHED[name]


def test_the_products_of_attention_count() -> None:
    """The library's own record of a network of attention, whose layers no hook sees."""
    record = models.Swin_T_Weights.IMAGENET1K_V1.meta
    found = measure("torchvision:swin_t")
    assert (found["parameters"], round(found["multiply_adds"] / 1e9, 3)) == (record["num_params"], record["_ops"])


@pytest.mark.parametrize("name", ["DARTS_V2", "PC_DARTS_cifar"])
def test_a_found_network_has_the_counts_of_its_layers(name: str) -> None:
    config = EvaluateConfig(data=digits.Config())
    counted = measure_genotype(KNOWN[name])
    assert measure_network(KNOWN[name], config, 10, 32) == {
        name: counted[name] for name in ("parameters", "multiply_adds")
    }


def test_names_and_what_is_no_classifier() -> None:
    assert read_design(load_design(SMALL).to_json()) == KnownNetwork("torchvision", "shufflenet_v2_x0_5")
    assert {"googlenet", "resnet18"} <= set(names("torchvision"))
    for source, says in (
        ("torchvision:resnet19", "not known, did you mean 'resnet1"),
        ("torchvision:fcn_resnet50", "is no classifier of images"),
        ("torchvision:", "not known"),
        ("DARTS_V2", "only a known network begins from weights"),
    ):
        with pytest.raises(ValueError, match=says):
            load_design(source, "weights.pt" if source == "DARTS_V2" else None)
    with pytest.raises(ValueError, match="a known network has no cells"):
        cli_error("draw", SMALL)
    with pytest.raises(ValueError, match="--cells: a known network has no such setting"):
        measure(SMALL, MeasureOptions(cells=8))


def cli_error(*words: str) -> None:
    from dasgm.cli import verbs

    getattr(verbs, words[0])(words[1:])


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("alexnet", 16, "torchvision:alexnet cannot be trained on images of 16 pixels"),
        ("inception_v3", 16, "torchvision:inception_v3 cannot be trained on images of 16 pixels"),
        ("vit_b_32", 32, "Expected 224 but got 32"),
        ("googlenet", 32, ""),
        ("mnasnet0_5", 32, ""),
    ],
)
def test_networks_that_need_larger_images_are_named(name: str, size: int, says: str) -> None:
    data = type("Data", (), {"image_size": size, "classes": "abc"})
    design = load_design(f"torchvision:{name}")
    if not says:
        return fits(design, CONFIG, data)
    with pytest.raises(ValueError, match=says):
        fits(design, CONFIG, data)


def test_settings_that_it_does_not_have_are_refused() -> None:
    for words in (["--cells=8"], ["--drop-path", "0.2"], ["--form=cifar"], ["--compile"]):
        with pytest.raises(ValueError, match=f"{words[0].partition('=')[0]} is given, but a known network has no such"):
            choose_training([SMALL, *words])
    chosen, _ = choose_training([SMALL, "digits-small", "--epochs=2"])
    assert chosen.name() == "torchvision-shufflenet_v2_x0_5-digits-small-digits-s0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder, said = tmp_path_factory.mktemp("runs") / "known", list[str]()
    threads = torch.get_num_threads()
    main(load_design(SMALL), replace(CONFIG, drop_path=0.2, compile=True), folder, Hooks(say=said.append))
    torch.set_num_threads(threads)
    return folder, said


def test_training_leaves_what_a_found_network_leaves(trained, tmp_path, capsys):
    folder, said = trained
    assert json.loads((folder / "network.json").read_text()) == {"network": SMALL}
    about = json.loads((folder / "model.json").read_text())
    assert about["network"] == SMALL and about["image_size"] == 16 and about["recipe"]["drop_path"] == 0
    plain = models.shufflenet_v2_x0_5(num_classes=10)
    assert about["result"]["parameters"] == sum(p.numel() for p in plain.parameters())
    state = Run(folder).load()
    assert state is not None
    plain.load_state_dict(state["W"]["module"])
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(dasgm.load(folder)(x), plain.eval()(x))
    assert any("cells, channels, form" in line for line in said) and any("224 pixels" in line for line in said)
    assert "known network" in (folder / "report.html").read_text()
    assert cli.main(["export", str(folder), "--format=pt2", "--output", str(tmp_path / "m.pt2")]) == 0
    assert cli.main(["measure", str(folder), "--classes=10", "--image-size=16", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["multiply_adds"] == about["result"]["multiply_adds"]
    again, _ = choose_training([str(folder)])
    assert again.design == load_design(SMALL) and again.recipe == "digits-small"


def test_another_network_does_not_continue_it(trained):
    folder, _ = trained
    for other in (load_design("torchvision:mnasnet0_5"), KNOWN["DARTS_V2"]):
        with pytest.raises(ValueError, match="began with another"):
            main(other, CONFIG, folder, Hooks(say=lambda line: None))


def test_few_steps_for_slow_batch_norms_are_said():
    design = load_design("torchvision:mnasnet0_5")
    said = design.notes(CONFIG, 10, 64, 300)
    # their momentum is 3e-4 (TensorFlow's 0.9997): 0.9997 ** 300 = 0.914
    assert len(said) == 2 and "300 steps" in said[1] and "91%" in said[1]
    assert len(design.notes(CONFIG, 10, 64, 100_000)) == 1


# weights


def begun(path: Path) -> Design:
    return load_design(SMALL, path)


def test_weights_of_a_local_file(tmp_path):
    torch.manual_seed(1)
    plain = models.shufflenet_v2_x0_5(num_classes=7)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "w.pt")
    x = torch.randn(2, 3, 32, 32)
    for name in ("w.safetensors", "w.pt"):
        design: Any = begun(tmp_path / name)
        network = design.network(CONFIG, 7)
        assert all(torch.equal(t, network.state_dict()[k]) for k, t in plain.state_dict().items())
        other = design.network(CONFIG, 10)
        assert other(x).shape == (2, 10) and torch.equal(other.conv5[0].weight, plain.conv5[0].weight)
        said = design.notes(CONFIG, 10, 64, 10**5)
        assert said[1].endswith(f"{name}; of random weights: fc.weight, fc.bias, for 10 classes")
        assert read_design(design.to_json()) == design != load_design(SMALL)
    assert "w.safetensors" in json.dumps(begun(tmp_path / "w.safetensors").described(CONFIG))
    assert str(tmp_path) not in json.dumps(begun(tmp_path / "w.safetensors").described(CONFIG))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('executed')",)


def test_weights_that_are_none(tmp_path):
    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pt")
    torch.save(models.squeezenet1_1(num_classes=10).state_dict(), tmp_path / "other.pt")
    torch.save({k: t[:1] for k, t in models.shufflenet_v2_x0_5().state_dict().items() if t.ndim}, tmp_path / "cut.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, says in (
        ("evil.pt", "neither safetensors nor tensors"),
        ("other.pt", "tensors are missing or unexpected"),
        ("cut.pt", "is .*, not"),
        ("text.safetensors", "neither safetensors nor tensors"),
        ("list.pt", "no dictionary of tensors"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            begun(tmp_path / name).network(CONFIG, 10)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    with pytest.raises(ValueError, match="expected a local file"):
        begun(tmp_path / "absent.pt")
    design = begun(tmp_path / "list.pt")
    (tmp_path / "list.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="has changed"):
        design.network(CONFIG, 10)


@pytest.mark.timeout(30)
def test_a_folder_does_not_choose_which_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    run = tmp_path / "run"
    run.mkdir()
    for odd in ("/dev/zero", str(tmp_path / "pipe")):
        (run / "network.json").write_text(json.dumps({"network": SMALL, "weights": {"file": odd, "sha256": "0" * 64}}))
        with pytest.raises(ValueError, match="give that file as --weights FILE"):
            choose_training([str(run)])
        with pytest.raises(ValueError, match="--weights FILE"):
            KnownNetwork.read(run / "network.json").network(CONFIG, 10)
        with pytest.raises(ValueError, match="not a regular file"):
            load_design(run, odd)
    save_file(models.shufflenet_v2_x0_5(num_classes=10).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="not the file from which"):
        load_design(run, tmp_path / "w.safetensors")
    begun(tmp_path / "w.safetensors").save(run / "network.json")
    chosen, _ = choose_training([str(run), "--weights", str(tmp_path / "w.safetensors")])
    assert chosen.design == begun(tmp_path / "w.safetensors")
    chosen.design.network(CONFIG, 10)


def test_a_file_of_weights_may_move(tmp_path):
    here, there = tmp_path / "w.safetensors", tmp_path / "elsewhere" / "w.safetensors"
    save_file(models.shufflenet_v2_x0_5(num_classes=10).state_dict(), here)
    written = begun(here).to_json()
    there.parent.mkdir()
    here.rename(there)
    assert begun(there).to_json() == written and str(tmp_path) not in written  # a run's identity is its digest


# timm


def test_a_network_of_timm(tmp_path):
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    found = measure("timm:mobilenetv3_small_050", MeasureOptions(classes=10))
    plain = timm.create_model("mobilenetv3_small_050", num_classes=10)
    assert found["parameters"] == sum(p.numel() for p in plain.parameters())
    fits(load_design("timm:test_vit"), CONFIG, type("Data", (), {"image_size": 160, "classes": "abc"}))
    with pytest.raises(ValueError, match="did you mean 'resnet"):
        load_design("timm:resnet18z")
    with pytest.raises(ValueError, match="is not known"):
        load_design("timm:hf-hub:someone/something")
