"""Reads Parquet files into memory: all pictures of a part as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dasgm.data._images import stack
from dasgm.data._labels import aligned
from dasgm.data._pictures import exact, read
from dasgm.data._rows import ParquetPart, part_of
from dasgm.data._shards import Shard
from dasgm.data._store import Store


def load(
    part: ParquetPart, labels: np.ndarray, size: int, skip_unreadable: bool = False
) -> tuple[Tensor, Tensor, list[str]]:
    """Reads the pictures of a part.

    Returns:
        Images uint8 [N, 3, size, size], labels int64 [N] and lines to be printed.

    Raises:
        ValueError: a picture cannot be read or has another size, and is not to be skipped.
    """
    source = part.source
    names = [source.below(row) for row in range(len(source))]
    pictures: Sequence[Any] = source.read(range(len(source)))
    pixels, readable, notes = read(pictures, names, partial(_exact, size=size), skip_unreadable)
    if not readable:
        raise ValueError(f"{source.store.name(source.paths[0])} has no picture that can be read: download it again")
    return stack(pixels, size), torch.from_numpy(labels)[readable], notes


def _exact(source: Any, size: int) -> bytes:
    """The pixels of a picture. `source` is its bytes, or the error of reading them, which is raised."""
    if isinstance(source, Exception):
        raise source
    return exact(source, size)


def load_file(
    path: Path, labels: tuple[str, ...], classes: int, size: int, skip_unreadable: bool = False
) -> tuple[Tensor, Tensor, list[str]]:
    """Reads a single file whose labels are the numbers 0 to `classes` - 1."""
    part = part_of(Store(str(path.parent)), [Shard(path.name, path.stat().st_size, "", "", "", "")], labels)
    return load(part, aligned(part.labels, tuple(map(str, range(classes)))), size, skip_unreadable)
