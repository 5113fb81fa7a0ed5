"""Table 5 and Figures 3, 4 and 5 of the paper, from the lines of a storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from dasgm.pages import commands
from dasgm.pages.classified import compared as pictures_against
from dasgm.pages.comparison import Compared, compare
from dasgm.pages.gather import Gathered, Line, seed_of
from dasgm.pages.paper_tables import budget, budgets, p_value, row_named, title_of
from dasgm.pages.pictures import PICTURE_BYTES, embedded
from dasgm.pages.report import cells
from dasgm.pages.sheets import NOTHING, Cell, Figure, Grid, Missing, Sheet
from dasgm.pages.tables import holm
from dasgm.pages.view import Json, RunView
from dasgm.presets.published import FIGURE_3, FIGURE_5, TABLE_5
from dasgm.store.files import first_line

ROW = "dasgm-darts"  # of Table 5 and Figure 4, on CIFAR-100
GRIDS = 6  # of generated images, each of at most so many bytes
GRID_BYTES = 120_000
NO_FID = "no Inception weights (--inception-weights FILE)"
NO_IS = "not measured, no logits"


def lines_of(found: Gathered, row: str) -> list[Line]:
    """The lines of a row with searches: those on CIFAR-100 first, which the paper shows, then at the paper's size."""
    datasets = found.datasets([row])
    order = ["cifar100", *(data for data in datasets if data != "cifar100")]
    each = [line for data in order for line in found.of(row, data) if line.searches]
    return [line for i, line in enumerate(each) if line.searches not in [one.searches for one in each[:i]]]


def _where(run: RunView, line: Line) -> str:
    """Which run is shown, and at which budget."""
    size = "the paper's budget" if line.search and line.search.papers else "not the paper's budget"
    brief = line.search.brief if line.search and not line.search.papers else ""
    return ", ".join(filter(None, (title_of(line.searched_on), f"seed {seed_of(run)}", f"{run.title}: {size}", brief)))


def _searches(found: Gathered, row: str, seeds: int = 1) -> Missing:
    made = commands.searches(row_named(row), "cifar100", seeds, found.storage)
    return Missing(f"{row_named(row).title} on CIFAR-100", [made])


def _at_papers_size(line: Line) -> bool:
    return line.searched_on == "cifar100" and bool(line.search and line.search.papers and line.finished)


# ------------------------------------------------------------------------------------------------ Table 5


def table_5(found: Gathered) -> Sheet:
    shown = [(line, run) for line in lines_of(found, ROW) if (run := _measured(line))]
    notes = ["Distance of the generated images from the training set by epoch, of DASGM+DARTS. fd_proxy is not FID."]
    notes += [f"{title_of(line.searched_on)}: {words}" for line, run in shown for words in _protocols(run)]
    grids = [_distances(line, run) for line, run in shown]
    if not any(_at_papers_size(line) for line, _ in shown):
        grids.insert(0, _distances(None, None))
        return Sheet("table-5", "Table 5: FID and IS", notes, grids, missing=[_searches(found, ROW)])
    return Sheet("table-5", "Table 5: FID and IS", notes, grids)


def _measured(line: Line) -> RunView | None:
    """The first search whose images were measured."""
    keys = ("gan/fid", "gan/fd_proxy")
    return next((run for run in line.searches if any(run.last(key) is not None for key in keys)), None)


def _protocols(run: RunView) -> list[str]:
    return [words for key in ("gan/fid", "gan/is", "gan/fd_proxy") if (words := run.protocol(key))]


