"""Pictures as rows of Parquet files, read a row group at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from dasgm.data import _parquet
from dasgm.data._store import Store

MIXED = 4  # row groups whose rows are mixed: a batch has rows of them all
KEPT = 200  # rows of a row group that a process keeps for its next batch: some 20 MB


@lru_cache(maxsize=MIXED)
def row_group(store: Store, path: str, group: int, picture: str) -> pa.ChunkedArray:
    """Its encoded pictures; a process has those that it read last. Errors are not kept."""
    with store.parquet(path) as file:
        return file.read_row_group(group, columns=[f"{picture}.bytes"])[picture]


@dataclass(frozen=True)
class Rows:
    """Pictures as rows of Parquet files; a row group is read as a whole, and kept if it is small."""

    store: Store
    paths: tuple[str, ...]
    picture: str  # the column
    shards: np.ndarray  # of each row group
    groups: np.ndarray  # its number in the shard
    starts: np.ndarray  # its first picture; one more at the end

    def name(self, index: int) -> str:
        group = self._group(index)
        path = self.paths[self.shards[group]]
        first = self.starts[np.flatnonzero(self.shards == self.shards[group])[0]]
        return f"{self.store.name(path)} row {index - first}"

    def read(self, indices: Sequence[int]) -> list[bytes | Exception]:
        """The encoded pictures, or what is in the way of reading them."""
        wanted = np.asarray(indices)
        found: list[bytes | Exception] = [ValueError("not read")] * len(wanted)
        groups = self._group(wanted)
        for group in np.unique(groups):
            at = np.flatnonzero(groups == group)
            for position, picture in zip(at, self._rows(group, wanted[at] - self.starts[group]), strict=True):
                found[position] = picture
        return found

    def _rows(self, group: int, rows: np.ndarray) -> list[bytes | Exception]:
        small = self.starts[group + 1] - self.starts[group] <= KEPT
        read = row_group if small else row_group.__wrapped__
        try:
            there = read(self.store, self.paths[self.shards[group]], int(self.groups[group]), self.picture)
        except (OSError, ValueError, pa.ArrowException) as error:
            return [error] * len(rows)
        pictures = _parquet.encoded(there.take(pa.array(rows)))
        return [ValueError("no bytes") if picture is None else picture for picture in pictures]

    def _group(self, index: Any) -> Any:
        return np.searchsorted(self.starts, index, "right") - 1

    def order(self, random: np.random.Generator) -> np.ndarray:
        """A permutation of the row groups, then of the rows of each `MIXED` that follow one another."""
        groups = random.permutation(len(self.groups))
        mixed = []
        for first in range(0, len(groups), MIXED):
            some = groups[first : first + MIXED]
            rows = np.concatenate([np.arange(self.starts[group], self.starts[group + 1]) for group in some])
            mixed.append(random.permutation(rows))
        return np.concatenate(mixed)
