"""Trained networks on the same test pictures, side by side: intervals, McNemar's test, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dasgm.measures.answers import Answers, answers, ensure_same_pictures, only_right
from dasgm.measures.intervals import wilson
from dasgm.pages.tables import holm, mcnemar
from dasgm.pages.view import RunView, read_run
from dasgm.store.files import printable, short
from dasgm.store.records import PLAN, read_json
from dasgm.store.replica import here

SURE = 0.05  # largest p at which a network is called better or worse
OF_NETWORKS = ("genotype", "network", "form", "cells", "channels", "auxiliary", "drop_path", "seed")
"""Settings that may differ: they say which network it is, or are of its own kind."""


@dataclass(frozen=True)
class Duel:
    """Two networks on the same test pictures."""

    won: int
    """Number of pictures that the one gets right and the other does not."""
    lost: int
    """The other way round."""
    p: float
    """Of McNemar's test (`mcnemar`): that `won` and `lost` differ by chance."""


def duel(one: Answers, other: Answers) -> Duel:
    """Compare the answers of two networks on the same pictures (`ensure_same_pictures`)."""
    won, lost = len(only_right(one, other)), len(only_right(other, one))
    return Duel(won, lost, mcnemar(won, lost))


@dataclass(frozen=True)
class Compared:
    """A run, and how it compares with the baseline."""

    name: str
    right: int
    pictures: int
    low: float
    """Of the 95 % interval of its accuracy (Wilson's)."""
    high: float
    parameters: int | None
    multiply_adds: int | None
    won: int | None = None
    """See `Duel`, here with the baseline; None: it is the baseline."""
    lost: int | None = None
    p: float | None = None
    holm: float | None = None
    """p adjusted for the number of comparisons."""

    @property
    def accuracy(self) -> float:
        return self.right / self.pictures

    @property
    def verdict(self) -> str:
        """Whether it is better than the baseline, by `holm`; of the baseline itself ''."""
        if self.holm is None:
            return ""
        return "not told apart" if self.holm >= SURE else "better" if (self.won or 0) > (self.lost or 0) else "worse"


@dataclass(frozen=True)
class Comparison:
    """Runs on the same test pictures; the first one is the baseline."""

    rows: tuple[Compared, ...]
    notes: tuple[str, ...]
    """What else differs between the runs."""

    def as_json(self) -> dict[str, Any]:
        """Accuracies are from 0 to 1."""
        rows = [vars(row) | {"accuracy": row.accuracy} for row in self.rows]
        return {"baseline": self.rows[0].name, "runs": rows, "notes": list(self.notes)}

    def cells(self) -> list[tuple[str, ...]]:
        """The table's rows, the first one its head."""
        head = ("run", "accuracy, % (95 %)", "parameters", "multiply-adds", "only it right")
        found: list[tuple[str, ...]] = [(*head, "only the baseline right", "p", "Holm's p")]
        for row in self.rows:
            share = f"{100 * row.accuracy:.2f} ({100 * row.low:.2f} to {100 * row.high:.2f})"
            counts = (row.parameters, row.multiply_adds, row.won, row.lost)
            whole = ("-" if n is None else f"{n:,}" for n in counts)
            tests = ("-" if p is None else f"{p:.3g}" for p in (row.p, row.holm))
            found.append((row.name, share, *whole, *tests))
        return found

    def below(self) -> list[str]:
        """What is said below the table."""
        base, n = self.rows[0], len(self.rows) - 1
        said = (
            f"{base.pictures:,} test pictures; the baseline is {base.name}. p is that of McNemar's two-sided mid-p test"
        )
        several = f", and Holm's p is adjusted for {n} comparisons" if n > 1 else ""
        return [f"{said} on the same pictures{several}. The intervals are Wilson's.", *self.notes]

    def markdown(self) -> str:
        head, *rows = self.cells()
        lines = [head, ("---",) * len(head), *rows]
        table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return "\n\n".join([table, *self.below()]) + "\n"


def compare(folders: Sequence[str | Path]) -> Comparison:
    """Compare finished evaluations with the first of them.

    Args:
        folders: their folders, each with the predictions.csv of the run.

    Raises:
        ValueError: fewer than two, one that has no predictions, or ones that were measured on other pictures.
    """
    places = [here(folder) for folder in folders]
    if len(places) < 2:
        raise ValueError("name at least two runs: the first is the baseline of the others")
    if len({place.resolve() for place in places}) < len(places):
        raise ValueError("a run is named twice; name each one once")
    said = [answers(place) for place in places]
    base, *others = said
    for place, one in zip(places[1:], others, strict=True):
        ensure_same_pictures(places[0], base, place, one)
    runs = [read_run(place) for place in places]
    names = _names(places, runs)
    duels = [duel(one, base) for one in others]
    adjusted = holm([found.p for found in duels])
    tests = [{}, *(vars(found) | {"holm": p} for found, p in zip(duels, adjusted, strict=True))]
    rows = (_row(*each) for each in zip(names, said, runs, tests, strict=True))
    return Comparison(tuple(rows), tuple(_notes(names, runs)))


def of_fit(folder: Path) -> Comparison | None:
    """The comparison of the fit that a run is part of, the found network first; None before all are trained."""
    place = folder.resolve().parent
    known = sorted(place.glob("against-*"))
    if not known or not (place / PLAN).exists():
        return None
    try:
        return compare([place / "training", *known])
    except ValueError:
        return None


def _row(name: str, said: Answers, run: RunView, test: dict[str, Any]) -> Compared:
    right, pictures = sum(answer.right for answer in said.values()), len(said)
    low, high = map(float, wilson(right, pictures))
    sizes = [run.last(f"result/{name}") for name in ("parameters", "multiply_adds")]
    counts = [None if size is None else int(size) for size in sizes]
    return Compared(name, right, pictures, float(low), float(high), counts[0], counts[1], **test)


def _names(places: Sequence[Path], runs: Sequence[RunView]) -> list[str]:
    """By which the runs are called: their titles, or where two share one their folders."""
    titles = [run.title for run in runs]
    return titles if len(set(titles)) == len(titles) else [printable(str(place)) for place in places]


def _notes(names: Sequence[str], runs: Sequence[RunView]) -> list[str]:
    """In what the trainings differ besides the network."""
    settings = [run.info.get("mathematics") or {} for run in runs]
    notes = []
    for name, run, mine in zip(names, runs, settings, strict=True):
        odd = [key for key in {**settings[0], **mine} if settings[0].get(key) != mine.get(key)]
        odd = ["training or held-out images" if key == "data" else key for key in odd if key not in OF_NETWORKS]
        if odd:
            notes.append(f"{name} and {names[0]} were not trained alike; they differ in: {', '.join(odd)}")
        begun = read_json(run.folder / "model.json").get("weights")
        if isinstance(begun, dict):
            notes.append(f"{name} began from the weights of {short(begun.get('file'))}, not from random ones")
    return notes
