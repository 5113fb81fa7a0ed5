"""Tables of true accuracies for tests: all 15,625 cells of NAS-Bench-201, with accuracies by formulas."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CELLS = 5**6
OURS = ("architecture", "cifar10", "cifar100", "imagenet16_120")
PUBLISHED = (  # the first line of nats_bench.csv in v-tao/nats-bench-landscape
    "CIFAR10TestAccuracy200Epochs",
    "CIFAR100TestAccuracy200Epochs",
    "ImageNetTestAccuracy200Epochs",
    "ArchitectureString",
    "UniqueString",
)


def digits(place: int) -> list[int]:
    """Of a cell's place in base 5: the operations of the edges 0-1, 0-2, 1-2, 0-3, 1-3 and 2-3."""
    return [place // 5**power % 5 for power in range(5, -1, -1)]


def string(place: int) -> str:
    a, b, c, d, e, f = (OPERATIONS[digit] for digit in digits(place))
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def place_of(cell: str) -> int:
    names = [edge.split("~")[0] for node in cell.split("+") for edge in node.strip("|").split("|")]
    return sum(OPERATIONS.index(name) * 5**power for name, power in zip(names, range(5, -1, -1), strict=True))


def accuracies(place: int) -> tuple[float, float, float]:
    """In %: with many ties, rising without ties, and falling."""
    return 10 + 3 * sum(digits(place)), 1 + 0.004 * place, 63.5 - 0.004 * place


def rows() -> list[dict[str, Any]]:
    """A table, a cell a row, in the order of their places; to be changed by who asked for it."""
    return list(map(dict, _rows()))


@cache
def _rows() -> list[list[tuple[str, Any]]]:
    cells = ((string(place), *accuracies(place)) for place in range(CELLS))
    return [list(zip(OURS, cell, strict=True)) for cell in cells]


def write_csv(path: Path, found: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, found[0].keys())
        table.writeheader()
        table.writerows(found)
    return path


def write_published(path: Path, found: list[dict[str, Any]]) -> Path:
    """With the columns of nats_bench.csv, in its order."""
    names = dict(zip(PUBLISHED, ("cifar10", "cifar100", "imagenet16_120", "architecture"), strict=False))
    return write_csv(path, [{name: row[ours] for name, ours in names.items()} | {PUBLISHED[-1]: "#"} for row in found])


def write_parquet(path: Path, found: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(found), path)
    return path
