"""Results over seeds, as the paper reports them: mean, standard deviation and n of a row; Welch's and McNemar's tests,
Holm's correction.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dasgm.measures.scores import FIRST
from dasgm.measures.truth import DATASETS
from dasgm.pages.view import RunView
from dasgm.plugins import nearest
from dasgm.presets import row_config, without_gan

DARTS = ("darts-1st", "darts-2nd", "nasbench201-darts-1st", "nasbench201-darts-2nd")
"""Rows with which plain rows of other methods are compared, where search space and order are the same."""
COMPARED = (
    "p is that of Welch's two-sided test against the row that is named, and Holm's p is adjusted for the comparisons "
    "of this table, of which there {}."
)


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
    skips: int = 0
    """Number of finished runs that found a cell of skip connections alone."""

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


def rows(runs: Sequence[RunView], names: Sequence[str], seeds: int, objective: str = FIRST) -> list[Row]:
    """Runs grouped by their parameter `row`, in the order of `names`; a row without a finished run is there too."""

    def of(name: str) -> Row:
        mine = [run for run in runs if run.parameters.get("row") == name and run.state == "finished"]
        mine = [run for run in mine if run.last(objective) is not None]
        values = tuple(run.last(objective) or 0.0 for run in mine)
        hours = tuple(run.last("cost/gpu_hours") or 0.0 for run in mine)
        skips = sum(run.genotype is not None and run.genotype.skips_alone for run in mine)
        return Row(name, seeds, values, hours, tuple(map(_seconds_per_iteration, mine)), skips)

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


def mcnemar(one: int, other: int) -> float:
    """p of McNemar's two-sided mid-p test that two classifiers are as often right on the same pictures.

    Of the pictures on which exactly one of them is right, each is as likely to be right by that hypothesis: a binomial
    distribution, of whose p half the probability of what was seen is left out. It holds its level for few such pictures
    too, where the test by chi-squared does not (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91,
    2013).

    Args:
        one, other: numbers of pictures on which only the one, and only the other, is right.
    """
    from scipy.stats import binom

    n, fewer = one + other, min(one, other)
    if one == other:
        return 1.0
    return float(2 * binom.cdf(fewer, n, 0.5) - binom.pmf(fewer, n, 0.5))


def holm(p: Sequence[float]) -> list[float]:
    """The values of p adjusted by Holm's method for their number (Scandinavian Journal of Statistics 6, 1979).

    The smallest of m values is multiplied by m, the next by m - 1, and so on; none becomes smaller than one before it,
    or larger than 1.
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def baselines(names: Sequence[str], against: str = "") -> dict[str, str]:
    """With which row of a table each row is compared; rows without such a row are left out.

    A search with a GAN is compared with the same search without one, and a plain one with DARTS's of its space and
    order.

    Args:
        names: the rows, presets or PRESET:GAN.
        against: the row with which all others are compared instead. ValueError: it is none of the rows.
    """
    if against:
        if against not in names:
            raise ValueError(
                f"--against {against!r} is no row of this table{nearest(against, list(names))}; expected one of "
                f"{', '.join(names)}"
            )
        return {name: against for name in names if name != against}
    configs = {name: row_config(name) for name in names}
    darts = {(configs[name].search_space, configs[name].order): name for name in DARTS if name in configs}

    def of(name: str) -> str | None:
        plain = without_gan(configs[name])
        if configs[name] != plain:
            return next((other for other in names if configs[other] == plain), None)
        return darts.get((plain.search_space, plain.order)) if name not in DARTS else None

    return {name: base for name in names if (base := of(name))}


class Comparison(NamedTuple):
    """Of the values of a row with those of another one; NaN where there are too few."""

    p: float = math.nan
    """Of Welch's test."""
    holm: float = math.nan
    """p adjusted for all comparisons of the table."""
    difference: float = math.nan
    """Of the means."""
    low: float = math.nan
    """Of the 95 % interval of the difference, by Welch's test."""
    high: float = math.nan
    effect: float = math.nan
    """Hedges' g, see `effect`."""


NOT_COMPARED = Comparison()
Pair = tuple[Sequence[float], Sequence[float]]


def effect(one: Sequence[float], other: Sequence[float]) -> float:
    """Hedges' g: the difference of the means over the pooled standard deviation, times 1 - 3 / (4 (n + m) - 9), which
    makes up for small samples (Hedges, Journal of Educational Statistics 6, 1981). NaN as `welch`.
    """
    n, m = len(one), len(other)
    if min(n, m) < 2 or len(set(one)) == len(set(other)) == 1:
        return math.nan
    pooled = ((n - 1) * statistics.variance(one) + (m - 1) * statistics.variance(other)) / (n + m - 2)
    return (statistics.fmean(one) - statistics.fmean(other)) / math.sqrt(pooled) * (1 - 3 / (4 * (n + m) - 9))


def comparisons(pairs: Sequence[Pair]) -> list[Comparison]:
    """Of the values of each pair, the first ones with the others; Holm's p is adjusted for all that can be tested."""
    raw = [welch(*pair) for pair in pairs]
    tested = [place for place, p in enumerate(raw) if not math.isnan(p)]
    adjusted = dict(zip(tested, holm([raw[place] for place in tested]), strict=True))
    return [Comparison(p, adjusted.get(i, math.nan), *_apart(*pairs[i])) for i, p in enumerate(raw)]


