"""Sweeps for tests, and what their folders say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from commands import ROOT, TINY, start
from optuna.trial import TrialState
from outcomes import rows_of

from dasgm.config import from_json, override
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.store.records import read_lines
from dasgm.store.run import Run

SWEEP = str(ROOT / "tuning" / "sweep.py")


def sweep(storage: Path, *more: str, begin: Callable[..., Any] = start, **environment: str) -> Any:
    """The command, tiny."""
    return begin(SWEEP, "--storage", str(storage), "--name", "s", *TINY, *more, **environment)


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/study.db").trials


def epochs_of(folder: Path) -> list[int]:
    return [row["epoch"] for row in read_lines(folder / "metrics.jsonl") if row["phase"] != "best"]


def twice_saved(*folders: Path) -> bool:
    """Whether each has two checkpoints: then what went before its last row is saved."""
    return all(len(Run(folder).checkpoints()) > 1 for folder in folders)


def saved(folder: Path) -> list[dict[str, Any]]:
    """A trial's rows before its last. There are some."""
    rows = read_lines(folder / "metrics.jsonl")[:-1]
    assert rows, folder
    return rows


def went_on(folder: Path, before: list[dict[str, Any]]) -> bool:
    """Whether a trial went on after the rows that were `saved`, which were not run again: they have their times."""
    log = (folder / "log.txt").read_text()
    return "going on after epoch" in log and read_lines(folder / "metrics.jsonl")[: len(before)] == before


MIXED = ["--space=toy_spaces:mixed", "--num-trials=3", "--max-concurrent=2", "--grace=3"]


def outcome(folder: Path) -> list[Any]:
    """All that must not depend on what happened to a sweep on its way."""
    found: list[Any] = []
    for trial in trials_of(folder):
        run = folder / f"t{trial.number:03d}"
        found.append([trial.params, trial.state.name, trial.value, trial.intermediate_values, rows_of(run)])
        found.append([read_lines(run / "alphas.jsonl"), Run(run).about["state"], Run(run).about["reason"]])
        if trial.state == TrialState.COMPLETE:
            found.append(json.loads((run / "genotype.json").read_text()))
    return found


# ------------------------------------------------------------------------------------------------ several at once

ASYNCHRONOUS = ["--space=toy_spaces:rates", "--num-trials=3", "--max-concurrent=2", "--grace=4"]


DRIVER_GONE = "the search's driver, or its controller, is gone; another goes on with it"


def once_and_as_alone(folder: Path, elsewhere: Path) -> bool:
    """Each epoch of a trial is there once, with what its configuration gives alone in this process."""
    alone = elsewhere / f"{folder.name}-alone"
    config = from_json(json.loads((folder / "config.json").read_text()))
    main(override(config, {"threads": 1}), alone, Hooks(say=lambda line: None))
    found, truth = (
        [
            rows_of(run),
            read_lines(run / "alphas.jsonl"),
            Run(run).about["state"],
            (run / "genotype.json").read_text(),
        ]
        for run in (folder, alone)
    )
    return found == truth
