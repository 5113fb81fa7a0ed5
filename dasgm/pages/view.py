"""What runs and sweeps hold, as pages and tables read it, and how runs are ranked. Free of torch and jinja."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from dasgm.genotype import DEFAULT_SPACE, LARGEST, Genotype, space_of
from dasgm.measures.scores import FIRST
from dasgm.measures.truth import DATASETS
from dasgm.store.files import printable, shell_line, text, version
from dasgm.store.records import ENDED, read_json, read_lines, read_metrics, read_record
from dasgm.store.run import state_of

if TYPE_CHECKING:
    from dasgm.spaces._base import SearchSpace

STATES = ("finished", "running", "waiting", "stopped", "interrupted", "failed")  # in the order of the table
MOST_PIXELS = 2**24  # of a picture that is shown
Json = dict[str, Any]


@dataclass(frozen=True)
class RunView:
    """A run folder as its page reads it: `info` is run.json, `metrics` the sound lines of its file."""

    folder: Path
    state: str
    info: Json
    config: Json
    metrics: list[Json]
    genotype: Genotype | None

    @property
    def title(self) -> str:
        return str(self.info.get("title") or self.info.get("name") or printable(self.folder.name))

    @property
    def space(self) -> SearchSpace:
        """The search space. Where it is not installed here, the default one."""
        try:
            return space_of(str(self.config.get("search_space", DEFAULT_SPACE)))
        except ValueError:
            return space_of(DEFAULT_SPACE)

    @property
    def parameters(self) -> Json:
        parameters = self.info.get("parameters")
        return parameters if isinstance(parameters, dict) else {}

    @property
    def epochs(self) -> int:
        """Epochs done (0: none yet)."""
        return max((row["epoch"] for row in self.metrics if isinstance(row.get("epoch"), int)), default=0)

    def curve(self, key: str) -> list[tuple[float, float]]:
        """(epoch, value) in order; of an epoch written twice the later line."""
        rows = ((row.get("epoch"), row.get(key)) for row in self.metrics)
        return sorted(
            {epoch: float(value) for epoch, value in rows if isinstance(epoch, int) and is_number(value)}.items()
        )

    def last(self, key: str) -> float | None:
        """The latest finite value, or None."""
        return next((value for _, value in reversed(self.curve(key)) if math.isfinite(value)), None)

    @property
    def truth(self) -> dict[str, float]:
        """The true accuracies of the latest genotype by data set, from 0 to 1; empty where the run had no table."""
        found = {name: self.last(f"truth/{name}") for name in DATASETS}
        return {name: value for name, value in found.items() if value is not None}

    def protocol(self, key: str) -> str:
        """How a figure of merit was measured, as run.json has it; '' where it does not say."""
        protocols = self.info.get("protocols")
        return str(protocols.get(key) or "") if isinstance(protocols, dict) else ""

    def alphas(self) -> list[Json]:
        """The sound lines of alphas.jsonl, most of what a folder has to read, for who draws them."""
        return read_lines(self.folder / "alphas.jsonl")

    def nearest(self) -> list[Path]:
        """The last grid of samples beside their nearest training images."""
        return sorted(self.folder.glob("pictures/nearest-*.png"))[-1:]

    def samples(self) -> list[Path]:
        """The first, the middle and the last sample grid."""
        grids = sorted(self.folder.glob("pictures/samples-*.png"))
        return sorted({grids[0], grids[(len(grids) - 1) // 2], grids[-1]}) if grids else []


@dataclass(frozen=True)
class Ranked:
    """A trial and its place: `rank` 1, 2, ... for finished ones, else None; `tie`: not to be told from the best."""

    run: RunView
    value: float | None
    error: float
    rank: int | None = None
    tie: bool = False


def read_run(folder: str | Path) -> RunView:
    """Read a run folder, as far as it is written."""
    folder = Path(folder)
    try:
        genotype = Genotype.from_json(text(folder / "genotype.json", LARGEST))
    except (OSError, ValueError):
        genotype = None
    return RunView(
        folder=folder,
        state=state_of(folder),
        info=read_record(folder / "run.json"),
        config=read_json(folder / "config.json"),
        metrics=read_metrics(folder),
        genotype=genotype,
    )


def read_trials(folder: str | Path) -> list[RunView]:
    """The runs in a sweep's folder, by name."""
    return [read_run(path.parent) for path in sorted(Path(folder).glob("*/run.json"))]


def mlflow_ui(store: str) -> str:
    """The command that serves a store at 127.0.0.1:5000, lightly: else it is 15 processes and 2.4 GiB."""
    light = "DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    return f"{light} mlflow ui --workers 1 --port 5000 --backend-store-uri {shell_line([store])}"


class Trials:
    """The runs in a sweep's folder, for who looks again and again: of those that ended what did not change is kept."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._ended: dict[Path, tuple[list[tuple[int, int]], RunView]] = {}

    def look(self) -> list[RunView]:
        """By name, as `read_trials`."""
        return [self._view(path.parent) for path in sorted(self.folder.glob("*/run.json"))]

    def _view(self, folder: Path) -> RunView:
        now = [version(folder / name) for name in ("run.json", "config.json", "metrics.jsonl", "genotype.json")]
        before, view = self._ended.get(folder, (None, None))
        if view is None or before != now:
            view = read_run(folder)
            if view.state in ENDED:
                self._ended[folder] = now, view
        return view


def ranking(runs: Sequence[RunView], objective: str = FIRST) -> list[Ranked]:
    """Finished runs by their objective, best first; then the others in the order of STATES, the longest first.

    A tie with the best is a difference no larger than its own standard error, sqrt(e1^2 + e2^2); of an objective
    without one, no difference. Equal ones stay in the order in which they are given.

    Args:
        objective: the metric, of which more is better (measures/scores.py).
    """
    scored = [Ranked(run, run.last(objective), run.last(objective + "_error") or 0.0) for run in runs]
    done = [(one.value, one) for one in scored if one.run.state == "finished" and one.value is not None]
    done.sort(key=lambda pair: pair[0], reverse=True)
    ranked = []
    for place, (value, one) in enumerate(done, start=1):
        best, top = done[0]
        tie = place > 1 and best - value <= math.hypot(top.error, one.error)
        ranked.append(replace(one, rank=place, tie=tie))
    placed = {one.run.folder for one in ranked}
    return [*ranked, *sorted((one for one in scored if one.run.folder not in placed), key=_unranked)]


def _unranked(one: Ranked) -> tuple[int, int, float]:
    state = STATES.index(one.run.state) if one.run.state in STATES else len(STATES)
    return state, -one.run.epochs, -(one.run.last("val/accuracy") or 0.0)


def flat(config: Json, prefix: str = "") -> list[tuple[str, str]]:
    """("gan.generator_lr", "0.0002") for each leaf of a configuration, in its own order."""
    leaves: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            leaves += flat(value, f"{prefix}{key}.")
        else:
            leaves.append((prefix + key, value if isinstance(value, str) else json.dumps(value)))
    return leaves


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
