"""`dasgm compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dasgm.cli.arguments import Parser
from dasgm.store.files import printable

if TYPE_CHECKING:
    from dasgm.pages.comparison import Comparison


def compare(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm compare",
        description="Compare trained networks on the same test pictures: accuracy with its 95 % interval (Wilson's), "
        "parameters, multiply-adds, and for each run McNemar's test against the first one, the baseline, with Holm's "
        "correction for several. For several seeds of each network see cluster/evaluate.py, which compares means.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="Folders of finished evaluations on one data set, the baseline first.",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of a table: baseline, runs and notes. Accuracies are from 0 to 1.",
    )
    asked = parser.parse_args(list(argv))
    import json

    from dasgm.pages.comparison import compare

    found = compare(asked.runs)
    if asked.json:
        print(json.dumps(found.as_json()))
        return 0
    show(found)
    return 0


def show(found: Comparison) -> None:
    """Print the table and what is said below it."""
    from rich.console import Console
    from rich.table import Column, Table

    head, *rows = found.cells()
    table = Table(head[0], *(Column(name, justify="right") for name in head[1:]))
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # of a pipe nobody knows it
    console.print(table)
    for line in found.below():
        print(printable(line))
