"""What ImageNet's files hold, without reading a picture: class folders or Parquet, on any pyarrow filesystem."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from pyarrow import fs

from dasgm.data import _shards
from dasgm.data._folder import CLUTTER
from dasgm.data._labels import aligned, classes_of
from dasgm.data._pictures import ENDINGS, first_ten
from dasgm.data._rows import Part, Rows, part_of
from dasgm.data._store import Store

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


def listings(root: str, skip_unreadable: bool = False, config: str = "") -> tuple[Listing, Listing]:
    """The training and the validation pictures below `root`.

    Args:
        skip_unreadable: whether pictures that are known to be unreadable may be left out.
        config: which of several data sets of Parquet files side by side; see `_shards.find`.

    Raises ValueError, one line, where a part, a class or a column is missing or files are not what they should be.
    """
    store = Store(root)
    found = _shards.find(store, config)
    with _one_line(root):
        folders = {store.below(info) for info in store.entries() if info.type == fs.FileType.Directory}
        if not found.parts and "train" in folders:
            return _folders(store, folders)
        _ensure_no_class_folders(store, found, folders)
        return _shard_listings(store, found, skip_unreadable)


@contextmanager
def _one_line(root: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise _shards.cannot_list(root, error) from None


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


def _shard_listings(store: Store, found: _shards.Found, skip_unreadable: bool) -> tuple[Listing, Listing]:
    """Training pictures, and those to be tested on: the validation pictures, or where there are none the test's."""
    if "train" not in found.parts:
        raise ValueError(
            f"{store.root} has neither train/ with a folder of pictures per class nor train*.parquet"
            f"{found.besides()}: add them"
        )
    tested = "val" if "val" in found.parts else "test"
    if tested not in found.parts:
        raise ValueError(
            f"{store.root} has train*.parquet but no validation*.parquet nor val*.parquet{found.besides()}: add the "
            "photographs"
        )
    train, test = (part_of(store, found.parts[part], skip_unreadable=skip_unreadable) for part in ("train", tested))
    classes = classes_of(train.labels)
    return _of_rows(train, classes), _of_rows(test, classes, found.notes(store, "train", tested))


def _ensure_no_class_folders(store: Store, found: _shards.Found, folders: set[str]) -> None:
    """ValueError where a part's folder has folders of classes and Parquet files lie there too: which is meant?"""
    for folder in sorted(folders):
        if _shards.folder_part(folder) and any(info.type == fs.FileType.Directory for info in store.entries(folder)):
            files = [shard.path for part in found.parts.values() for shard in part]
            raise ValueError(
                f"{store.name('')} has both folders of pictures in {folder}/ and Parquet files ({first_ten(files)}): "
                "move one of them away"
            )


def _of_rows(part: Part, classes: tuple[str, ...], notes: Sequence[str] = ()) -> Listing:
    """Labels are aligned with `classes` by name."""
    labels, name = aligned(part.labels, classes), part.source.store.name(part.source.paths[0])
    _none_empty(name, labels, classes)
    lines = [*part.inventory(labels, classes).lines(), *notes]
    if part.largest > LARGE:
        lines.append(
            f"{name}: row groups of up to {part.largest:,} rows, read whole for each batch; "
            "written with row_group_size=100 they load faster"
        )
    return Listing(part.source, classes, labels, part.sizes, _all(labels), tuple(lines))


# both


def _none_empty(name: str, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.all() or len(classes) < 2:
        empty = [classes[label] for label in np.flatnonzero(counts == 0)]
        what = f"no picture of {len(empty)} classes: {first_ten(empty)}" if empty else "one class only"
        raise ValueError(f"{name} has {what}; add some")


def _all(labels: np.ndarray) -> np.ndarray:
    return np.ones(len(labels), dtype=bool)
