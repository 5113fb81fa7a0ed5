"""Pictures as rows of Parquet files: they are listed with their labels, then read one row group at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from dasgm.data import _parquet
from dasgm.data._inventory import Inventory
from dasgm.data._labels import Labels, labels_of
from dasgm.data._pictures import first_ten
from dasgm.data._shards import Shard
from dasgm.data._store import Store
from dasgm.options import option
from dasgm.store.files import first_line

MIXED = 4  # number of row groups whose rows are mixed, so that a batch has rows of all of them
KEPT = 200  # largest row group (in rows) that a process keeps for its next batch: about 20 MB
LOOKED_FOR = 100  # number of paths of a file that are checked in object storage, where each takes a while


@lru_cache(maxsize=MIXED)
def row_group(store: Store, path: str, group: int) -> pa.ChunkedArray:
    """The encoded pictures of a row group. A process caches those that it read last; errors are not cached."""
    with store.parquet(path) as file:
        picture, read = _parquet.picture_column(store.name(path), file.schema_arrow)
        return file.read_row_group(group, columns=read)[picture]


@dataclass(frozen=True)
class Rows:
    """Pictures as rows of Parquet files. A row group is read as a whole, and cached if it is small."""

    store: Store
    paths: tuple[str, ...]
    shards: np.ndarray  # of each row group
    groups: np.ndarray  # its number in the shard
    starts: np.ndarray  # its first picture; one more at the end

    def __len__(self) -> int:
        return int(self.starts[-1])

    def name(self, index: int) -> str:
        return self.store.name(self.below(index))

    def below(self, index: int) -> str:
        """The same below the root, such as 'train.parquet row 7'."""
        shard = self.shards[self._group(index)]
        first = self.starts[np.flatnonzero(self.shards == shard)[0]]
        return f"{self.paths[shard]} row {index - first}"

    def read(self, indices: Sequence[int]) -> list[bytes | Exception]:
        """The encoded pictures, or for each that cannot be read the error."""
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
        shard = self.paths[self.shards[group]]
        try:
            there = read(self.store, shard, int(self.groups[group]))
            pictures = _parquet.encoded(there.take(pa.array(rows)))
        except (OSError, ValueError, pa.ArrowException) as error:
            return [error] * len(rows)
        return [picture if isinstance(picture, bytes) else _beside(self.store, shard, picture) for picture in pictures]

    def _group(self, index: Any) -> Any:
        return np.searchsorted(self.starts, index, "right") - 1

    def order(self, random: np.random.Generator) -> np.ndarray:
        """A random permutation of the row groups, in which the rows of each `MIXED` consecutive ones are permuted
        together.
        """
        groups = random.permutation(len(self.groups))
        mixed = []
        for first in range(0, len(groups), MIXED):
            some = groups[first : first + MIXED]
            rows = np.concatenate([np.arange(self.starts[group], self.starts[group + 1]) for group in some])
            mixed.append(random.permutation(rows))
        return np.concatenate(mixed)


# pictures that rows give by their path


def _beside(store: Store, shard: str, path: str | None) -> bytes | Exception:
    """The picture at the path that a row of `shard` has in place of bytes, or the error of reading it."""
    try:
        place = store.beside(shard, path) if path else None
        return store.read(place) if place else ValueError("no bytes")
    except (OSError, ValueError) as error:
        return error


def _ensure_beside(store: Store, shard: str, file: Any, picture: str, read: list[str]) -> list[str]:
    """The rows of a shard of paths whose pictures are missing, such as 'train.parquet row 7 (no file 'x.png')'.

    Raises:
        ValueError: all pictures are missing.
    """
    batches = file.iter_batches(1000, columns=read[-1:])
    rows = (value for batch in batches for value in _parquet.encoded(pa.chunked_array([batch.column(0)])))
    paths = list(islice(rows, LOOKED_FOR)) if store.local is None else list(rows)
    absent = [row for row, path in enumerate(paths) if not isinstance(path, str) or not store.beside(shard, path)]
    if len(absent) == len(paths):
        example = next((path for path in paths if path), None)
        of = f"none of its {len(paths):,} paths, such as {example!r:.100}, is a file in" if example else "no paths to"
        raise ValueError(
            f"{store.name(shard)} has no bytes of pictures in column '{picture}', and {of} the folder of the file or "
            f"{option('data_dir')} (nothing outside is read): put the pictures there, or write the bytes into the file "
            "(push_to_hub with embed_external_files=True)"
        )
    return [f"{shard} row {row} (no file {str(paths[row])!r:.80})" for row in absent]


# a part


@dataclass(frozen=True)
class ParquetPart:
    """The pictures of a part and their labels.

    Attributes:
        source: what reads the pictures.
        labels: one `Labels` per file.
        sizes: sizes of the files, in bytes.
        unreadable: rows whose picture is missing.
    """

    source: Rows
    labels: list[Labels]
    sizes: np.ndarray
    unreadable: tuple[str, ...]

    def inventory(self, labels: np.ndarray, classes: Sequence[str]) -> Inventory:
        """The number of pictures of each class, where `labels` are indices into `classes`."""
        counts = np.bincount(labels, minlength=len(classes)).tolist()
        store, (first, *others) = self.source.store, self.source.paths
        place = store.name(first) + (f" and {len(others)} more" if others else "")
        return Inventory(place, dict(zip(classes, counts, strict=True)), unreadable=self.unreadable)

    @property
    def largest(self) -> int:
        """Number of rows of the largest row group."""
        return int(np.diff(self.source.starts).max(initial=0))


@dataclass(frozen=True)
class _File:
    """What one shard holds: the names of its columns of pictures and of labels, the labels, the number of rows of each
    row group, and the rows whose picture is missing.
    """

    columns: tuple[str, str]
    labels: Labels
    rows: list[int]
    unreadable: list[str]


def part_of(
    store: Store, shards: Sequence[Shard], labels: tuple[str, ...] = ("label",), skip_unreadable: bool = False
) -> ParquetPart:
    """Lists the shards of a part. Labels are read, pictures are not.

    Args:
        labels: names that the label column may have. The first one that a file has is taken.
        skip_unreadable: whether a row may have the path of a picture that is not there.

    Raises:
        ValueError: a broken file, a missing column or one of another type, shards whose columns have different names,
            or paths in place of bytes where no picture lies.
    """
    files = [_look(store, shard.path, labels) for shard in shards]
    columns = {file.columns for file in files}
    if len(columns) > 1:
        raise ValueError(
            f"{store.root}: the shards have different columns, {sorted(columns)}: give them the same names"
        )
    unreadable = tuple(row for file in files for row in file.unreadable)
    if unreadable and not skip_unreadable:
        raise ValueError(
            f"{store.root}: {len(unreadable)} pictures cannot be read: {first_ten(unreadable)}; put them there, or "
            f"leave them out with {option('data.skip_unreadable')}"
        )
    shard_of = [shard for shard, file in enumerate(files) for _ in file.rows]
    group_of = [group for file in files for group in range(len(file.rows))]
    rows = [n for file in files for n in file.rows]
    source = Rows(
        store,
        tuple(shard.path for shard in shards),
        np.array(shard_of, dtype=np.int64),
        np.array(group_of, dtype=np.int64),
        np.concatenate([[0], np.array(rows, dtype=np.int64).cumsum()]),
    )
    sizes = np.array([shard.size for shard in shards])
    return ParquetPart(source, [file.labels for file in files], sizes, unreadable)


def _look(store: Store, path: str, label_names: tuple[str, ...]) -> _File:
    """What the shard at `path` holds. Raises ValueError: see `part_of`."""
    name = store.name(path)
    try:
        with store.parquet(path) as file:
            picture, read = _parquet.picture_column(name, file.schema_arrow)
            label = _parquet.column(name, file.schema_arrow, label_names)
            labels = labels_of(name, file.schema_arrow, label, file.read([label])[label])
            unreadable = []
            if _parquet.without_bytes(file, read):
                unreadable = _ensure_beside(store, path, file, picture, read)
            elif read == [picture]:
                _parquet.ensure_pictures(name, file, picture)
            rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{name} is no whole Parquet file ({first_line(error)[:100]}): download it again") from None
    return _File((picture, label), labels, rows, unreadable)
