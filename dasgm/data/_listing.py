"""What ImageNet's files hold, without reading a picture: class folders or Parquet, on any pyarrow filesystem."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dasgm.data import _parquet
from dasgm.data._folder import CLUTTER
from dasgm.data._parquet import column
from dasgm.data._pictures import ENDINGS, first_ten
from dasgm.data._rows import Rows
from dasgm.data._store import Store
from dasgm.files import first_line, plain

PARTS = {"train": ("train",), "val": ("val", "validation")}  # what a part may be called
LARGE = 1000  # rows of a row group that is worth a note


@dataclass(frozen=True)
class Files:
    """Pictures as files."""

    store: Store
    paths: pa.StringArray

    def name(self, index: int) -> str:
        return self.store.name(self.paths[index].as_py())

    def read(self, indices: Sequence[int]) -> list[bytes | Exception]:
        """The encoded pictures, or what is in the way of reading them."""
        return [self._read(self.paths[index].as_py()) for index in indices]

    def _read(self, path: str) -> bytes | Exception:
        try:
            return self.store.read(path)
        except (OSError, ValueError) as error:
            return error

    def order(self, random: np.random.Generator) -> np.ndarray:
        """A permutation of all pictures."""
        return random.permutation(len(self.paths))


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
        paths = self.source.paths.to_pylist() if isinstance(self.source, Files) else list(self.source.paths)
        sha = hashlib.sha256(json.dumps([self.classes, paths]).encode())
        for numbers in (self.labels, self.sizes, self.chosen):
            sha.update(np.ascontiguousarray(numbers).data)
        return sha.hexdigest()


def listings(root: str) -> tuple[Listing, Listing]:
    """The training and the validation pictures below `root`.

    Raises ValueError, one line, where a part, a class or a column is missing or files are not what they should be.
    """
    store = Store(root)
    with _one_line(root):
        folders = {store.below(info) for info in store.entries() if info.type == fs.FileType.Directory}
        if "train" in folders:
            return _folders(store, folders)
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


def _folders(store: Store, folders: set[str]) -> tuple[Listing, Listing]:
    parts = [name for name in PARTS["val"] if name in folders]
    if not parts:
        raise ValueError(
            f"{store.root} has train/ but no val/: add the photographs to be tested on, a folder per class"
        )
    train = _folder(store, "train", None)
    return train, _folder(store, parts[0], train.classes)


def _folder(store: Store, part: str, classes: tuple[str, ...] | None) -> Listing:
    """Classes are the sorted names of the folders; those of `val` must be those of `train`."""
    infos = [(store.below(info), info) for info in store.entries(part, recursive=True)]
    infos = [(path, info) for path, info in infos if not any(map(_hidden, path.split("/")))]
    files = [(path, info.size) for path, info in infos if info.type == fs.FileType.File]
    others = [path for path, _ in files if path.count("/") < 2 or not path.lower().endswith(ENDINGS)]
    if others:
        raise ValueError(f"{store.root}: {len(others)} files are no pictures in a class's folder: {first_ten(others)}")
    names = {path.split("/")[1] for path, info in infos if info.type == fs.FileType.Directory or path.count("/") > 1}
    if classes is None:
        classes = tuple(sorted(names))
        if len(classes) < 2:
            raise ValueError(f"{store.name(part)} has {len(classes)} class folders: give at least 2, one per class")
    elif strangers := sorted(names - set(classes)):
        raise ValueError(f"{store.name(part)} has classes that train/ lacks: {first_ten(strangers)}; remove them")
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[path.split("/")[1]] for path, _ in files], dtype=np.int64)
    _none_empty(store.name(part), labels, classes)
    paths = pa.array([path for path, _ in files], pa.string())
    return Listing(Files(store, paths), classes, labels, np.array([size for _, size in files]), _all(labels))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER


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