def _distances(line: Line | None, run: RunView | None) -> Grid:
    """Of one search; of none: what the paper has."""
    heads = ("epoch", "FID", "the paper's FID", "IS", "the paper's IS", "fd_proxy (not FID)")
    if line is None or run is None:
        gone = Cell("not run", look="off")
        each = [
            [Cell(str(epoch)), gone, Cell(fid, look="paper"), gone, Cell(score, look="paper"), gone]
            for epoch, (fid, score) in TABLE_5.items()
        ]
        return Grid("CIFAR-100, at the paper's budget", heads, each)
    fid, score, proxy = (dict(run.curve(f"gan/{key}")) for key in ("fid", "is", "fd_proxy"))
    epochs = sorted({*fid, *proxy})
    epochs = [epoch for epoch in epochs if epoch % 10 == 0] if len(epochs) > len(TABLE_5) * 2 else epochs
    rows = []
    for epoch in epochs:
        paper = TABLE_5.get(int(epoch), ("", "")) if _at_papers_size(line) else ("", "")
        without = Cell(NO_IS, look="off") if epoch in fid else Cell("not measured", look="off")
        ours = Cell(f"{fid[epoch]:.2f}") if epoch in fid else Cell("not measured", NO_FID, "off")
        theirs = [Cell(value or NOTHING, look="paper") for value in paper]
        is_ = Cell(f"{score[epoch]:.2f}") if epoch in score else without
        near = Cell(f"{proxy[epoch]:.2f}") if epoch in proxy else Cell(NOTHING, look="off")
        rows.append([Cell(f"{epoch:g}"), ours, theirs[0], is_, theirs[1], near])
    return Grid(_where(run, line), heads, rows)


# ------------------------------------------------------------------------------------------------ Figures 3 and 4


def figure_3(found: Gathered) -> Sheet:
    figures, missing = [], []
    for letter, row in FIGURE_3.items():
        title = f"({letter}) {row_named(row).title}"
        lines = lines_of(found, row)
        shown = next(((line, run) for line in lines for run in line.finished if run.genotype), None)
        if shown:
            line, run = shown
            drawn = next((svg for _, svg in cells(run)), None)  # the normal one comes first
            figures.append(Figure(title, _where(run, line), drawn or Markup(), text=str(run.genotype)))
        else:
            figures.append(Figure(title, "not run"))
        if not any(_at_papers_size(line) for line in lines):
            missing.append(_searches(found, row))
    note = "Normal cells. The paper's text says that they were found on CIFAR-10, its caption says CIFAR-100."
    return Sheet("figure-3", "Figure 3: cells", (note,), figures=figures, missing=missing)


def painter_candidates(found: Gathered) -> list[tuple[Line, RunView]]:
    """The searches of which Figure 4 shows the first that has images."""
    return [(line, run) for line in lines_of(found, ROW) for run in line.searches]


def figure_4(found: Gathered) -> Sheet:
    note = "Images of the generator by epoch, a class a row, and beside the last ones the training images of the same "
    note += "class that are nearest in pixels (at the same place, right)."
    figures = []
    if shown := next((one for one in painter_candidates(found) if one[1].samples()), None):
        line, run = shown
        grids = _evenly(sorted(run.folder.glob("pictures/samples-*.png")))
        for paths, most, title in ((grids, GRID_BYTES, "{}"), (run.nearest(), PICTURE_BYTES, "{}, and the nearest")):
            for picture in filter(None, (embedded(path, most) for path in paths)):
                epoch = "before the first step" if picture["epoch"] == "0" else f"epoch {picture['epoch']}"
                figures.append(Figure(title.format(epoch), _where(run, line), pictures=[picture]))
    missing = [] if any(map(_at_papers_size, lines_of(found, ROW))) else [_searches(found, ROW)]
    return Sheet("figure-4", "Figure 4: generated images", (note,), figures=figures, missing=missing)


def _evenly(paths: Sequence[Path]) -> list[Path]:
    """At most GRIDS of them, the first and the last included."""
    if len(paths) <= GRIDS:
        return list(paths)
    return [paths[round(i * (len(paths) - 1) / (GRIDS - 1))] for i in range(GRIDS)]


# ------------------------------------------------------------------------------------------------ Figure 5


class Opponents(NamedTuple):
    """Trainings of networks that DASGM+DARTS and DARTS found, on one data set at one budget and with one seed."""

    line: Line
    """Of the first."""
    seed: int
    """Of both searches."""
    ours: RunView
    theirs: RunView


