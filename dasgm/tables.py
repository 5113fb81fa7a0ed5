"""Results over seeds, as the paper reports them: mean, standard deviation and n of each row; Welch's test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dasgm.report import OBJECTIVE, RunView

TABLES: dict[str, tuple[str, ...]] = {
    "2": (
        "dasgm-darts",
        *(f"dasgm-darts-val{n}" for n in (30, 50, 70)),
        "darts-1st",
        "darts-2nd",
        "dasgm-pdarts",
        *(f"dasgm-pdarts-val{n}" for n in (30, 50, 70)),
        "pdarts",
        "dasgm-pcdarts",
        *(f"dasgm-pcdarts-val{n}" for n in (30, 50, 70)),
        "pcdarts",
    ),
    "4": ("dasgm-darts", "dasgm-darts:stylegan2ada", "dasgm-darts:contragan"),
    "6": ("dasgm-darts", "darts-2nd", "dasgm-pdarts", "pdarts", "dasgm-pcdarts", "pcdarts"),
}
"""The rows of the paper's tables: a preset, or preset:GAN."""
BASELINE = {"dasgm-darts": "darts-2nd", "dasgm-pdarts": "pdarts", "dasgm-pcdarts": "pcdarts"}
"""With which row Table 6 compares a row."""


@dataclass(frozen=True)
class Row:
    """The runs of one row, one a seed."""

    name: str
    planned: int
    """Seeds asked for."""
    values: tuple[float, ...]
    """Accuracy of each finished run."""
    hours: tuple[float, ...]
    """Device hours of each finished search, without warm-up and proxy."""
    seconds: tuple[float, ...]
    """Of one iteration, in each finished search."""

    @property
    def state(self) -> str:
        """What is missing; '' where nothing is."""
        done = len(self.values)
        return "not run" if not done else "" if done == self.planned else f"{done} of {self.planned} finished"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Sample standard deviation; NaN of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


def rows(runs: Sequence[RunView], names: Sequence[str], seeds: int) -> list[Row]:
    """Runs grouped by their parameter `row`, in the order of `names`; a row without a finished run is there too."""

    def of(name: str) -> Row:
        mine = [run for run in runs if run.parameters.get("row") == name and run.state == "finished"]
        mine = [run for run in mine if run.last(OBJECTIVE) is not None]
        values = tuple(run.last(OBJECTIVE) or 0.0 for run in mine)
        hours = tuple(run.last("cost/gpu_hours") or 0.0 for run in mine)
        return Row(name, seeds, values, hours, tuple(map(_seconds_per_iteration, mine)))

    return [of(name) for name in names]


def _seconds_per_iteration(run: RunView) -> float:
    """From the images of an epoch's speed; the batch is a worker's."""
    speeds = [value for _, value in run.curve("speed/images_per_s")]
    batch = int(run.config.get("batch_size", 0)) * int(run.info.get("workers", 1))
    return batch / statistics.fmean(speeds) if speeds else math.nan


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """p of Welch's two-sided t-test that both have one mean (Table 6); NaN of fewer than two values."""
    from scipy.stats import ttest_ind

    if min(len(one), len(other)) < 2:
        return math.nan
    return float(ttest_ind(one, other, equal_var=False).pvalue)


def compared(found: Sequence[Row]) -> dict[str, tuple[str, float]]:
    """{row: (baseline, p)} for the rows of which both are there."""
    by_name = {row.name: row for row in found}
    pairs = {name: BASELINE.get(name.partition(":")[0].removesuffix("-upstream")) for name in by_name}
    return {
        name: (base, welch(by_name[name].values, by_name[base].values))
        for name, base in pairs.items()
        if base in by_name and by_name[name].values
    }


def markdown(found: Sequence[Row]) -> str:
    """The table as Markdown: accuracies in %, the mean over seeds ± standard deviation."""
    tests = compared(found)
    lines = ["| row | accuracy, % | n | device hours a search | s an iteration | p against the plain method |"]
    lines.append("|---|---|---|---|---|---|")
    for row in found:
        p = f"{tests[row.name][1]:.3f} ({tests[row.name][0]})" if row.name in tests else "-"
        cells: list[Any] = [row.name, row.state or "-", len(row.values), "-", "-", "-"]
        if row.values:
            note = f" ({row.state})" if row.state else ""
            spread = f" ± {100 * row.deviation:.2f}" if len(row.values) > 1 else ""
            cells = [row.name, f"{100 * row.mean:.2f}{spread}{note}", len(row.values)]
            cells += [f"{statistics.fmean(row.hours):.4f}", f"{statistics.fmean(row.seconds):.3f}", p]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
