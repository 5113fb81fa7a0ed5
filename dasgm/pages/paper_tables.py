"""Tables 2, 3, 4 and 6 of the paper, and what it claims in words, from the lines of a storage."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dasgm.pages import commands
from dasgm.pages.gather import NETWORK, Gathered, Line
from dasgm.pages.sheets import NOTHING, Cell, Grid, Missing, Sheet
from dasgm.pages.tables import Comparison, Row, comparisons
from dasgm.presets.published import CIFAR, SEEDS, TABLE_2, TABLE_3, TABLE_4, TABLE_6, Published
from dasgm.presets.rows import ABLATIONS, PaperRow, paper_rows
from dasgm.store.bucket import lies_at

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
ERRORS = (
    "Test errors are of networks trained from scratch after the search, in %: the mean over searches ± their standard "
    "deviation, n of them (the paper: four seeds). Several trainings of one network count as their mean, unless there "
    "is one network alone."
)
SCORES = (
    "The error of the short training is 1 - the accuracy of the found network after some epochs of training on J_1, "
    "measured on J_val, or on J_2 where nothing was held out. It compares searches of one budget and is no test error."
)
COSTS = (
    "The cost of a search is its device time, without pre-training, warm-up and short training. GPU-days are given "
    "where the searches ran on a GPU."
)
TESTED = (
    "p is of Welch's two-sided t-test, and Holm's p is adjusted for the comparisons of the table. Differences are in "
    "percentage points, below 0 where the first row has the smaller error; g is Hedges' effect size. Rows are compared "
    "only at one budget, and not tested where one has fewer than two values, or neither any spread. The paper does not "
    "say which t-test it used."
)
ROWS_OF_TABLE_2 = "The commands for rows of Table 2 that are missing stand there."


def title_of(dataset: str) -> str:
    return TITLES.get(dataset, dataset)


def row_named(key: str) -> PaperRow:
    return next(row for row in paper_rows() if row.key == key)


# ------------------------------------------------------------------------------------------------ cells of a line


SEARCHES, TRAININGS = ("search", "searches"), ("training of one network", "trainings of one network")


def measured(row: Row, papers: bool, units: tuple[str, str]) -> Cell:
    """The mean and its n. `papers`: whether it is at the paper's budget; if not, that is said."""
    if not row.values:
        return Cell(NOTHING, look="off")
    plain = Row(row.name, len(row.values), row.values, (), ())
    n = len(row.values)
    under = f"n = {n} {units[n > 1]}" + (f", {row.state}" if row.state else "")
    return Cell(plain.text, under if papers else f"{under}; not the paper's budget", "" if papers else "warn")


def trained(line: Line, key: str = "result/error") -> Cell:
    if not line.trainings:
        return Cell("not trained", look="off")
    return measured(line.trained_to(key), line.papers, TRAININGS if line.of_one_cell else SEARCHES)


def scored(line: Line) -> Cell:
    return measured(line.score, line.search is not None and line.search.papers, SEARCHES)


def parameters(line: Line) -> Cell:
    found = [value / 1e6 for value in line.parameters]
    if not found:
        return Cell(NOTHING, look="off")
    spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
    return Cell(f"{statistics.fmean(found):.2f}{spread}")


def cost(line: Line) -> Cell:
    """GPU-days of a search on a GPU; elsewhere its hours, and that they are none of a GPU."""
    if not line.hours:
        return Cell(NOTHING, look="off")
    hours, devices = statistics.fmean(line.hours), ", ".join(line.devices)
    if line.devices and all(device.startswith("cuda") for device in line.devices):
        return Cell(f"{hours / 24:.3g}", devices)
    return Cell("not measured", f"{hours:.3g} h of {devices}", "off")


def budget(line: Line) -> Cell:
    """Of the searches and of the trainings, in words."""
    if line.papers:
        return Cell("the paper's", look="text")
    parts = [("search", line.search), ("training", line.training)]
    said = [f"{what}: {of.brief}" for what, of in parts if of is not None and not of.papers]
    return Cell("not the paper's", "; ".join(said), "text")


