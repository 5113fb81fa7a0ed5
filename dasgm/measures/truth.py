"""The table of true accuracies of a search space: what each of its cells comes to after whole trainings.

The user has the table; nothing that searches reads it. Free of torch.
"""

from __future__ import annotations

import csv
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.store.files import LARGEST, contents, printable, reason, short

if TYPE_CHECKING:
    from dasgm.genotype import Genotype
    from dasgm.spaces._base import SearchSpace

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet16_120": "ImageNet16-120"}
CELL = "architecture"
PUBLISHED = {
    CELL: "ArchitectureString",
    "cifar10": "CIFAR10TestAccuracy200Epochs",
    "cifar100": "CIFAR100TestAccuracy200Epochs",
    "imagenet16_120": "ImageNetTestAccuracy200Epochs",
}
"""The same columns in nats_bench.csv of the public repository v-tao/nats-bench-landscape."""
DIGITS = 4
"""Accuracies are rounded to so many digits of a percent. An image of the test sets is 0.001 % or more, and in published
means equal accuracies differ by up to 2e-7 % (rounding in float32)."""


@dataclass(frozen=True)
class Truth:
    """The accuracies of all cells of a space on three data sets, in %."""

    path: Path
    sha256: str
    """Of the file."""
    cells: dict[str, tuple[float, ...]]
    """Of each cell the accuracies, in the order of `DATASETS`."""
    ascending: tuple[tuple[float, ...], ...]
    """Of each data set the accuracies of all cells."""

    @classmethod
    def load(cls, path: str | Path, space: SearchSpace) -> Truth:
        """Reads a table with the columns `architecture, cifar10, cifar100, imagenet16_120`, or with the names that they
        have in nats_bench.csv (`PUBLISHED`); other columns are ignored. Accuracies are in %.

        Args:
            path: a Parquet or a CSV file, whatever its name ends in.
            space: that of the cells.

        Raises:
            ValueError: the file cannot be read, or it is not such a table: a column is missing, a cell is unknown, is
                there twice or not at all, or an accuracy is not from 0 to 100. One line names the file and the value.
                Or there is no such table for this space.
        """
        path, everything = Path(path), dict.fromkeys(space.architectures())
        try:
            content = contents(path)
            rows = _parquet(content) if content.startswith(b"PAR1") else _csv(content)
            cells = _checked(rows, everything, space)
        except (OSError, ValueError) as error:
            why = error.strerror or error if isinstance(error, OSError) else error
            raise ValueError(f"truth {printable(str(path))}: {why}") from None
        columns = zip(*cells.values(), strict=True)
        return cls(path, hashlib.sha256(content).hexdigest(), cells, tuple(tuple(sorted(one)) for one in columns))

    def of(self, genotype: Genotype) -> dict[str, float]:
        """What is true of a genotype of the space, for each data set NAME of `DATASETS`:

        NAME            accuracy, from 0 to 1
        rank_NAME       1 + the number of cells that are more accurate, so cells that tie share the better rank
        regret_NAME     how much less accurate than the best cell it is, from 0 to 1
        """
        found: dict[str, float] = {}
        for name, accuracy, ascending in zip(DATASETS, self.cells[str(genotype)], self.ascending, strict=True):
            found[name] = round(accuracy / 100, 2 + DIGITS)
            found[f"rank_{name}"] = 1 + len(ascending) - bisect_right(ascending, accuracy)
            found[f"regret_{name}"] = round((ascending[-1] - accuracy) / 100, 2 + DIGITS)
        return found

    def best(self, name: str) -> float:
        """The accuracy of the best cell on a data set, from 0 to 1."""
        return round(self.ascending[list(DATASETS).index(name)][-1] / 100, 2 + DIGITS)

    def __str__(self) -> str:
        return f"{printable(self.path.name)} (sha256 {self.sha256[:8]}), {len(self.cells):,} cells"


Row = tuple[str, Any, Sequence[Any]]
"""Where it stands, the cell, and its accuracies in the order of `DATASETS`."""


def _checked(rows: Iterator[Row], everything: Mapping[str, Any], space: SearchSpace) -> dict[str, tuple[float, ...]]:
    """The accuracies of each cell, by its canonical string. ValueError: see `Truth.load`."""
    found: dict[str, tuple[float, ...]] = {}
    seen: dict[str, str] = {}
    for where, cell, values in rows:
        try:
            name = cell if isinstance(cell, str) and cell in everything else space.canonical(str(cell))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if name in seen:
            raise ValueError(f"{where}: the cell {name} is there twice, first in {seen[name]}; remove one of them")
        seen[name] = where
        found[name] = tuple(
            _accuracy(value, f"{where}, {column}") for column, value in zip(DATASETS, values, strict=True)
        )
    if missing := [cell for cell in everything if cell not in found]:
        raise ValueError(f"{len(found):,} cells, expected all {len(everything):,}; without, for example, {missing[0]}")
    for column, values in zip(DATASETS, zip(*found.values(), strict=True), strict=True):
        if max(values) <= 1:
            raise ValueError(f"{column}: no accuracy is above {max(values):g}; expected %, so multiply them by 100")
    return found


def _accuracy(value: Any, where: str) -> float:
    """A number from 0 to 100, rounded."""
    number = float("nan")
    if not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            number = float(value)
    if not 0 <= number <= 100:
        raise ValueError(f"{where}: {short(value)} is no accuracy; expected a number from 0 to 100, in %")
    return round(number, DIGITS)


def _columns(names: Sequence[str]) -> list[str]:
    """Of the columns that a file has, those that are read: the cell, then the data sets."""
    found = []
    for ours, published in PUBLISHED.items():
        there = [name for name in names if name in (ours, published)]
        if not there:
            raise ValueError(
                f"no column {ours!r} (or, as published, {published!r}), only {short(list(names), 200)}; rename the "
                "right one"
            )
        if len(there) > 1:
            raise ValueError(f"the columns {' and '.join(map(repr, there))} are the same; remove one")
        found += there
    return found


def _csv(content: bytes) -> Iterator[Row]:
    try:
        lines = csv.reader(StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = [name.strip() for name in next(lines, [])]
        places = [header.index(name) for name in _columns(header)]
        for values in lines:
            if not values:
                continue
            where = f"line {lines.line_num}"
            if len(values) != len(header):
                raise ValueError(f"{where}: {len(values)} values, expected {len(header)} as in the first line")
            cell, *accuracies = (values[place] for place in places)
            yield where, cell, accuracies
    except UnicodeDecodeError:
        raise ValueError("neither Parquet nor CSV: it is not a text file") from None
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: {error}") from None


def _parquet(content: bytes) -> Iterator[Row]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        file = pq.ParquetFile(BytesIO(content))
        declared = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        columns = _columns(file.schema_arrow.names)
        if declared > LARGEST or file.metadata.num_rows > LARGEST:
            raise ValueError(f"it declares {file.metadata.num_rows:,} rows of {declared:,} bytes, which no table has")
        table = file.read(columns=columns)
        cell, *accuracies = (table[name].to_pylist() for name in columns)
    except (ArrowException, OSError) as error:
        raise ValueError(f"this Parquet file cannot be read ({reason(error)}); copy it again") from None
    for number, (one, *values) in enumerate(zip(cell, *accuracies, strict=True), start=1):
        yield f"row {number}", one, values
