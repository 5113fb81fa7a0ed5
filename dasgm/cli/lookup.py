"""`dasgm lookup`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dasgm.cli.arguments import Parser
from dasgm.store.files import printable


def lookup(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="dasgm lookup",
        description="Say how accurate a cell of NAS-Bench-201 truly is: its accuracy after whole trainings on "
        "CIFAR-10, CIFAR-100 and ImageNet16-120, its rank among all 15,625 cells (1 is the best; cells that tie share "
        "a rank), and its regret, the distance from the best cell. dasgm has no such table: --truth names yours.",
    )
    parser.add_argument(
        "genotype",
        help="Cell to look up: its string, '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|', the folder of a run, or a file with "
        "a genotype.",
    )
    parser.add_argument(
        "--truth",
        required=True,
        metavar="FILE",
        help="Parquet or CSV file with the accuracies of all cells in percent, and the columns architecture, cifar10, "
        "cifar100 and imagenet16_120, or the column names of nats_bench.csv (github.com/v-tao/nats-bench-landscape).",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="Print one JSON object instead of a table. Accuracies and regrets are from 0 to 1.",
    )
    asked = parser.parse_args(list(argv))
    import json

    from dasgm.genotype import Genotype
    from dasgm.measures.truth import Truth

    genotype = Genotype.load(asked.genotype)
    truth = Truth.load(asked.truth, genotype.space)
    found = truth.of(genotype)
    if asked.json:
        print(json.dumps({"architecture": str(genotype)} | found))
        return 0
    from rich.console import Console

    print(printable(str(genotype)))
    Console(highlight=False, markup=False).print(_table(truth, found))
    return 0


def _table(truth: Any, found: dict[str, float]) -> Any:
    """A data set a row, in %."""
    from rich.table import Column, Table

    from dasgm.measures.truth import DATASETS

    numbers = ("accuracy, %", f"rank of {len(truth.cells):,}", "regret, %", "best, %")
    table = Table("data set", *(Column(name, justify="right") for name in numbers))
    for name, title in DATASETS.items():
        accuracy, regret, best = (
            f"{100 * one:.2f}" for one in (found[name], found[f"regret_{name}"], truth.best(name))
        )
        table.add_row(title, accuracy, f"{found[f'rank_{name}']:,}", regret, best)
    return table