def nothing(what: str, cells: int) -> list[Cell]:
    return [Cell(what, look="off"), *[Cell(NOTHING, look="off")] * (cells - 1)]


def name(title: str, line: Line | None = None) -> Cell:
    states = line.states if line else ""
    return Cell(title, states, "text")


# ------------------------------------------------------------------------------------------------ Tables 2, 3 and 4

Column = tuple[str, Callable[[Line], Cell], Callable[[Published], str] | None]
"""Head, our cell, and what of the paper stands beside it."""
ERROR: Column = ("test error, %", trained, lambda one: one.error)
SCORE: Column = ("error of the short training, %", scored, None)
TOP5: Column = ("top-5 error, %", lambda line: trained(line, "result/top5_error"), lambda one: one.top5)
PARAMETERS: Column = ("parameters, M", parameters, lambda one: one.parameters)
COST: Column = ("search cost, GPU-days", cost, lambda one: one.cost)


@dataclass(frozen=True)
class Entry:
    """A row of a table on a data set: what the paper has of it, and our lines."""

    title: str
    row: str
    tested: str
    searched_on: str
    published: Published | None = None

    @staticmethod
    def of(one: Published) -> Entry:
        searched_on = "" if one.row.startswith(NETWORK) else one.searched_on or one.dataset
        return Entry(one.title, one.row, one.dataset, searched_on, one)

    def lines(self, found: Gathered) -> list[Line]:
        return found.of(self.row, self.tested, self.searched_on) if self.row else []

    def status(self, found: Gathered) -> str:
        """What stands in its place where there is no line."""
        if not self.row:
            return "not made here"
        return "not run" if self.tested in found.seen else "not run (no data)"

    def missing(self, found: Gathered, seeds: int) -> Missing | None:
        """What it lacks at the paper's size of so many seeds, and the commands that make it; None: nothing."""
        if not self.row:
            return None
        lines, what = self.lines(found), f"{self.title} on {title_of(self.tested)}"
        done = [len(line.trained_to("result/error").values) for line in lines if line.papers]
        if max(done, default=0) >= seeds:
            return None
        if self.row.startswith(NETWORK):
            return Missing(what, [commands.trainings([self.row], self.tested, found.storage)])
        there = [line.finished for line in found.of(self.row, self.searched_on) if line.search and line.search.papers]
        folders = [run.folder for run in max(there, key=len, default=())]
        if len(folders) >= seeds and all((folder / "run.json").is_file() for folder in folders):
            made = commands.trainings(list(map(lies_at, folders)), self.tested, found.storage)
            return Missing(f"{what}: the trainings of what the searches found", [made])
        what += f": {len(folders)} of {seeds} searches" if folders else ", at the paper's size" if lines else ""
        fills = commands.fills(row_named(self.row), self.tested, self.searched_on, seeds, found.storage)
        return Missing(what, fills)


def _grid(title: str, found: Gathered, entries: Iterable[Entry], columns: Sequence[Column]) -> Grid:
    heads = ["row"]
    for head, _, theirs in columns:
        heads += [head, f"the paper's {head.partition(',')[0]}"] if theirs else [head]
    rows: list[list[Cell]] = []
    for entry in entries:
        lines: Sequence[Line | None] = entry.lines(found) or [None]
        for line in lines:
            ours = [cell(line) for _, cell, _ in columns] if line else nothing(entry.status(found), len(columns))
            cells = [name(entry.title, line)]
            for (_, _, theirs), own in zip(columns, ours, strict=True):
                text = theirs(entry.published) if theirs and entry.published else ""
                cells += [own, Cell(text or NOTHING, look="paper")] if theirs else [own]
            rows.append([*cells, budget(line) if line else Cell(NOTHING, look="text")])
    return Grid(title, [*heads, "budget"], rows)


def _missing(found: Gathered, entries: Iterable[Entry], seeds: int = SEEDS) -> list[Missing]:
    return [one for entry in entries if (one := entry.missing(found, seeds))]


