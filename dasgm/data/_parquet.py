"""Reads one Parquet file of labelled pictures within bounds, and finds its column of pictures."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dasgm.data import _pictures
from dasgm.store.files import reason

MOST_TIMES = 100  # largest ratio of the declared content to the file's size, since pictures are compressed already
PICTURES = ("image", "img")  # names that the column of pictures may have


def open_parquet(file: Any, name: object, size: int) -> pq.ParquetFile:
    """Opens a Parquet file of `size` bytes.

    Pictures and texts are read as dictionaries, so that equal ones take memory once.

    Raises:
        ValueError: the file declares far more content than fits into it.
    """
    found = pq.read_metadata(file)
    columns = [found.schema.column(i) for i in range(len(found.schema))]
    groups = [found.row_group(g) for g in range(found.num_row_groups)]
    rows, held = sum(group.num_rows for group in groups), sum(group.total_byte_size for group in groups)
    if not rows == found.num_rows <= size or held > MOST_TIMES * size:
        raise ValueError(
            f"{name} declares {rows:,} rows with {held:,} bytes, but has {size:,} bytes: download it again"
        )
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    wanted = [path for path in texts if "." not in path or path in [f"{name}.bytes" for name in PICTURES]]
    return pq.ParquetFile(file, metadata=found, read_dictionary=wanted)


def columns_of(parquet: pq.ParquetFile, names: list[str], groups: list[int] | None = None) -> pa.Table:
    """Reads columns in batches, because pyarrow cannot read a long column of a dictionary within a struct at once."""
    batches = list(parquet.iter_batches(1000, row_groups=groups, columns=names))
    return pa.Table.from_batches(batches) if batches else parquet.read(columns=names)


def column(name: str, schema: pa.Schema, names: tuple[str, ...]) -> str:
    """The first of `names` that the file called `name` has as a column. Raises ValueError if it has none of them."""
    for one in names:
        if one in schema.names:
            return one
    raise ValueError(f"{name} has no column {' or '.join(map(repr, names))}, only {schema.names}: rename the right one")


def picture_column(name: str, schema: pa.Schema) -> tuple[str, list[str]]:
    """The column of pictures, and what is read of it: bytes, paths, or Hugging Face's {bytes, path}.

    Raises:
        ValueError: there is no such column, or it has another type.
    """
    if all(one in schema.names for one in PICTURES):
        raise ValueError(f"{name} has both columns {' and '.join(map(repr, PICTURES))}: remove one")
    found = column(name, schema, PICTURES)
    kind = schema.field(found).type
    if _holds(kind, "binary") or _holds(kind, "string"):
        return found, [found]
    if pa.types.is_struct(kind):
        inside = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        of_bytes, path = inside.get("bytes", pa.null()), inside.get("path", pa.null())
        right = _holds(of_bytes, "binary", "null") and _holds(path, "string", "null")
        if right and {"bytes", "path"} & set(inside):
            return found, [f"{found}.{part}" for part in ("bytes", "path") if part in inside]
    raise ValueError(f"{name}: column '{found}' is {kind}, not Hugging Face's {{bytes, path}}: convert it")


def _holds(kind: pa.DataType, *wanted: str) -> bool:
    """Whether a type is one of `wanted`, as a dictionary or not, and of any length."""
    inside = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return str(inside).removeprefix("large_") in wanted


def encoded(pictures: pa.ChunkedArray) -> list[bytes | str | None]:
    """For each row the bytes of the picture, its path where there are no bytes, or None.

    Equal pictures share their bytes.
    """
    found: list[bytes | str | None] = []
    for chunk in pictures.chunks:
        if pa.types.is_struct(chunk.type):
            held = _values(pc.struct_field(chunk, "bytes") if chunk.type.get_field_index("bytes") >= 0 else None, chunk)
            paths = _values(pc.struct_field(chunk, "path") if chunk.type.get_field_index("path") >= 0 else None, chunk)
            found += [path if value is None else value for value, path in zip(held, paths, strict=True)]
        else:
            found += _values(chunk, chunk)
    return found


def _values(array: pa.Array | None, rows: pa.Array) -> list[Any]:
    if array is None:
        return [None] * len(rows)
    if not pa.types.is_dictionary(array.type):
        return array.to_pylist()
    indices = array.indices.to_pylist()
    values = {i: array.dictionary[i].as_py() for i in set(indices) - {None}}
    return list(map(values.get, indices))


def without_bytes(parquet: pq.ParquetFile, read: list[str]) -> bool:
    """Whether no row has bytes, so that all pictures are given by paths.

    The file's statistics are used where it has any.
    """
    if read[0].endswith(".path"):
        return True
    if len(read) == 1:
        return _holds(parquet.schema_arrow.field(read[0]).type, "string")
    about = parquet.metadata
    at = next(i for i in range(len(about.schema)) if about.schema.column(i).path == read[0])
    for group in range(about.num_row_groups):
        chunk = about.row_group(group).column(at)
        if chunk.statistics is not None and chunk.statistics.has_null_count:
            if chunk.statistics.null_count < chunk.num_values:
                return False
        elif any(isinstance(one, bytes) for one in encoded(columns_of(parquet, read[:1], [group]).column(0))):
            return False
    return about.num_rows > 0


def ensure_pictures(name: str, parquet: pq.ParquetFile, picture: str) -> None:
    """Raises ValueError where a column of plain bytes does not begin with an encoded picture."""
    first = next(parquet.iter_batches(1, columns=[picture]), None)
    values = [] if first is None else [one for one in first.column(0).to_pylist() if one is not None]
    for value in values:
        try:
            with _pictures.open_picture(value):
                pass
        except Exception as error:  # Pillow raises many types of errors
            why = reason(error)
            raise ValueError(f"{name}: column '{picture}' has bytes that are no picture ({why}): convert it") from None
