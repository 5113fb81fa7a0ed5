"""The file of a pre-trained GAN: what it says, what it refuses, and a search that begins with it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import pytest
import torch
from pretraining import LENGTH, QUIET, small, with_file
from safetensors.torch import load_file, save_file

from dasgm.config import PretrainConfig, mathematics, to_json
from dasgm.jobs import pretrain
from dasgm.jobs import search as search_job
from dasgm.jobs.pretrain import Pretraining
from dasgm.pretrained import at_average, chosen, read
from dasgm.search import Search
from dasgm.store.records import read_lines
from dasgm.store.run import Run


def test_file_says_what_it_is(made, data):
    about, tensors = json.loads((made / "gan.json").read_text()), load_file(made / "gan.safetensors")
    assert about["gan"]["key"] == "biggan" and about["gan"]["channels"] == 2 and about["data"]["key"] == "digits"
    assert about["classes"] == [str(n) for n in range(10)] and about["data"]["image_size"] == 16
    assert (about["discriminator"], about["iterations"], about["seed"]) == ("stock", LENGTH, 0)
    assert 0 <= about["synthetic_accuracy"] <= 1
    assert about["sha256"] == hashlib.sha256((made / "gan.safetensors").read_bytes()).hexdigest()
    state = Run(made).load()
    assert state is not None
    for part in "GE":
        for k, t in state["search"][part]["module"].items():
            assert torch.equal(tensors[f"{part}.{k}"], t), (part, k)
    mean = state["search"]["G"]["mean"]
    assert all(torch.equal(tensors[f"G_average.{k}"], t) for k, t in mean.items())
    assert any(not torch.equal(t, tensors[f"G.{k}"]) for k, t in mean.items())


def test_averaged_generator_has_spectral_norms_of_its_own(made):
    """Their vectors, iterated where the averaged weights stand, against a singular value decomposition."""
    tensors = load_file(made / "gan.safetensors")
    names = [k.removesuffix(".u") for k in tensors if k.startswith("G_average.") and k.endswith(".u")]
    assert names
    for name in names:
        w, u = tensors[f"{name}.weight"].flatten(1).double(), tensors[f"{name}.u"].double()
        sigma = torch.linalg.svdvals(w)[0]
        assert abs((w.mT @ u).norm() / sigma - 1) < 0.02, name


def test_averaging_leaves_the_live_generator_alone(data):
    training = Pretraining(PretrainConfig.of(small()), data)
    training.iterate()
    before = {k: t.clone() for k, t in training.gan.G.module.state_dict().items()}
    with at_average(training.gan, 8, "some stream"):
        pass
    assert all(torch.equal(t, before[k]) for k, t in training.gan.G.module.state_dict().items())


@pytest.mark.parametrize("place", ["", "gan.safetensors", "gan.json"])
def test_file_is_found_by_folder_and_by_either_name(made, place):
    assert read(made / place).digest == json.loads((made / "gan.json").read_text())["sha256"]


def test_what_is_no_such_file_is_one_line(made, tmp_path):
    copy = shutil.copytree(made, tmp_path / "copy")
    about = json.loads((copy / "gan.json").read_text())
    for change, says in (
        ({"format": 9}, "format 9, expected 1"),
        ({"sha256": "0"}, "copy both again"),
        ({}, None),
    ):
        (copy / "gan.json").write_text(json.dumps(about | change))
        if says:
            with pytest.raises(ValueError, match=says):
                read(copy)
    (copy / "gan.json").write_text(json.dumps({k: v for k, v in about.items() if k != "classes"}))
    with pytest.raises(ValueError, match="it lacks classes"):
        read(copy)
    (copy / "gan.safetensors").write_bytes(b"no tensors")
    (copy / "gan.json").write_text(json.dumps(about | {"sha256": hashlib.sha256(b"no tensors").hexdigest()}))
    with pytest.raises(ValueError, match="not a safetensors file"):
        read(copy)
    (copy / "gan.safetensors").unlink()
    for place, says in (
        (copy, "no gan.safetensors"),
        (tmp_path, "no gan.json"),
        (copy / "lock", "expected the folder of a pre-training, or its gan.safetensors"),
        (tmp_path / "nowhere", "nowhere: no such folder or file; expected the folder of a pre-training"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            read(place)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "told", "mend"),
    [
        ({"gan.channels": 3}, "gan.channels is 2, this search's 3", "--gan.channels 2"),
        ({"gan.shared_dim": 4, "gan.generator_lr": 1.0}, "gan.shared_dim is 8, this search's 4", "--gan.shared-dim 8"),
        ({"data.image_size": 32}, "image size is 16, this search's 32", "--data.image-size 16"),
        ({"data.split_seed": 1}, "data.split_seed is 0, this search's 1", "--data.split-seed 0"),
        ({"data.holdout": 0.3}, "data.holdout is 0.2, this search's 0.3", "--data.holdout 0.2"),
        ({"data.limit": 300}, "data.limit is 200, this search's 300", "--data.limit 200"),
        ({"data.split": "contiguous"}, "data.split is stratified, this search's contiguous", "--data.split strat"),
        (
            {"freeze_gan": False, "search_discriminator": True},
            "discriminator is stock, this search's relaxed",
            "--no-search-discriminator",
        ),
    ],
)
def test_mismatch_names_both_sides_and_what_to_do(made, changes, told, mend):
    config = with_file(made, **changes)
    with pytest.raises(ValueError) as error:
        chosen(config, config.data.load(None))
    line = str(error.value)
    assert told in line and mend in line and "dasgm pretrain" in line and len(line.splitlines()) == 1, line


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"gan": {"key": "othergan"}}, "its GAN is othergan, this search's biggan"),
        ({"data": {"key": "cifar10"}}, "its data set is cifar10, this search's digits"),
        ({"classes": ["a", "b"]}, "its classes are 2 (a, b), this search's 10 (0, 1, 2, ...)"),
        (
            {"classes": [*"0123457689"]},
            "its classes are 10 (..., 7, 6, 8, ...), this search's 10 (..., 6, 7, 8, ...)",
        ),
        ({"data_digest": "1234567890"}, "its images are those of 12345678"),
        ({"J2_digest": "1234567890"}, "it has seen another J_2: 12345678"),
    ],
)
def test_mismatch_of_kinds_and_contents(made, data, tmp_path, about, told):
    copy = shutil.copytree(made, tmp_path / "copy")
    was = json.loads((copy / "gan.json").read_text())
    changed = {k: was[k] | v if isinstance(v, dict) else v for k, v in about.items()}
    (copy / "gan.json").write_text(json.dumps(was | changed))
    with pytest.raises(ValueError) as error:
        chosen(with_file(copy), data)
    assert told in str(error.value) and len(str(error.value).splitlines()) == 1


def test_rates_may_differ(made, data):
    assert chosen(with_file(made, **{"gan.generator_lr": 0.1, "gan.warmup": 3, "arch_lr": 0.1, "seed": 5}), data)


def test_frozen_without_a_file_or_a_gan_is_one_line(data):
    for config, says in (
        (small(), "--pretrain"),
        (replace(small(), gan=None), "freeze-gan with gan none"),
        (replace(small(), gan=None, freeze_gan=False, gan_checkpoint="x"), "gan-checkpoint with gan none"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            chosen(config, data)
        assert len(str(error.value).splitlines()) == 1
    assert chosen(small(freeze_gan=False), data) is None


def test_frozen_gan_never_changes_by_one_bit(made, tmp_path):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    search_job.main(with_file(made), tmp_path / "run", QUIET)
    tensors, state = load_file(made / "gan.safetensors"), Run(tmp_path / "run").load()
    assert state is not None and state["search"]["iteration"] > 15
    for part, name in (("G_average", "G"), ("E", "E")):
        module = state["search"][name]["module"]
        assert module.keys() == {k.removeprefix(f"{part}.") for k in tensors if k.startswith(f"{part}.")}
        assert all(torch.equal(t, tensors[f"{part}.{k}"]) for k, t in module.items()), name
        assert state["search"][name]["optimizer"] is None
    row = read_lines(tmp_path / "run" / "metrics.jsonl")[1]
    assert "loss/architecture" in row and "loss/generator" not in row and "grad/B" not in row
    about = json.loads((made / "gan.json").read_text())
    assert row["gan/synthetic_accuracy"] == about["synthetic_accuracy"]
    assert row["gan/fd_proxy"] == pytest.approx(about["fd_proxy"]) and "not FID" in about["protocols"]["fd_proxy"]


def test_frozen_search_takes_a_relaxed_discriminator_too(made, data, tmp_path):
    """Nobody asks it: the file of a search that searches B serves a frozen one."""
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    config = PretrainConfig.of(small(freeze_gan=False, **{"gan.pretrain_iterations": 3}))
    assert config.search_discriminator
    pretrain.main(config, tmp_path / "relaxed", QUIET)
    frozen = with_file(tmp_path / "relaxed")
    search = Search(frozen, data, chosen(frozen, data))
    before = [{k: t.clone() for k, t in p.module.state_dict().items()} for p in search.gan.players]
    search.left = 1
    search.iterate()
    for player, state in zip(search.gan.players, before, strict=True):
        assert state and all(torch.equal(t, state[k]) for k, t in player.module.state_dict().items())
    live = with_file(tmp_path / "relaxed", freeze_gan=False)
    assert Search(live, data, chosen(live, data)).gan.B.trainable


def test_live_search_begins_where_the_file_stands(made, data):
    config = with_file(made, freeze_gan=False, search_discriminator=False)
    search, tensors = Search(config, data, chosen(config, data)), load_file(made / "gan.safetensors")
    G, E, _ = search.gan.players
    for part, player in (("G", G), ("E", E)):
        assert all(torch.equal(t, tensors[f"{part}.{k}"]) for k, t in player.module.state_dict().items())
    assert all(torch.equal(t, tensors[f"G_average.{k}"]) for k, t in G.mean.items())
    assert G.steps == LENGTH and G.trainable and E.trainable
    search.iterate()
    assert G.steps == LENGTH + 1 and any(not torch.equal(p, tensors[f"G.{k}"]) for k, p in G.params.items())


def test_file_is_part_of_the_identity_and_its_place_is_not(made, tmp_path):
    shutil.copytree(made.parent / "cache", tmp_path / "cache")
    copy, folder = shutil.copytree(made, tmp_path / "copy"), tmp_path / "run"
    config = with_file(made, **{"method.epochs": 1})
    search_job.main(config, folder, QUIET)
    search_job.main(replace(config, gan_checkpoint=str(copy / "gan.safetensors")), folder, QUIET)
    tensors = load_file(copy / "gan.safetensors")
    name = next(k for k in tensors if k.startswith("G_average."))
    tensors[name] = tensors[name] + 1
    save_file(tensors, copy / "gan.safetensors")
    about = json.loads((copy / "gan.json").read_text())
    new = hashlib.sha256((copy / "gan.safetensors").read_bytes()).hexdigest()
    (copy / "gan.json").write_text(json.dumps(about | {"sha256": new}))
    with pytest.raises(ValueError) as error:
        search_job.main(replace(config, gan_checkpoint=str(copy)), folder, QUIET)
    assert about["sha256"][:8] in str(error.value) and new[:8] in str(error.value)
    (tmp_path / "other").mkdir()
    Run(tmp_path / "other").begin(to_json(small()), mathematics(small()) | {"data": "d"}, {})
    with pytest.raises(
        ValueError, match=r"began with a GAN of its own, but this command asks for a pre-trained GAN \(01234567\)"
    ):
        Run(tmp_path / "other").begin(
            to_json(small()), mathematics(small()) | {"data": "d", "gan_checkpoint": "0123456789"}, {}
        )