def _by_dataset(found: Gathered, table: Sequence[Published]) -> dict[str, list[Entry]]:
    """The rows of a table on each data set, CIFAR first; on one that is not the paper's, those that ran."""
    titles = {one.row: one.title for one in table if one.row}
    each = {data: [Entry.of(one) for one in table if one.dataset == data] for data in CIFAR}
    for data in found.datasets(titles):
        if not each.get(data):
            entries = [Entry(title, row, data, data) for row, title in titles.items()]
            each[data] = [entry for entry in entries if entry.lines(found)]
    return {data: entries for data, entries in each.items() if entries}


def table_2(found: Gathered) -> Sheet:
    each = _by_dataset(found, TABLE_2)
    columns = (ERROR, SCORE, PARAMETERS, COST)
    return Sheet(
        "table-2",
        "Table 2: CIFAR",
        (ERRORS, SCORES, f"{COSTS} Rows that are not made here are copied by the paper from the literature."),
        [_grid(title_of(data), found, entries, columns) for data, entries in each.items()],
        missing=_missing(found, (entry for data in CIFAR for entry in each[data])),
    )


def table_3(found: Gathered) -> Sheet:
    entries = [Entry.of(one) for one in TABLE_3]
    return Sheet(
        "table-3",
        "Table 3: ImageNet",
        ("Networks of cells found on CIFAR, and known networks, trained on ImageNet by the recipe imagenet.",),
        [_grid("", found, entries, (ERROR, TOP5, PARAMETERS, COST))],
        missing=_missing(found, entries, 1),
    )


def table_4(found: Gathered) -> Sheet:
    each = _by_dataset(found, TABLE_4)
    return Sheet(
        "table-4",
        "Table 4: by GAN",
        ("DASGM+DARTS with another GAN. The paper's figures are of one run each, on CIFAR-100.",),
        [_grid(title_of(data), found, entries, (ERROR, SCORE, PARAMETERS, COST)) for data, entries in each.items()],
        missing=_missing(found, each["cifar100"], 1),
    )


# ------------------------------------------------------------------------------------------------ comparisons


@dataclass(frozen=True)
class Match:
    """A row and the one with which it is compared, on a data set; without lines where they cannot be compared."""

    titles: tuple[str, str]
    dataset: str
    lines: tuple[Line, Line] | None = None
    papers: str = NOTHING
    """The paper's p."""
    why: str = ""
    """Why there are no lines."""


def _matches(found: Gathered, pairs: Iterable[tuple[PaperRow, PaperRow]], score: bool) -> list[Match]:
    """On CIFAR, and on other data sets where both ran.

    Args:
        score: whether the short trainings are compared, not the test errors.
    """
    made = []
    for one, other in pairs:
        for data in found.datasets((one.key, other.key)):
            place = CIFAR.index(data) if data in CIFAR else None
            ps = TABLE_6.get((one.key, other.key))
            titles, p = (one.title, other.title), ps[place] if ps and place is not None else NOTHING
            lines = _alike(found.of(one.key, data), found.of(other.key, data), score)
            if lines:
                made += [Match(titles, data, each, p) for each in lines]
            elif place is not None:
                both = found.of(one.key, data) and found.of(other.key, data)
                why = (
                    "not at one budget, or not trained" if both else "not run" + " (no data)" * (data not in found.seen)
                )
                made.append(Match(titles, data, None, p, why))
    return made


def _alike(ours: Sequence[Line], theirs: Sequence[Line], score: bool) -> list[tuple[Line, Line]]:
    """The pairs of lines that can be compared: at one budget, and measured."""

    ones, others = ([line for line in lines if _values(line, score).values] for lines in (ours, theirs))
    both = ((one, other) for one in ones for other in others)
    pairs = {budgets(one, score): (one, other) for one, other in both if budgets(one, score) == budgets(other, score)}
    return list(pairs.values())


def budgets(line: Line, score: bool = False) -> tuple[object, ...]:
    """What two lines must have in common to be compared.

    Args:
        score: whether their short trainings are compared, not their test errors.
    """
    own = line.search.without_gan if line.search else ()
    return (own, line.scored) if score else (own, line.training)


def _values(line: Line, score: bool) -> Row:
    return line.score if score else line.trained_to("result/error")


