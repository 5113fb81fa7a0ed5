"""Labelled pictures in Parquet, Hugging Face's layout: a column {bytes, path} of encoded pictures, one of labels."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dasgm.data._images import stack
from dasgm.data._pictures import exact, read


def shards(folder: Path, part: str) -> list[Path]:
    """`train.parquet`, or `train-00000-of-00002.parquet` and so on, in `folder` or one below it; [] if there is none.

    Raises ValueError if a shard is missing.
    """
    for place in (folder, *sorted(child for child in folder.iterdir() if child.is_dir())):
        whole = place / f"{part}.parquet"
        if whole.is_file():
            return [whole]
        found = sorted(place.glob(f"{part}-*.parquet"))
        if found:
            totals = {int(m[1]) for path in found if (m := re.search(r"-of-(\d+)$", path.stem))}
            if totals and totals != {len(found)}:
                raise ValueError(f"{place} has {len(found)} of {max(totals)} shards {part}-*.parquet: add the others")
            return found
    return []


def load(
    paths: list[Path], labels: tuple[str, ...], classes: int, size: int, skip_unreadable: bool = False
) -> tuple[Tensor, Tensor, list[str]]:
    """Images uint8 [N, 3, size, size], labels int64 [N], notes. `labels`: names that the label column may have.

    Raises ValueError for a broken file, a missing column, a label out of range, an unreadable or wrongly sized picture.
    """
    tables = [_table(path, labels, classes) for path in paths]
    rows = [f"{path.name} row {row}" for path, (part, _) in zip(paths, tables, strict=True) for row in range(len(part))]
    pixels, readable, notes = read(
        [picture for pictures, _ in tables for picture in pictures],
        rows,
        partial(exact, size=size),
        skip_unreadable,
    )
    if not readable:
        raise ValueError(f"{paths[0]} has no picture that can be read: download it again")
    return stack(pixels, size), torch.cat([numbers for _, numbers in tables])[readable], notes


def _table(path: Path, labels: tuple[str, ...], classes: int) -> tuple[list[bytes | None], Tensor]:
    """Encoded pictures and labels of one file."""
    try:
        schema = pq.read_schema(path)
        picture, label = column(path, schema, ("img", "image")), column(path, schema, labels)
        table = pq.read_table(path, columns=[picture, label])
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is no whole Parquet file ({reason[:100]}): download it again") from None
    kind = schema.field(picture).type
    if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise ValueError(f"{path}: column '{picture}' is {kind}, not Hugging Face's {{bytes, path}}: convert it")
    encoded = pc.struct_field(table[picture], "bytes").to_pylist()
    return encoded, _labels(path, label, table[label], classes)


def column(path: Path | str, schema: pa.Schema, names: tuple[str, ...]) -> str:
    """Which of `names` the file has. Raises ValueError if none."""
    for name in names:
        if name in schema.names:
            return name
    raise ValueError(f"{path} has no column {' or '.join(map(repr, names))}, only {schema.names}: rename the right one")


def _labels(path: Path, name: str, column: pa.ChunkedArray, classes: int) -> Tensor:
    if not pa.types.is_integer(column.type):
        raise ValueError(f"{path}: column '{name}' is {column.type}, not whole numbers 0 to {classes - 1}: convert it")
    numbers = column.to_pylist()
    for row, number in enumerate(numbers):
        if number is None or not 0 <= number < classes:
            raise ValueError(f"{path} row {row}: {name} is {number}, not 0 to {classes - 1}: is it another data set?")
    return torch.tensor(numbers, dtype=torch.int64)
