"""The function for Python makes the sweep of the command line."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, finish, start
from proposals import captured
from refusals import ensure_refused

from dasgm.pages.view import ranking, read_trials
from tuning import api
from tuning.options import Options
from tuning.sweep import Sweep

WORDS = ["--gan=none", "--arch-lr=0.01", "--method.epochs=3", "--num-trials=2", "--grace=3", "--name=x"]
LAST_STAGE = {"at_most", "register", "then_imagenet", "imagenet_set", "then_train", "train_set", "top"}


def test_arguments_are_called_as_the_options() -> None:
    parts = {"preset", "gan", "method", "dataset", "data_dir"}
    theirs = {one.name for one in fields(Options)} - LAST_STAGE - {"config", "dry_run"}
    assert set(inspect.signature(api.sweep).parameters) == theirs | parts | {"settings", "progress"}


def test_it_is_the_sweep_of_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commanded = captured(monkeypatch, [*WORDS, f"--storage={tmp_path}"])
    made: list[Sweep] = []

    class Stop(Exception):
        pass

    def make(one: Sweep) -> bool:
        made.append(one)
        raise Stop

    monkeypatch.setattr(Sweep, "make", make)
    settings = {"arch_lr": 0.01, "method.epochs": 3}
    with pytest.raises(Stop):
        api.sweep(gan="none", settings=settings, num_trials=2, grace=3, name="x", storage=tmp_path)
    (one,) = made
    assert (one.base, one.folder, one.given) == (commanded.base, commanded.folder, commanded.given)
    assert one.plan.identity == commanded.plan.identity and one.options == commanded.options


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda: api.sweep(rank_by="prox"), "rank_by 'prox': expected proxy or naswot, did you mean 'proxy'?"),
        (lambda: api.sweep(num_trials=0), "num-trials 0: expected at least 1"),
        (lambda: api.sweep(grace=9), "grace 9: expected at most 4"),
        (lambda: api.sweep(space="nowhere:x"), "space 'nowhere:x'"),
        (lambda: api.sweep(settings={"data.holdout": 0.0}), "data.holdout 0"),
        (lambda: api.sweep(settings={"proxy.epochs": 0}), "proxy.epochs 0: expected at least 1"),
        (lambda: api.sweep("quikstart"), "did you mean 'quickstart'?"),
    ],
)
def test_a_mistake_is_a_value_error_of_one_line(
    mistake: Callable[[], Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    ensure_refused(mistake, says, tmp_path, capfd)


SCRIPT = """
import json
from tuning.api import sweep

asked = dict(gan="none", settings=SETTINGS, num_trials=2, storage="runs", name="s")
found = sweep(**asked)
again = sweep(**asked)
assert [t.name for t in found.trials] == [t.name for t in again.trials]
trials = [
    [t.name, t.state, t.rank, t.score, dict(t.varied), str(t.result.genotype) if t.result else None]
    for t in found.trials
]
print(json.dumps([found.best.accuracy.value, found.rank_by, trials]))
"""


@pytest.mark.slow
def test_a_sweep_from_python_says_what_its_folder_says(tmp_path: Path) -> None:
    """It prints nothing of its own; called again it is read from its folder."""
    named = (word[2:].partition("=")[::2] for word in TINY)
    settings = {name.replace("-", "_"): json.loads(value) for name, value in named}
    code, out, err = finish(start("-c", SCRIPT.replace("SETTINGS", repr(settings)), cwd=tmp_path))
    assert code == 0 and not err, err
    (line,) = out.splitlines()
    best, rank_by, trials = json.loads(line)
    ranked = ranking(read_trials(tmp_path / "runs" / "s"))
    assert rank_by == "proxy" and len(trials) == 2 and best == ranked[0].value
    for (name, state, rank, score, varied, genotype), one in zip(trials, ranked, strict=True):
        assert (name, state, rank, score) == (one.run.folder.name, one.run.state, one.rank, one.value)
        assert varied == one.run.parameters and genotype == (str(one.run.genotype) if one.rank else None)
