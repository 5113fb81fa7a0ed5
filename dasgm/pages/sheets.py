"""The page of the paper's results as plain parts, which its HTML and its Markdown share. Free of jinja."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from markupsafe import Markup

from dasgm.pages.view import Json

Look = Literal["", "text", "paper", "off", "warn"]
NOTHING = "–"


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    under: str = ""
    """What qualifies it, in small letters."""
    look: Look = ""
    """text: words, not numbers; paper: the paper's own figure; off: there is nothing; warn: not the paper's budget."""


@dataclass(frozen=True)
class Grid:
    """A table."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Figure:
    """A drawing, or pictures beside each other."""

    title: str
    under: str = ""
    drawing: Markup = field(default_factory=Markup)
    pictures: Sequence[Json] = ()
    """As `embedded` gives them. Those of a gallery have `true`, `predicted`, `probability` and `picture` too."""
    text: str = ""
    """What Markdown has in its place."""


@dataclass(frozen=True)
class Missing:
    """What was not run, and the commands that make it."""

    what: str
    commands: Sequence[str]


@dataclass(frozen=True)
class Sheet:
    """A table or a figure of the paper."""

    key: str
    title: str
    notes: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    figures: Sequence[Figure] = ()
    missing: Sequence[Missing] = ()


def markdown(sheets: Sequence[Sheet], head: Sequence[str]) -> str:
    """The sheets as Markdown. Pictures are named and counted; they are in the page.

    Args:
        head: the lines above them, a paragraph each.
    """
    return "\n\n".join([*head, *(part for sheet in sheets for part in _sheet(sheet))]) + "\n"


def _sheet(sheet: Sheet) -> list[str]:
    parts = [f"## {sheet.title}", *sheet.notes]
    for grid in sheet.grids:
        parts += [f"### {grid.title}"] if grid.title else []
        parts.append(_grid(grid))
    for figure in sheet.figures:
        shown = f"{len(figure.pictures)} pictures, in paper.html" if figure.pictures else ""
        parts.append(": ".join(filter(None, (f"**{figure.title}**", figure.under))))
        parts += [f"`{figure.text}`"] if figure.text else [shown] if shown else []
    if sheet.missing:
        parts.append("Not run, and the commands that make it:")
        parts += [
            "\n".join([f"- {one.what}", "", *(f"      {command}" for command in one.commands)]) for one in sheet.missing
        ]
    return parts


def _grid(grid: Grid) -> str:
    lines = [_row(grid.heads), _row(["---"] * len(grid.heads))]
    lines += [_row([f"{cell.text} ({cell.under})" if cell.under else cell.text for cell in row]) for row in grid.rows]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