def _compared(title: str, matches: Sequence[Match], score: bool, with_paper: bool) -> Grid:
    """A comparison a row; Holm's p is adjusted for those of this grid."""
    made = [match.lines for match in matches if match.lines]
    tests = iter(comparisons([(_values(a, score).values, _values(b, score).values) for a, b in made]))
    heads = ["row", "data set", "its error, %", "against", "its error, %", "difference (95 %)", "g", "p", "Holm's p"]
    heads += ["the paper's p"] if with_paper else []
    rows = []
    for match in matches:
        first, second = (Cell(one, look="text") for one in match.titles)
        data = Cell(title_of(match.dataset), look="text")
        paper = [Cell(match.papers, look="paper")] if with_paper else []
        if match.lines is None:
            gone = Cell(NOTHING, look="off")
            row = [first, data, Cell(match.why, look="off"), second, *[gone] * 5, *paper, gone._replace(look="text")]
        else:
            one, other = (scored(line) if score else trained(line) for line in match.lines)
            row = [first, data, one, second, other, *_tested(next(tests)), *paper, budget(match.lines[0])]
        rows.append(row)
    return Grid(title, [*heads, "budget"], rows)


def _tested(test: Comparison) -> list[Cell]:
    """Difference, effect, p and Holm's p."""

    def written(value: float, form: str) -> str:
        return NOTHING if math.isnan(value) else format(value, form)

    interval = "" if math.isnan(test.low) else f"{100 * test.low:+.2f} to {100 * test.high:+.2f}"
    few = "" if not math.isnan(test.p) else "cannot be tested"
    return [
        Cell(written(100 * test.difference, "+.2f"), interval),
        Cell(written(test.effect, "+.2f")),
        p_value(test.p)._replace(under=few),
        p_value(test.holm),
    ]


def p_value(p: float) -> Cell:
    """To the digits of the paper's Table 6; of a smaller one that it is smaller."""
    return Cell(NOTHING if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}")


def _comparison(found: Gathered, key: str, title: str, note: str, pairs: Sequence[tuple[PaperRow, PaperRow]]) -> Sheet:
    """Test errors, and where there are any, errors of the short training."""
    with_paper = key == "table-6"
    grids = [_compared("Test errors", _matches(found, pairs, False), False, with_paper)]
    scores = [match for match in _matches(found, pairs, True) if match.lines]
    if scores:
        grids.append(_compared("Errors of the short training", scores, True, False))
    rows = {row.key: row for pair in pairs for row in pair if row.changes}
    missing = _missing(found, (Entry(row.title, row.key, data, data) for row in rows.values() for data in CIFAR))
    return Sheet(key, title, (note, TESTED, ROWS_OF_TABLE_2), grids, missing=missing)


def table_6(found: Gathered) -> Sheet:
    rows = {row.key: row for row in paper_rows()}
    pairs = [(rows[one], rows[other]) for one, other in TABLE_6]
    return _comparison(
        found, "table-6", "Table 6: significance", "Each baseline against the same search with DASGM.", pairs
    )


def ablations(found: Gathered) -> Sheet:
    note = (
        "The paper says without figures that first-order searches become worse where the discriminator's architecture "
        "B is searched too (Section 3), and searches B in second order (Section 4)."
    )
    return _comparison(found, "ablations", "What the paper claims in words", note, ABLATIONS)


def differences(found: Gathered) -> Sheet:
    """All settings in which the lines differ from the paper's protocol."""
    rows = []
    for line in found.lines:
        parts = [("search", line.search), ("training", line.training)]
        for what, of in ((what, of) for what, of in parts if of is not None and not of.papers):
            title = line.row if line.row.startswith(NETWORK) else row_named(line.row).title
            rows.append([name(title), Cell(title_of(line.tested), what, "text"), Cell(of.whole, look="text")])
    note = "Each setting, its value here, and in brackets that of the protocol: the preset's, or the recipe's."
    grids = [Grid("", ("row", "data set", "what differs"), rows)] if rows else []
    notes = (note,) if rows else ("Nothing ran at another budget.",)
    return Sheet("budgets", "What differs from the paper's protocol", notes, grids)
