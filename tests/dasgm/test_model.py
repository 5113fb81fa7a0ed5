"""A trained network as files: what they hold, loading in a fresh process, predictions, exports, and hostile files."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import finish
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trained import CONFIG, PDARTS

import dasgm
from dasgm.networks.network import Network
from dasgm.spaces.darts import KNOWN
from dasgm.store.run import Run


@pytest.fixture(scope="module")
def folder(digits_run: Path) -> Path:
    return digits_run


@pytest.fixture(scope="module")
def trained(folder) -> Network:
    """What was trained, out of the checkpoint."""
    state = Run(folder).load()
    assert state is not None
    network = Network(PDARTS, 4, 3, 10, auxiliary=True)
    network.load_state_dict(state["W"]["module"])
    return network.eval()


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """Both files, to be damaged."""
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))


def test_files_hold_the_network_without_its_auxiliary_head_and_all_that_it_needs(folder, trained):
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert names == {name for name in trained.state_dict() if not name.startswith("auxiliary.")}
    assert any(name.endswith("running_var") for name in names)
    about = json.loads((folder / "model.json").read_text())
    assert about["classes"] == [str(digit) for digit in range(10)] and about["image_size"] == 16
    assert about["data"] == "digits" and about["form"] == "cifar" and about["recipe"]["epochs"] == 1
    weights = sum(p.numel() for name, p in trained.named_parameters() if not name.startswith("auxiliary."))
    assert about["result"]["parameters"] == weights and 0 <= about["result"]["error"] <= 1
    assert about["dasgm"] == dasgm.__version__


def test_loads_in_one_line_in_a_fresh_process_without_ray_or_mlflow(folder, trained, tmp_path):
    x = images(5)
    torch.save(x, tmp_path / "x.pt")
    code = f"""
