"""Results over seeds, as the paper reports them: mean, standard deviation and n of each row; Welch's test."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dasgm.measures.truth import DATASETS
from dasgm.pages.view import OBJECTIVE, RunView

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
"""With which row Table 6 compares a row; the rows with 30, 50, 70 % Val and of another GAN likewise."""


@dataclass(frozen=True)
class Row:
    """The runs of one row, one a seed."""

    name: str
    planned: int
    """Seeds asked for."""
    values: tuple[float, ...]
    """Accuracy, or test error, of each finished run."""
    hours: tuple[float, ...]
    """Device hours of each finished run, without warm-up and proxy."""
    seconds: tuple[float, ...]
    """Of one iteration, in each finished run."""

    @property
    def state(self) -> str:
        """What is missing; '' where nothing is."""
        done = len(self.values)
        return "not run" if not done else "" if done == self.planned else f"{done} of {self.planned} finished"

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def text(self) -> str:
        """In %: the mean over seeds ± standard deviation, and what is missing."""
        if not self.values:
            return self.state
        spread = f" ± {100 * self.deviation:.2f}" if len(self.values) > 1 else ""
        return f"{100 * self.mean:.2f}{spread}" + (f" ({self.state})" if self.state else "")

    @property
    def deviation(self) -> float:
        """Sample standard deviation; NaN of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


def rows(runs: Sequence[RunView], names: Sequence[str], seeds: int, objective: str = OBJECTIVE) -> list[Row]:
    """Runs grouped by their parameter `row`, in the order of `names`; a row without a finished run is there too."""

    def of(name: str) -> Row:
        mine = [run for run in runs if run.parameters.get("row") == name and run.state == "finished"]
        mine = [run for run in mine if run.last(objective) is not None]
        values = tuple(run.last(objective) or 0.0 for run in mine)
        hours = tuple(run.last("cost/gpu_hours") or 0.0 for run in mine)
        return Row(name, seeds, values, hours, tuple(map(_seconds_per_iteration, mine)))

    return [of(name) for name in names]


def _seconds_per_iteration(run: RunView) -> float:
    """From the images of an epoch's speed; the batch is a worker's."""
    speeds = [value for _, value in run.curve("speed/images_per_s")]
    batch = int(run.config.get("batch_size", 0)) * int(run.info.get("workers", 1))
    return batch / statistics.fmean(speeds) if speeds else math.nan


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """p of Welch's two-sided t-test that both have one mean (Table 6).

    NaN of fewer than two values, and where neither varies: seeds that all end in one cell leave nothing to estimate
    the spread from.
    """
    from scipy.stats import ttest_ind

    if min(len(one), len(other)) < 2 or len(set(one)) == len(set(other)) == 1:
        return math.nan
    return float(ttest_ind(one, other, equal_var=False).pvalue)


def compared(found: Sequence[Row]) -> dict[str, tuple[str, float]]:
    """{row: (baseline, p)} for the rows of which both are there."""
    by_name = {row.name: row for row in found}
    pairs = {name: BASELINE.get(re.sub(r"(-val\d+)?(-upstream)?(:\w+)?$", "", name)) for name in by_name}
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
        base, value = tests.get(row.name, ("", math.nan))
        p = "-" if math.isnan(value) else f"{value:.3f} ({base})"
        cells: list[Any] = [row.name, row.state or "-", len(row.values), "-", "-", "-"]
        if row.values:
            cells = [row.name, row.text, len(row.values)]
            cells += [f"{statistics.fmean(row.hours):.4f}", f"{statistics.fmean(row.seconds):.3f}", p]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def truths(runs: Sequence[RunView], names: Sequence[str], seeds: int) -> str:
    """True accuracies of the found cells as Markdown, and p as in `markdown`; '' where no run had a table of them."""
    found = {name: rows(runs, names, seeds, f"truth/{name}") for name in DATASETS}
    if not any(row.values for row in found["cifar10"]):
        return ""
    lines = ["| row | n | " + " | ".join(f"{title}, % | p" for title in DATASETS.values()) + " |"]
    lines.append("|---" * (2 + 2 * len(DATASETS)) + "|")
    tests = {name: compared(its) for name, its in found.items()}
    for place, name in enumerate(names):
        cells: list[Any] = [name, len(found["cifar10"][place].values)]
        for dataset, its in found.items():
            p = tests[dataset].get(name, ("", math.nan))[1]
            cells += [its[place].text, "-" if math.isnan(p) else f"{p:.3g}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def errors(runs: Sequence[RunView], names: Sequence[str], seeds: int) -> str:
    """Evaluations as Markdown, a row a genotype: test errors in %, the mean over seeds ± standard deviation.

    With two genotypes also p of Welch's two-sided test (Table 6).
    """
    found, five = (rows(runs, names, seeds, f"result/{kind}") for kind in ("error", "top5_error"))
    lines = ["| genotype | test error, % | n | top-5 error, % | parameters | multiply-adds | images/s | device hours |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row, fifth in zip(found, five, strict=True):
        cells: list[Any] = [row.name, row.text or "-", len(row.values), fifth.text if fifth.values else "-"]
        mine = [run for run in runs if run.parameters.get("row") == row.name and run.state == "finished"]
        cells += [_mean(mine, f"result/{name}", ",.0f") for name in ("parameters", "multiply_adds")]
        cells += [_mean(mine, "speed/images_per_s", ",.0f")]
        cells.append(f"{statistics.fmean(row.hours):.4f}" if row.hours else "-")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    table = "\n".join(lines) + "\n"
    if len(found) == 2:
        p = welch(found[0].values, found[1].values)
        said = "not enough runs" if math.isnan(p) else f"p = {p:.3g}"
        table += f"\nWelch's two-sided test that {names[0]} and {names[1]} have the same mean test error: {said}\n"
    return table


def _mean(runs: Sequence[RunView], key: str, form: str) -> str:
    """Over runs, of a run over its epochs."""
    means = [statistics.fmean(value for _, value in curve) for run in runs if (curve := run.curve(key))]
    return format(statistics.fmean(means), form) if means else "-"