def opponents(found: Gathered) -> list[Opponents]:
    """Those on CIFAR-100 come first, and of these those at the paper's size."""
    datasets = ["cifar100", *(data for data in found.datasets(FIGURE_5) if data != "cifar100")]
    rows = ((found.of(FIGURE_5[0], data), found.of(FIGURE_5[1], data)) for data in datasets)
    pairs = [
        (one, other) for ones, others in rows for one in ones for other in others if budgets(one) == budgets(other)
    ]
    return [
        Opponents(one, seeds[0], run, other.by_seed[seeds])
        for one, other in pairs
        for seeds, run in one.by_seed.items()
        if seeds in other.by_seed
    ]


def figure_5(found: Gathered, why: str = "") -> Sheet:
    """`why`: what kept the pictures of the first pair from being made."""
    titles = [row_named(row).title for row in FIGURE_5]
    notes = [f"Test pictures that {titles[1]} gets wrong and {titles[0]} right, and conversely."]
    notes.append("p is of McNemar's two-sided mid-p test on the same pictures, Holm's p is adjusted for the pairs.")
    counted = []
    for pair in opponents(found):
        try:
            counted.append((pair, compare([pair.theirs.folder, pair.ours.folder]).rows[1]))
        except ValueError as error:
            names = f"{pair.ours.title} and {pair.theirs.title}"
            notes.append(f"{names} are not compared: {first_line(error)}")
    figures = _galleries(*counted[0], titles) if counted else []
    if counted and not figures:
        notes.append(f"The pictures are not here{f': {why}' if why else ''}.")
    full = any(pair.line.papers and pair.line.tested == "cifar100" for pair, _ in counted)
    made = [] if full else [_trainings(found, row) for row in FIGURE_5]
    grids = [_counts(counted, titles)] if counted else []
    return Sheet("figure-5", "Figure 5: what only one gets right", notes, grids, figures, made)


def _trainings(found: Gathered, row: str) -> Missing:
    made = commands.fills(row_named(row), "cifar100", seeds=1, storage=found.storage)
    return Missing(f"{row_named(row).title} on CIFAR-100", made)


def _counts(counted: Sequence[tuple[Opponents, Compared]], titles: Sequence[str]) -> Grid:
    heads = ("data set", "seed", f"only {titles[0]} right", f"only {titles[1]} right", "test pictures", "p", "Holm's p")
    adjusted = holm([row.p or 0.0 for _, row in counted])
    rows = []
    for (pair, row), p in zip(counted, adjusted, strict=True):
        where = Cell(title_of(pair.line.tested), "" if pair.line.papers else "not the paper's budget", "text")
        numbers = [Cell(f"{n:,}") for n in (row.won or 0, row.lost or 0, row.pictures)]
        rows.append([where, Cell(str(pair.seed)), *numbers, p_value(row.p or 0.0), p_value(p), budget(pair.line)])
    return Grid("", (*heads, "budget"), rows)


def shown_already(pair: Opponents) -> bool:
    """Whether the pictures that only one of both gets right are in the folder of the first."""
    try:
        return bool(_pictures(pair, compare([pair.theirs.folder, pair.ours.folder]).rows[1]))
    except ValueError:
        return False


def _pictures(pair: Opponents, row: Compared) -> Json:
    """What `dasgm report OURS --against THEIRS` keeps; {} if that is of another comparison."""
    found = pictures_against(pair.ours.folder)
    wanted = [pair.theirs.folder.name, row.won, row.lost]
    return found if [found.get(key) for key in ("other", "only_this", "only_other")] == wanted else {}


def _galleries(pair: Opponents, row: Compared, titles: Sequence[str]) -> list[Figure]:
    """[] where the pictures are not there."""
    if not (found := _pictures(pair, row)):
        return []
    right, wrong = titles
    return [
        Figure(f"{right} right, {wrong} wrong", f"below each: what {wrong} says", pictures=found["won"]),
        Figure(f"{wrong} right, {right} wrong", f"below each: what {right} says", pictures=found["lost"]),
    ]
