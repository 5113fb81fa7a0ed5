"""What ImageNet's files hold, without reading a picture: class folders or Parquet, on any pyarrow filesystem."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dasgm.data import _parquet
from dasgm.data._folders import Part
from dasgm.data._layout import PART_OF, Layout
from dasgm.data._parquet import column
from dasgm.data._pictures import first_ten
from dasgm.data._store import Store
from dasgm.data._tree import scan
from dasgm.files import first_line, plain

PARTS = {"train": ("train",), "val": ("val", "validation")}  # what a part may be called
MIXED = 4  # row groups whose rows are mixed: a batch has rows of them all
KEPT = 200  # rows of a row group that a process keeps for its next batch: some 20 MB
LARGE = 1000  # rows of a row group that is worth a note


@dataclass(frozen=True)
class Files:
    """Pictures as files."""

    store: Store
    paths: pa.BinaryArray  # below the store's root, as the filesystem has them: not always UTF-8

    def path(self, index: int) -> str:
        return os.fsdecode(self.paths[index].as_py())

    def name(self, index: int) -> str:
        return self.store.name(self.path(index))

    def read(self, indices: Sequence[int]) -> list[bytes | Exception]:
        """The encoded pictures, or what is in the way of reading them."""
        return [self._read(self.path(index)) for index in indices]

    def _read(self, path: str) -> bytes | Exception:
        try:
            return self.store.read(path)
        except (OSError, ValueError) as error:
            return error

    def order(self, random: np.random.Generator) -> np.ndarray:
        """A permutation of all pictures."""
        return random.permutation(len(self.paths))


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


@dataclass(frozen=True)
class Listing:
    """The pictures of one part, in an order that is always the same.

    classes: their names; labels: int64 [N]; chosen: bool [N], which are used; sizes: of the files, in bytes.
    """

    source: Files | Rows
    classes: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    chosen: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def in_order(self) -> np.ndarray:
        """Indices of the pictures in use, rising."""
        return np.flatnonzero(self.chosen)

    def permuted(self, seed: int, epoch: int) -> np.ndarray:
        """The same indices in the order of an epoch: a function of (seed, epoch) alone."""
        order = self.source.order(np.random.default_rng((seed, epoch)))
        return order[self.chosen[order]]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of classes, paths, labels and sizes; where the files lie, and what is in them, does not matter."""
        if isinstance(self.source, Files):
            paths = [os.fsdecode(path) for path in self.source.paths.to_pylist()]
        else:
            paths = list(self.source.paths)
        sha = hashlib.sha256(json.dumps([self.classes, paths]).encode())
        for numbers in (self.labels, self.sizes, self.chosen):
            sha.update(np.ascontiguousarray(numbers).data)
        return sha.hexdigest()


def listings(root: str, skip_unreadable: bool = False) -> tuple[Listing, Listing]:
    """The training and the validation pictures below `root`.

    Raises ValueError, one line, where a part, a class or a column is missing or files are not what they should be.
    """
    store = Store(root)
    if not _in_parquet(store) and (layout := Layout(store)).divided:
        return _folders(layout, skip_unreadable)
    with _one_line(root):
        folders = {store.below(info) for info in store.entries() if info.type == fs.FileType.Directory}
        found = {part: _shards(store, ["", *sorted(folders)], part) for part in PARTS}
    if not found["train"]:
        raise ValueError(f"{root} has neither train/ with a folder of pictures per class nor train*.parquet: add them")
    if not found["val"]:
        raise ValueError(f"{root} has train*.parquet but no validation*.parquet nor val*.parquet: add the photographs")
    with _one_line(root):
        train = _rows_of(store, found["train"], None)
        return train, _rows_of(store, found["val"], train.classes)


@contextmanager
def _one_line(root: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{root} cannot be listed ({first_line(error)[:200]}): give --data-dir a folder or a URI"
        ) from None


# class folders


def _in_parquet(store: Store) -> bool:
    """Whether there are Parquet files at the root or directly in a part's folder."""
    parts = [entry.path for entry in scan(store) if entry.kind == "folder" and entry.name.lower() in PART_OF]
    return any(entry.name.endswith(".parquet") for folder in ("", *parts) for entry in scan(store, folder))


def _folders(layout: Layout, skip_unreadable: bool) -> tuple[Listing, Listing]:
    """Training pictures, and those to be tested on: the validation pictures, or where there are none the test's."""
    tested = [part for part in ("val", "test") if part in layout.parts]
    root = layout.store.name("")
    if not tested:
        raise ValueError(f"{root} has train/ but no val/: add the photographs to be tested on, a folder per class")
    train = layout.read("train", None, skip_unreadable)
    train.ensure_classes()
    test = layout.read(tested[0], train.classes, skip_unreadable)
    notes = [*layout.notes, *layout.beside()]
    notes += [f"{layout.place(part)} is not used: the networks are tested on {test.place}" for part in tested[1:]]
    return _listed(layout.store, train, train.classes), _listed(layout.store, test, train.classes, notes)


