"""Labelled pictures in Parquet, Hugging Face's layout: a column {bytes, path} of encoded pictures, one of labels."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dasgm.data._images import stack
from dasgm.data._pictures import exact, read
from dasgm.files import first_line

MOST_TIMES = 100  # what a file says that it holds, by its size: pictures are compressed already


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
        with open(path, "rb") as file, opened(file, path, path.stat().st_size) as parquet:
            schema = parquet.schema_arrow
            picture, label = picture_column(path, schema, ("img", "image")), column(path, schema, labels)
            table = columns_of(parquet, [f"{picture}.bytes", label])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole Parquet file ({first_line(error)[:100]}): download it again") from None
    return encoded(table[picture]), _labels(path, label, table[label], classes)


def opened(file: Any, name: object, size: int) -> pq.ParquetFile:
    """A Parquet file of `size` bytes, whose pictures are read as a dictionary: equal ones take memory once.

    Raises ValueError where it says that it holds far more than fits into it.
    """
    found = pq.read_metadata(file)
    columns = [found.schema.column(i).path for i in range(len(found.schema))]
    groups = [found.row_group(g) for g in range(found.num_row_groups)]
    rows, held = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    if not rows == found.num_rows <= size or held > MOST_TIMES * size:
        raise ValueError(f"{name} says that it holds {rows:,} rows of {held:,} bytes, in {size:,}: download it again")
    pictures = [path for path in ("img.bytes", "image.bytes") if path in columns]
    return pq.ParquetFile(file, metadata=found, read_dictionary=pictures)


def columns_of(parquet: pq.ParquetFile, names: list[str]) -> pa.Table:
    """In batches: pyarrow reads no long column of a dictionary within a struct at once."""
    batches = list(parquet.iter_batches(1000, columns=names))
    return pa.Table.from_batches(batches) if batches else parquet.read(columns=names)


def encoded(pictures: pa.ChunkedArray) -> list[bytes | None]:
    """Of each row the picture's bytes, of equal ones the same."""
    found: list[bytes | None] = []
    for chunk in pc.struct_field(pictures, "bytes").chunks:
        indices = chunk.indices.to_pylist()
        values = {i: chunk.dictionary[i].as_py() for i in set(indices) - {None}}
        found += map(values.get, indices)
    return found


def column(path: Path | str, schema: pa.Schema, names: tuple[str, ...]) -> str:
    """Which of `names` the file has. Raises ValueError if none."""
    for name in names:
        if name in schema.names:
            return name
    raise ValueError(f"{path} has no column {' or '.join(map(repr, names))}, only {schema.names}: rename the right one")


def picture_column(path: Path | str, schema: pa.Schema, names: tuple[str, ...]) -> str:
    """The same of pictures. Raises ValueError where it is not Hugging Face's."""
    name = column(path, schema, names)
    kind = schema.field(name).type
    inside = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else None
    if not (isinstance(inside, pa.DictionaryType) and inside.value_type in (pa.binary(), pa.large_binary())):
        raise ValueError(f"{path}: column '{name}' is {kind}, not Hugging Face's {{bytes, path}}: convert it")
    return name


def _labels(path: Path, name: str, column: pa.ChunkedArray, classes: int) -> Tensor:
    if not pa.types.is_integer(column.type):
        raise ValueError(f"{path}: column '{name}' is {column.type}, not whole numbers 0 to {classes - 1}: convert it")
    numbers = column.to_pylist()
    for row, number in enumerate(numbers):
        if number is None or not 0 <= number < classes:
            raise ValueError(f"{path} row {row}: {name} is {number}, not 0 to {classes - 1}: is it another data set?")
    return torch.tensor(numbers, dtype=torch.int64)
