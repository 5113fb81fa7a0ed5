"""A sweep's proposals for tests."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dasgm.presets import preset
from dasgm.store.run import Run
from tuning import spaces, sweep
from tuning.asking import open_study
from tuning.halving import Halving
from tuning.plan import METRIC, Plan, rungs
from tuning.sweep import Sweep
from tuning.trials import Proposer

BASE = preset("quickstart").config


def results(seed: int, trials: int, epochs: int) -> list[tuple[str, int, float]]:
    """(trial, epoch, accuracy) as a cluster would report them: trials side by side, ties among the accuracies."""
    draw = random.Random(seed)
    waiting = {f"t{i:03d}": list(range(1, epochs + 1)) for i in range(trials)}
    out = []
    while waiting:
        name = draw.choice(sorted(waiting)[:4])
        out.append((name, waiting[name].pop(0), draw.randint(10, 90) / 100))
        if not waiting[name]:
            del waiting[name]
    return out


def propose(
    folder: Path,
    num_trials: int = 8,
    space: spaces.Space = spaces.default,
    rank_by: str = "proxy",
    second: str = "",
) -> Proposer:
    compared = [] if second else rungs(BASE.stages, 2)
    plan = Plan(num_trials, lambda: space, compared, {}, rank_by=rank_by, second=second)
    study = open_study(folder, second)
    return Proposer(study, folder, folder / "cache", BASE, plan, Halving(compared), lambda name, title, parameters: {})


def end(
    proposer: Proposer,
    ray_id: str,
    state: str,
    accuracies: list[float],
    proxy: float = 0.5,
    more: Mapping[str, Any] = {},  # noqa: B006
) -> None:
    """Write what a search of this end leaves behind, with `more` in each row, and tell the proposer."""
    run = Run(proposer.folder / f"t{proposer.numbers[ray_id]:03d}")
    for epoch, accuracy in enumerate(accuracies, 1):
        row = {"epoch": epoch, "phase": "search 1", METRIC: accuracy, "time": float(epoch), **more}
        run.log("metrics", row)
        proposer.halving.judge(run.folder.name, row)
    if state == "finished":
        run.log("metrics", {"epoch": len(accuracies), "phase": "best", "best/proxy": proxy, "time": 99.0, **more})
    if state != "stopped":
        run.note(state=state)
    proposer.on_trial_complete(ray_id)


GAVE_UP = (
    "a search asks for 1 worker(s) with 1 CPUs in all; after 3 s the cluster has 0 CPUs and 0 GPUs free (see --wait)"
)


def interrupt(proposer: Proposer, ray_id: str, reason: str) -> None:
    Run(proposer.folder / f"t{proposer.numbers[ray_id]:03d}").note(state="interrupted", reason=reason)
    proposer.on_trial_complete(ray_id, error=True)


def captured(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> Sweep:
    """The sweep that the command would carry out."""
    found: list[Sweep] = []
    monkeypatch.setattr(sweep, "carry_out", lambda one: found.append(one) or 1)
    sweep.main(words)
    return found[0]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which the command is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        sweep.main(words)
    said = capsys.readouterr()
    assert end.value.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1, said
    return said.err