def _listed(store: Store, part: Part, classes: tuple[str, ...], notes: Sequence[str] = ()) -> Listing:
    labels = np.array(part.labels(classes), dtype=np.int64)
    _none_empty(part.place, labels, classes)
    files = Files(store, pa.array([os.fsencode(picture.path) for picture in part.pictures], pa.binary()))
    sizes = np.array([picture.size for picture in part.pictures])
    return Listing(files, classes, labels, sizes, _all(labels), (*part.inventory.lines(), *part.notes, *notes))


# Parquet


def _shards(store: Store, places: list[str], part: str) -> list[tuple[str, int]]:
    """Paths and sizes of a part's files, all in one folder; [] if there are none."""
    pattern = re.compile(rf"({'|'.join(PARTS[part])})([-_.].*)?\.parquet")
    for place in places:
        infos = [info for info in store.entries(place) if pattern.fullmatch(info.base_name)]
        if infos:
            totals = {int(m[1]) for info in infos if (m := re.search(r"-of-(\d+)\.", info.base_name))}
            if totals and totals != {len(infos)}:
                raise ValueError(
                    f"{store.name(place)} has {len(infos)} of {max(totals)} shards {part}-*.parquet: add the others"
                )
            return [(store.below(info), info.size) for info in infos]
    return []


def _rows_of(store: Store, shards: list[tuple[str, int]], classes: tuple[str, ...] | None) -> Listing:
    """Classes are those of Hugging Face's metadata, else the numbers up to the largest label of `train`."""
    pictures, labels, groups, named = set(), [], list[tuple[int, int, int]](), None
    for shard, (path, _) in enumerate(shards):
        name = store.name(path)
        try:
            with store.parquet(path) as file:
                schema = file.schema_arrow
                pictures.add(_parquet.picture_column(name, schema, ("image", "img")))
                label = column(name, schema, ("label",))
                labels.append(_numbers(name, label, file.read([label])[label]))
                named = named or _class_names(schema, label)
                rows = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{name} is no whole Parquet file ({first_line(error)[:100]}): download it again"
            ) from None
        groups += [(shard, g, n) for g, n in enumerate(rows)]
    if len(pictures) > 1:
        raise ValueError(f"{store.root}: the pictures' column is called {sorted(pictures)}: rename one")
    numbers = np.concatenate(labels)
    if (largest := int(numbers.max(initial=-1))) >= len(numbers):
        raise ValueError(f"{store.root}: a label is {largest}, with {len(numbers)} pictures: is it another data set?")
    if classes is None:
        classes = named or tuple(map(str, range(largest + 1)))
    for (path, _), some in zip(shards, labels, strict=True):
        if len(wrong := np.flatnonzero((some < 0) | (some >= len(classes)))):
            raise ValueError(
                f"{store.name(path)} row {wrong[0]}: label is {some[wrong[0]]}, not 0 to {len(classes) - 1}: "
                "is it another data set?"
            )
    _none_empty(store.name(shards[0][0]), numbers, classes)
    counts = np.array(groups, dtype=np.int64).reshape(-1, 3)
    starts = np.concatenate([[0], counts[:, 2].cumsum()])
    source = Rows(store, tuple(path for path, _ in shards), pictures.pop(), counts[:, 0], counts[:, 1], starts)
    notes: tuple[str, ...] = ()
    if (largest := int(counts[:, 2].max(initial=0))) > LARGE:
        notes = (f"{store.name(shards[0][0])}: row groups of up to {largest:,} rows, read whole for each batch; "
                 "written with row_group_size=100 they load faster",)  # fmt: skip
    return Listing(source, classes, numbers, np.array([size for _, size in shards]), _all(numbers), notes)


def _numbers(name: str, label: str, values: pa.ChunkedArray) -> np.ndarray:
    if not pa.types.is_integer(values.type) or values.null_count:
        kind = f"{values.type} with {values.null_count} nulls" if values.null_count else str(values.type)
        raise ValueError(f"{name}: column '{label}' is {kind}, not whole numbers from 0: convert it")
    return values.to_numpy().astype(np.int64)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """What Hugging Face's metadata call the classes."""
    try:
        names = plain(schema.metadata[b"huggingface"].decode())["info"]["features"][label]["names"]
        return tuple(map(str, names)) if isinstance(names, list) else None
    except (TypeError, KeyError, ValueError):
        return None


# both


def _none_empty(name: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all() or len(classes) < 2:
        empty = [classes[label] for label in np.flatnonzero(counts == 0)]
        what = f"no picture of {len(empty)} classes: {first_ten(empty)}" if empty else "one class only"
        raise ValueError(f"{name} has {what}; add some")


def _all(labels: np.ndarray) -> np.ndarray:
    return np.ones(len(labels), dtype=bool)