import sys, dasgm
assert "torch" not in sys.modules
model = dasgm.load({str(folder)!r})
import torch
assert not model.training and not {{"ray", "mlflow", "tyro"}} & set(sys.modules)
torch.save(model(torch.load({str(tmp_path / "x.pt")!r})), {str(tmp_path / "y.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "y.pt"), trained(x), rtol=1e-5, atol=1e-5)


def test_every_name_of_it_loads(folder, trained):
    with torch.no_grad():
        expected = trained(images(2))
        for path in (folder, folder / "model.json", folder / "model.safetensors"):
            torch.testing.assert_close(dasgm.load(path)(images(2)), expected)


def test_preprocess_is_the_data_sets_own_normalisation(folder):
    model, data = dasgm.load(folder), CONFIG.data.load()
    picture = Image.fromarray(data.test_images[7].permute(1, 2, 0).numpy())
    encoded = BytesIO()
    picture.save(encoded, "PNG")
    pixels = np.asarray(picture, dtype=np.float64).transpose(2, 0, 1) / 255
    expected = (pixels - np.array(model.mean)[:, None, None]) / np.array(model.std)[:, None, None]
    for given in (picture, encoded.getvalue(), data.test_images[7]):
        x = model.preprocess(given)
        assert x.dtype == torch.float32
        np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        model.preprocess(picture), data.to_classifier(data.test_raw([7]))[0], rtol=1e-4, atol=1e-5
    )
    wide = Image.new("L", (64, 32), 0)  # grey; of its shorter side the centre is kept
    wide.paste(255, (16, 0, 48, 32))
    x = model.preprocess(wide)
    white = (1 - torch.tensor(model.mean)[:, None, None]) / torch.tensor(model.std)[:, None, None]
    assert x.shape == (3, 16, 16) and torch.allclose(x[:, :, 1:-1], white.expand(3, 16, 14))
    with pytest.raises(ValueError, match="uint8"):
        model.preprocess(torch.zeros(3, 16, 16))


def test_predict_from_python_names_the_picture_that_cannot_be_read(folder, tmp_path):
    model = dasgm.load(folder)
    Image.new("RGB", (20, 30)).save(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_text("hello")
    good = tmp_path / "good.png"
    for pictures, says in (
        (good.read_bytes(), r"^one bytes is given: expected a list"),
        ([good, tmp_path / "text.jpg"], r"text\.jpg: not a jpeg, png, webp or gif picture$"),
        ([good, b"x"], r"^picture 1 of the list: not a jpeg"),
        (tmp_path, r"text\.jpg: not a jpeg"),
        ([tmp_path / "absent.png"], r"absent\.png: No such file"),
        (tmp_path / "*.gif", r"\*\.gif: there is no such file, and none that this pattern finds$"),
    ):
        with pytest.raises(ValueError, match=says):
            model.predict(pictures)
    expected = model.predict([good.read_bytes()])
    assert model.predict((good,)) == model.predict(good) == model.predict(str(tmp_path / "g*.png")) == expected
    found = model.predict(str(tmp_path), top=2, skip_unreadable=True)
    assert [Path(one.picture).name for one in found] == ["good.png", "text.jpg"] and found[0] == expected[0][:2]
    assert not found[1] and found[1].answer == "" and found[1].error.startswith("not a jpeg")
    for wrong in ({"top": 0}, {"batch_size": 0}, {"threshold": 1.5}, {"threshold": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            model.predict([good], **wrong)


def test_below_the_threshold_it_is_none_of_these(folder, tmp_path):
    model = dasgm.load(folder)
    Image.new("RGB", (20, 30)).save(tmp_path / "good.png")
    (found,) = model.predict(tmp_path)
    (name, p), *_ = found
    assert found.answer == name and p == max(q for _, q in found)
    (at,), (above,) = (model.predict(tmp_path, threshold=threshold) for threshold in (p, p + 1e-6))
    assert at.answer == name and above.answer == "none of these" and above == found
    model.classes = ("none of these", *model.classes[1:])
    with pytest.raises(ValueError, match="has a class 'none of these' itself"):
        model.predict(tmp_path, threshold=0.5)


def edit(folder: Path, **changes: Any) -> None:
    about = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(about))


def header(folder: Path, **tensors: Any) -> None:
    """A safetensors file that only declares its tensors."""
    text = json.dumps(tensors).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)


BIG = [["sep_conv_5x5", 0]] * 2000
DAMAGES: dict[str, tuple[Any, str]] = {
    "not JSON": (lambda f: (f / "model.json").write_text("{"), "not JSON"),
    "deep JSON": (lambda f: (f / "model.json").write_text("[" * 10**6), "not JSON"),
    "bytes": (lambda f: (f / "model.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "a list": (lambda f: (f / "model.json").write_text("[1]"), "format [1]"),
    "format": (lambda f: edit(f, format=2), "format 2, expected 1"),
    "enormous": (lambda f: (f / "model.json").write_text(" " * (17 * 2**20)), "larger than 16 MiB"),
    "channels": (lambda f: edit(f, channels=10**9), "from 1 to 4096"),
    "wide": (lambda f: edit(f, channels=4096), "not F32"),
    "odd channels": (lambda f: edit(f, channels=7), "even number"),
    "cells": (lambda f: edit(f, cells="20"), "cells '20'"),
    "another width": (lambda f: edit(f, channels=8), "not F32"),
    "more cells": (lambda f: edit(f, cells=5), "are missing or unexpected"),
    "form": (lambda f: edit(f, form="mnist"), "cifar or imagenet"),
    "form of a list": (lambda f: edit(f, form=[]), "cifar or imagenet"),
    "image size": (lambda f: edit(f, image_size=18, resize=18), "multiple of 4"),
    "classes": (lambda f: edit(f, classes=["a", 1]), "at least two names"),
    "a class twice": (lambda f: edit(f, classes=["0", "1"] * 5), "names that differ"),
    "mean": (lambda f: edit(f, mean=[0, 0, float("nan")]), "mean"),
    "std": (lambda f: edit(f, std=[1, 1, 0]), "std"),
    "genotype": (lambda f: edit(f, genotype={"normal": []}), "genotype"),
    "operation": (lambda f: edit(f, genotype={**json.loads(PDARTS.to_json()), "normal": [["eval", 0]] * 8}), "'eval'"),
    "many edges": (lambda f: edit(f, genotype={**json.loads(PDARTS.to_json()), "normal": BIG}), "edges"),
    "other genotype": (
        lambda f: edit(f, genotype=json.loads(KNOWN["DARTS_V1"].to_json())),
        "are missing or unexpected",
    ),
    "unknown network": (lambda f: edit(f, network="torchvision:nothing"), "is not known"),
    "network of a list": (lambda f: edit(f, network=[]), "expected torchvision:NAME or timm:NAME"),
    "known network": (lambda f: edit(f, network="torchvision:mnasnet0_5"), "are missing or unexpected"),
    "truncated": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]), ""),
    "huge header": (lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}"), ""),
    "declared only": (
        lambda f: header(f, x={"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}),
        "",
    ),
    "pickle": (lambda f: torch.save({"x": 1}, f / "model.safetensors"), ""),
    "other weights": (
        lambda f: save_file(
            {k: t * 2 if t.is_floating_point() else t for k, t in load_file(f / "model.safetensors").items()},
            f / "model.safetensors",
        ),
        "not the weights",
    ),
    "other kind": (
        lambda f: save_file(
            {k: t.to(torch.float64) for k, t in load_file(f / "model.safetensors").items()}, f / "model.safetensors"
        ),
        "F64",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_hostile_files_are_one_line(copy, damage):
    act, says = DAMAGES[damage]
    act(copy)
    with pytest.raises(ValueError) as caught:
        dasgm.load(copy)
    line = str(caught.value)
    assert says in line and "\n" not in line and line.startswith(f"model {copy}") and len(line) < 500, line


def test_a_hostile_description_allocates_nothing(copy, warm):
    """100 cells of 4096 channels: a terabyte of weights."""
    edit(copy, channels=4096, cells=100)
    code = """
import resource, sys, dasgm, dasgm.model
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    dasgm.load(sys.argv[1])
except ValueError as error:
    print(error)
"""
    _, out, err = finish(warm.start("-c", code, str(copy)))
    assert "are missing or unexpected" in out and not err


def test_where_there_is_no_model_it_says_what_makes_one(tmp_path):
    for path in (tmp_path, tmp_path / "model.json"):
        with pytest.raises(ValueError, match="there is no model.json; dasgm evaluate writes it"):
            dasgm.load(path)
    with pytest.raises(ValueError, match="expected a run's folder"):
        dasgm.load(tmp_path / "model.pt")
