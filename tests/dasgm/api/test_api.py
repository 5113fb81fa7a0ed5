"""The functions for Python: the runs of the command line, with what came of them as values."""

from __future__ import annotations

import csv
import inspect
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from refusals import ensure_refused
from scipy.stats import binomtest

from dasgm.api import EvaluationResult, SearchResult, evaluate, load, search
from dasgm.api.callers import call
from dasgm.cli.evaluate import EvaluateOptions
from dasgm.cli.main import main
from dasgm.cli.search import SearchOptions
from dasgm.genotype import Genotype
from dasgm.jobs.session import Interrupted, OutOfTime
from dasgm.recipes import recipe
from dasgm.store.records import read_json, read_lines

SEARCH = {"method.epochs": 2, "method.channels": 2, "proxy.epochs": 1, "proxy.channels": 4, "data.limit": 300}
TRAINING = {"epochs": 2, "cells": 3, "channels": 2, "data.limit": 300}
Quiet = pytest.CaptureFixture[str]


def words(settings: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    storage = tmp_path_factory.mktemp("searched")
    return search("quickstart", gan="none", settings=SEARCH, storage=storage, name="mine")


@pytest.fixture(scope="module")
def trained(found: SearchResult) -> EvaluationResult:
    return evaluate(found, settings=TRAINING, storage=found.folder.parent, name="trained")


def test_a_search_says_what_its_files_say(found: SearchResult) -> None:
    rows = read_lines(found.folder / "metrics.jsonl")
    assert found.accuracy is not None and found.accuracy.value == rows[-1]["best/proxy"]
    assert found.accuracy.high - found.accuracy.value == pytest.approx(1.96 * rows[-1]["best/proxy_error"], rel=1e-3)
    assert found.epochs == 2 and found.supernet_accuracy == rows[1]["val/accuracy"]
    assert found.genotype == Genotype.load(found.genotype_file) and found.page.is_file()
    usual = recipe("digits-small").config
    network = found.genotype.build(channels=usual.channels, cells=usual.cells, classes=10)
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert SearchResult.read(found.folder) == found


def test_a_training_says_what_its_files_say(trained: EvaluationResult) -> None:
    with open(trained.predictions, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["true"] == row["predicted"] for row in rows)
    interval = binomtest(right, len(rows)).proportion_ci(method="wilson")
    assert trained.accuracy.value == pytest.approx(right / len(rows))
    assert (trained.accuracy.low, trained.accuracy.high) == pytest.approx((interval.low, interval.high))
    model = load(trained.folder)
    assert trained.parameters == sum(p.numel() for p in model.network.parameters())
    assert trained.load().classes == model.classes == tuple("0123456789")
    assert read_json(trained.folder / "run.json")["genotype"].endswith("mine"), "the run that it was found by"


def test_the_command_line_goes_on_with_the_same_runs(
    found: SearchResult, trained: EvaluationResult, capsys: Quiet
) -> None:
    """Nothing is computed again, so all settings are the same; neither by the command that the run keeps."""
    before = [(path, path.stat().st_mtime_ns) for path in found.folder.parent.rglob("metrics.jsonl")]
    storage = f"--storage={found.folder.parent}"
    kept = [read_json(one.folder / "run.json")["command"] for one in (found, trained)]
    assert main(["search", "--gan=none", "--name=mine", storage, *words(SEARCH)]) == 0
    assert main(["evaluate", str(found.folder), "--name=trained", storage, *words(TRAINING)]) == 0
    said = capsys.readouterr().out
    assert f"proxy accuracy {found.metrics['best/proxy']:.3f}" in said
    assert f"finished: test error {trained.accuracy.error:.2%}" in said
    for command in kept:
        python, flag, code = shlex.split(command)
        assert (python, flag) == ("python", "-c") and code.startswith("from dasgm.api import ")
        exec(compile(code, "command", "exec"), {})
        assert "loading" in capsys.readouterr().out
    assert before == [(path, path.stat().st_mtime_ns) for path in found.folder.parent.rglob("metrics.jsonl")]


def test_nothing_is_printed_unless_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, Any] = {"settings": TRAINING | {"epochs": 1, "data.limit": 100}, "storage": tmp_path}
    quiet = evaluate("DARTS_V2", "digits-small", name="a", **asked)
    assert capfd.readouterr() == ("", "")
    told = evaluate(Genotype.load("DARTS_V2"), "digits-small", name="b", progress=True, **asked)
    said = capfd.readouterr()
    assert "epoch 1/1" in said.out and not said.err
    assert (quiet.accuracy, quiet.parameters) == (told.accuracy, told.parameters), "its text names the same genotype"


