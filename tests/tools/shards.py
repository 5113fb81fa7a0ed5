"""Parquet files for tests, in Hugging Face's layouts."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dasgm.data._listing import Listing

PETS = ("cat", "dog", "fox")
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
HASH, OTHER = "a1b2c3d4e5f60718", "0123456789abcdef"


def png(level: int, size: int = 32) -> bytes:
    """A grey picture that its level tells."""
    buffer = io.BytesIO()
    Image.new("L", (size, size), level).save(buffer, "PNG")
    return buffer.getvalue()


def about(column: str, names: Sequence[str] | None) -> dict[bytes, bytes] | None:
    features = {"info": {"features": {column: {"_type": "ClassLabel", "names": list(names or ())}}}}
    return {b"huggingface": json.dumps(features).encode()} if names else None


def write(
    path: Path, labels: Any, names: Sequence[str] | None = None, column: str = "label", first: int = 0, **columns: Any
) -> None:
    """Rows whose pictures have the grey levels first, first + 1, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = columns.pop("image", None)
    if images is None:
        images = pa.array([{"bytes": png(first + i), "path": f"{i}.png"} for i in range(len(labels))], STRUCT)
    table = pa.table({"image": images, column: labels, **columns})
    pq.write_table(table.replace_schema_metadata(about(column, names)), path)


def named(listing: Listing) -> list[str]:
    return [listing.classes[label] for label in listing.labels]


def refused(action: Any, *says: str) -> str:
    with pytest.raises(ValueError) as error:
        action()
    line = str(error.value)
    assert "\n" not in line and all(word in line for word in says), line
    return line
