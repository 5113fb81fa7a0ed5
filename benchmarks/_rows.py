"""What a benchmark gives: rows of figures. And the words a user may say about their size."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Options:
    """What the words on the command line ask for. The defaults are the paper's sizes."""

    cells: int = 8
    channels: int = 16
    batches: tuple[int, ...] = (8, 64)
    seconds: float = 60.0
    """For how long a row is measured; at least three times in any case."""
    data_dir: str | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: what is measured, in words.
        unit: of the figures; "" for a ratio or a count.
        values: all measured values. Empty: not measured.
        goal: what was to be reached, in words.
        note: how it was measured, or why not.
    """

    what: str
    unit: str = ""
    values: tuple[float, ...] = ()
    goal: str = ""
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """None where the values do not differ."""
        if len(set(self.values)) < 2:
            return None
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def figure(self) -> str:
        if self.median is None:
            return NOT_MEASURED
        return f"{number(self.median)} {self.unit}".strip()

    def spread(self) -> str:
        if self.quartiles is None:
            return ""
        low, high = map(number, self.quartiles)
        return f"{low} to {high}, {len(self.values)} times"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"values": list(self.values), "median": self.median, "quartiles": self.quartiles}


def measured(what: str, *values: float, unit: str = "", goal: str = "", note: str = "") -> Row:
    return Row(what, unit, values, goal, note)


def missing(what: str, why: str, goal: str = "") -> Row:
    return Row(what, goal=goal, note=why)


def number(value: float) -> str:
    """Three significant digits, and whole numbers as they are."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """As Markdown."""
    lines = ["| what | measured | quartiles | goal | how |", "|---|---|---|---|---|"]
    lines += [f"| {r.what} | {r.figure()} | {r.spread()} | {r.goal} | {r.note} |" for r in rows]
    return "\n".join(line.replace("|  ", "| ") for line in lines)
