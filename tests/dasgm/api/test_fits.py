"""`fit` from Python: the runs of `dasgm fit`."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from photographs import digit_pictures, write_folder

from dasgm.api import fit, load
from dasgm.api.asked import FitOptions
from dasgm.cli import fit_options as fit_cli
from dasgm.cli.main import main
from dasgm.store.records import read_json

SETTINGS = {
    "search.method.cells": 3,
    "search.method.channels": 2,
    "search.method.epochs": 1,
    "training.cells": 3,
    "training.channels": 2,
    "training.epochs": 1,
}
SIZES: dict[str, Any] = {"image_size": 32, "search_image_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    return write_folder(root, train=digit_pictures((14, 12, 12)), test=digit_pictures((4, 3, 4), 100))


def test_it_is_the_fit_of_the_command(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prints nothing; the command goes on with it and has nothing to do, and so has the command that it notes."""
    found = fit(photos, settings=SETTINGS, storage=tmp_path, name="a", **SIZES)
    assert capfd.readouterr() == ("", "")
    assert found.search is not None and found.search.epochs == found.training.epochs == 1
    assert found.training.load().about["genotype"] == read_json(found.search.genotype_file)
    assert load(found.training.folder).classes == found.load().classes and len(found.load().classes) == 3
    assert 0 <= found.accuracy.low <= found.accuracy.value <= found.accuracy.high <= 1
    assert not found.against and found.comparison is None
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    words = [f"--{name}={value}" for name, value in SETTINGS.items()]
    sizes = ["--image-size=32", "--search.image-size=16", "--device=cpu"]
    assert main(["fit", str(photos), *words, *sizes, f"--storage={tmp_path}", "--name=a"]) == 0
    said = capfd.readouterr().out
    assert "going on" in said and f"finished: test error {found.accuracy.error:.2%}" in said
    code = shlex.split(read_json(found.training.folder / "run.json")["command"])
    assert code[0] == "dasgm" or "from dasgm.api import fit; fit(" in code[2]
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")} and len(times) == 2


def test_arguments_are_called_as_the_options() -> None:
    theirs = {one.name for one in fields(FitOptions)} - {"search", "training", "dry_run"}
    theirs |= {flag[2:].replace("-", "_").replace(".", "_") for flag in fit_cli.BEFORE}
    assert set(inspect.signature(fit).parameters) == theirs | {"pictures", "settings", "progress"}


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda photos: fit("nowhere", storage="x"), "nowhere: no such folder"),
        (lambda photos: fit(photos, image_size=33), "image-size 33: expected a multiple of 4"),
        (lambda photos: fit(photos, device="tpu"), "device 'tpu'"),
        (lambda photos: fit(photos, settings={"epochs": 3}), "setting 'epochs': expected one of a stage"),
        (lambda photos: fit(photos, settings={"search.seed": 3}), "takes it from --seed"),
        (lambda photos: fit(photos, settings={"training.epocs": 3}), "did you mean 'epochs'?"),
        (lambda photos: fit(photos, genotype="DARTS_V2", settings={"search.arch_lr": 1.0}), "there is no search"),
        (lambda photos: fit(photos, genotype="DARTS_V2", preset="fit-small"), "there is no search"),
        (lambda photos: fit(photos, search_share=1), "search-share 1"),
        (lambda photos: fit(photos, against=["resnet18"]), "against resnet18: expected a known network"),
    ],
)
def test_a_mistake_is_a_value_error_of_one_line(
    mistake: Callable[[Path], Any], says: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        mistake(photos)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir()) and capfd.readouterr() == ("", "")