def test_what_is_cut_short_goes_on(trained: EvaluationResult, found: SearchResult) -> None:
    asked: dict[str, Any] = {"settings": TRAINING, "storage": found.folder.parent, "name": "cut"}
    with pytest.raises(OutOfTime) as stopped:
        evaluate(found, time_budget=1e-3, **asked)
    assert isinstance(stopped.value, Interrupted)
    (note,) = stopped.value.__notes__
    assert "every whole epoch is saved in" in note and "the same call continues" in note
    with pytest.raises(ValueError, match="it is interrupted, expected a finished one"):
        EvaluationResult.read(found.folder.parent / "cut")
    assert evaluate(found, **asked).accuracy == trained.accuracy


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: search("quikstart"), "did you mean 'quickstart'?"),
    (lambda: search(gan="bigan"), "did you mean 'biggan'?"),
    (lambda: search(settings={"method.epocs": 2}), "did you mean 'epochs'?"),
    (lambda: search(settings={"batch-size": "8"}), "batch-size '8': expected int"),
    (lambda: search(gan="none", settings={"val_portion": 0.0}), "val-portion is given, but there is no GAN"),
    (lambda: search(name="../x"), "name '../x'"),
    (lambda: search(data_dir="x"), "digits come with dasgm"),
    (lambda: search(settings={"threads": "two"}), "threads 'two': expected int"),
    (lambda: evaluate("DARTS_V3"), "did you mean 'DARTS_V2'?"),
    (lambda: evaluate("DARTS_V2", "digit-small"), "did you mean 'digits-small'?"),
    (lambda: evaluate("torchvision:resnet18", "digits-small", settings={"cells": 3}), "has no such setting"),
    (lambda: evaluate("DARTS_V2", "digits-small", time_budget=0), "time-budget 0"),
    (lambda: SearchResult.read("nowhere"), "nowhere: expected the folder of a run"),
]


@pytest.mark.parametrize(("mistake", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_a_value_error_of_one_line(
    mistake: Callable[[], Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Quiet
) -> None:
    monkeypatch.chdir(tmp_path)
    ensure_refused(mistake, says, tmp_path, capfd)


def test_a_run_of_another_kind_is_refused(found: SearchResult) -> None:
    with pytest.raises(ValueError, match="of the kind search, expected evaluation"):
        EvaluationResult.read(found.folder)


@pytest.mark.parametrize(
    ("function", "options", "besides"),
    [
        (search, SearchOptions, {"preset", "gan", "method", "dataset", "data_dir"}),
        (evaluate, EvaluateOptions, {"genotype", "recipe", "dataset", "data_dir", "weights"}),
    ],
)
def test_arguments_are_called_as_the_options(function: Callable[..., Any], options: type, besides: set[str]) -> None:
    ours = {"settings", "progress"}
    theirs = {one.name for one in fields(options)} - {"config", "dry_run", "loader"}
    assert set(inspect.signature(function).parameters) == theirs | besides | ours


def test_a_call_is_written_as_it_was_made() -> None:
    defaults = {name: one.default for name, one in inspect.signature(search).parameters.items()}
    made = call(search, defaults | {"gan": "none", "settings": {"arch_lr": 0.1}, "storage": Path("a'b")})
    assert made == (
        "from dasgm.api import search; search(gan='none', settings={'arch_lr': 0.1}, storage=\"a'b\", progress=True)"
    )


def test_importing_it_is_quick() -> None:
    code = "import sys, dasgm.api; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
