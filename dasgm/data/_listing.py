"""Lists the pictures of ImageNet without reading them, from class folders or Parquet on any pyarrow filesystem."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import torch

from dasgm.data import _folders, _rows, _shards
from dasgm.data._labels import aligned, classes_of
from dasgm.data._layout import Layout
from dasgm.data._pictures import first_ten
from dasgm.data._rows import Rows
from dasgm.data._split import share
from dasgm.data._store import Store
from dasgm.data._tree import folders_in, scan
from dasgm.options import option

LARGE = 1000  # rows from which a row group gets a note


@dataclass(frozen=True)
class Files:
    """Pictures in files of their own."""

    store: Store
    paths: pa.BinaryArray  # below the store's root, as bytes, because not all are UTF-8

    def below(self, index: int) -> str:
        """The path of a picture below the root."""
        return os.fsdecode(self.paths[index].as_py())

    def name(self, index: int) -> str:
        return self.store.name(self.below(index))

    def read(self, indices: Sequence[int]) -> list[bytes | Exception]:
        """The encoded pictures, or for each that cannot be read the error."""
        return [self._read(self.below(index)) for index in indices]

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
    """The pictures of one part, always in the same order.

    Attributes:
        source: what reads the pictures.
        classes: names of the classes.
        labels: int64 [N].
        sizes: sizes of the files, in bytes.
        chosen: bool [N]: which pictures are used.
        notes: lines to be printed.
        place: the folder or files, as messages name them.
    """

    source: Files | Rows
    classes: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    chosen: np.ndarray
    notes: tuple[str, ...] = ()
    place: str = ""

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def in_order(self) -> np.ndarray:
        """Indices of the pictures in use, ascending."""
        return np.flatnonzero(self.chosen)

    def permuted(self, seed: int, epoch: int) -> np.ndarray:
        """Indices of the pictures in use, in the order of an epoch. The order depends on (seed, epoch) alone."""
        order = self.source.order(np.random.default_rng((seed, epoch)))
        return order[self.chosen[order]]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of classes, paths, labels and sizes. It does not depend on the place and the content of the files."""
        if isinstance(self.source, Files):
            paths = [os.fsdecode(path) for path in self.source.paths.to_pylist()]
        else:
            paths = list(self.source.paths)
        sha = hashlib.sha256(json.dumps([self.classes, paths]).encode())
        for numbers in (self.labels, self.sizes, self.chosen):
            sha.update(np.ascontiguousarray(numbers).data)
        return sha.hexdigest()


def drawn(listing: Listing, limit: int, seed: int) -> Listing:
    """So many of the pictures in use, stratified; all of them where `limit` is 0 or more than there are."""
    if not 0 < limit < len(listing):
        return listing
    there = listing.in_order()
    generator = torch.Generator().manual_seed(seed)
    kept, _ = share(torch.from_numpy(listing.labels[there]), limit / len(there), generator)
    chosen = np.zeros(len(listing.labels), dtype=bool)
    chosen[there[kept.numpy()]] = True
    return replace(listing, chosen=chosen)


def listings(root: str, skip_unreadable: bool = False, config: str = "") -> tuple[Listing, Listing]:
    """Lists the training and the validation pictures below `root`.

    Args:
        skip_unreadable: whether pictures that are known to be unreadable are left out.
        config: which of several data sets of Parquet files is read; see `_shards.find`.

    Raises:
        ValueError: a part, a class or a column is missing, or files are not as they should be. The message is one line.
    """
    store = Store(root)
    if store.local is not None and not os.path.isdir(store.local):
        raise ValueError(
            f"{option('data_dir')} {store.name('')}: no such folder; expected a folder or a URI with train/ and val/, "
            "or with Parquet files"
        )
    found = _shards.find(store, config)
    if not found.parts and (layout := Layout(store)).divided:
        return _in_folders(layout, skip_unreadable)
    ensure_no_class_folders(store, found)
    return _in_shards(store, found, skip_unreadable)


# class folders


def _in_folders(layout: Layout, skip_unreadable: bool) -> tuple[Listing, Listing]:
    """The training pictures and those to test on: the validation pictures, or else the test pictures."""
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


def _listed(store: Store, part: _folders.FolderPart, classes: tuple[str, ...], notes: Sequence[str] = ()) -> Listing:
    labels = np.array(part.labels(classes), dtype=np.int64)
    _none_empty(part.place, labels, classes)
    files = Files(store, pa.array([os.fsencode(picture.path) for picture in part.pictures], pa.binary()))
    sizes = np.array([picture.size for picture in part.pictures])
    return Listing(files, classes, labels, sizes, _all(labels), (*part.inventory.lines(), *part.notes, *notes))


# Parquet


def _in_shards(store: Store, found: _shards.ShardSet, skip_unreadable: bool) -> tuple[Listing, Listing]:
    """The same from Parquet files."""
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
    read = partial(_rows.part_of, store, skip_unreadable=skip_unreadable)
    train, test = (read(found.parts[part]) for part in ("train", tested))
    classes = classes_of(train.labels)
    return _of_rows(train, classes), _of_rows(test, classes, found.notes(store, "train", tested))


def ensure_no_class_folders(store: Store, found: _shards.ShardSet) -> None:
    """Raises ValueError where a part's folder has class folders and there are Parquet files too."""
    for folder in folders_in(scan(store)):
        if _shards.folder_part(folder.name) and folders_in(scan(store, folder.path)):
            files = [shard.path for part in found.parts.values() for shard in part]
            raise ValueError(
                f"{store.name('')} has both folders of pictures in {folder.name}/ and Parquet files "
                f"({first_ten(files)}): move one of them away"
            )


def _of_rows(part: _rows.ParquetPart, classes: tuple[str, ...], notes: Sequence[str] = ()) -> Listing:
    """The listing of rows of Parquet files, with labels matched to `classes` by name."""
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