def _apart(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float, float]:
    """The last four entries of a Comparison."""
    from scipy.stats import ttest_ind

    difference = statistics.fmean(one) - statistics.fmean(other) if one and other else math.nan
    if math.isnan(g := effect(one, other)):
        return difference, math.nan, math.nan, math.nan
    interval = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    return difference, float(interval.low), float(interval.high), g


def compared(tables: Sequence[Sequence[Row]], base: Mapping[str, str]) -> list[dict[str, Comparison]]:
    """For each of several lists of rows, which make one table, the rows that can be compared (see `welch`).

    Args:
        base: as `baselines` gives it.
    """
    by_name = [{row.name: row for row in found} for found in tables]
    places = [(place, name, other) for place in range(len(tables)) for name, other in base.items()]
    found: list[dict[str, Comparison]] = [{} for _ in tables]
    tests = comparisons([(by_name[i][name].values, by_name[i][other].values) for i, name, other in places])
    for (place, name, _), test in zip(places, tests, strict=True):
        if not math.isnan(test.p):
            found[place][name] = test
    return found


def _below(tests: Sequence[dict[str, Comparison]]) -> str:
    """What stands below a table with comparisons; '' where there are none."""
    number = sum(map(len, tests))
    return f"\n{COMPARED.format(f'are {number}' if number > 1 else 'is 1')}\n" if number else ""


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def markdown(found: Sequence[Row], base: Mapping[str, str]) -> str:
    """The table as Markdown: accuracies in %, the mean over seeds ± standard deviation.

    Args:
        base: with which row each is compared, as `baselines` gives it.
    """
    tests = compared([found], base)
    lines = ["| row | accuracy, % | n | device hours a search | s an iteration | against | p | Holm's p |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in found:
        test = tests[0].get(row.name, NOT_COMPARED)
        cells: list[Any] = [row.name, row.state or "-", len(row.values), *"-----"]
        if row.values:
            hours, seconds = _number(statistics.fmean(row.hours), ".4f"), _number(statistics.fmean(row.seconds), ".3f")
            p = (_number(value, ".3f") for value in (test.p, test.holm))
            cells = [row.name, row.text, len(row.values), hours, seconds, base.get(row.name, "-"), *p]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n" + _below(tests)


def truths(runs: Sequence[RunView], names: Sequence[str], seeds: int, base: Mapping[str, str]) -> str:
    """True accuracies of the found cells as Markdown, and p as in `markdown`; '' where no run had a table of them.

    Holm's p counts the comparisons on all data sets.
    """
    found = [rows(runs, names, seeds, f"truth/{name}") for name in DATASETS]
    if not any(row.values for row in found[0]):
        return ""
    titles = (f"{title}, % | p | Holm's p" for title in DATASETS.values())
    lines = ["| row | n | skips alone | against | " + " | ".join(titles) + " |", "|---" * (4 + 3 * len(DATASETS)) + "|"]
    tests = compared(found, base)
    for place, name in enumerate(names):
        first = found[0][place]
        cells: list[Any] = [name, len(first.values), first.skips if first.values else "-", base.get(name, "-")]
        for its, test in zip(found, tests, strict=True):
            one = test.get(name, NOT_COMPARED)
            cells += [its[place].text, _number(one.p, ".3g"), _number(one.holm, ".3g")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n" + _below(tests)


def errors(runs: Sequence[RunView], names: Sequence[str], seeds: int) -> str:
    """Evaluations as Markdown, a row a network: test errors in %, the mean over seeds ± standard deviation.

    With several also p as in `markdown` (Table 6), of each against the first.
    """
    found, five = (rows(runs, names, seeds, f"result/{kind}") for kind in ("error", "top5_error"))
    base = {name: names[0] for name in names[1:]}
    tests = compared([found], base)
    heads = ["network", "test error, %", "n", "top-5 error, %", "parameters", "multiply-adds", "images/s"]
    heads += ["device hours", *(("against", "p", "Holm's p") if base else ())]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row, fifth in zip(found, five, strict=True):
        cells: list[Any] = [row.name, row.text or "-", len(row.values), fifth.text if fifth.values else "-"]
        mine = [run for run in runs if run.parameters.get("row") == row.name and run.state == "finished"]
        cells += [_mean(mine, f"result/{name}", ",.0f") for name in ("parameters", "multiply_adds")]
        cells += [_mean(mine, "speed/images_per_s", ",.0f")]
        cells.append(f"{statistics.fmean(row.hours):.4f}" if row.hours else "-")
        if base:
            test = tests[0].get(row.name, NOT_COMPARED)
            cells += [base.get(row.name, "-"), _number(test.p, ".3g"), _number(test.holm, ".3g")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n" + _below(tests)


def _mean(runs: Sequence[RunView], key: str, form: str) -> str:
    """Over runs, of a run over its epochs."""
    means = [statistics.fmean(value for _, value in curve) for run in runs if (curve := run.curve(key))]
    return format(statistics.fmean(means), form) if means else "-"
