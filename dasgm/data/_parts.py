"""The parts of a folder of a person's own pictures: which are learnt from, tested on, or set aside as J_val.

A search holds them in memory, a training may stream them. Both list them here, so that no picture that a network is
tested on was seen by the search that found it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from dasgm.data import _picture_lists, _rows, _shards
from dasgm.data._folders import FolderPart, look
from dasgm.data._labels import aligned, classes_of
from dasgm.data._layout import Layout
from dasgm.data._listing import Files, Listing, ensure_no_class_folders
from dasgm.data._pictures import first_ten
from dasgm.data._split import SET_ASIDE, test_split
from dasgm.data._store import Store
from dasgm.options import option

if TYPE_CHECKING:
    from dasgm.data.folder import Config

MINIMUM = 10  # of training pictures in a class
FEWEST = 2  # of pictures of a class in another part


@dataclass(frozen=True)
class Parts:
    """The parts, each in the order of its classes and then of its paths (of Parquet files: of its rows).

    Attributes:
        everything: the training pictures, and without `test/` also those that are set aside as the test set.
        train: those of `everything` that are learnt from.
        test: those that a network is tested on, perhaps of `everything`.
        val: the pictures of `val/`, if there is one.
        notes: lines to be printed about the whole, besides those of each part.
    """

    everything: Listing
    train: Listing
    test: Listing
    val: Listing | None
    notes: tuple[str, ...]

    @property
    def apart(self) -> bool:
        """Whether the test pictures lie in a part of their own."""
        return self.test.source is not self.everything.source


def parts(config: Config, data_dir: str | None) -> Parts:
    """Lists the pictures below `data_dir` without reading them: Parquet files, lists (`path,label`) or class folders.

    Raises:
        ValueError: fewer than two classes, too few pictures of a class in a part, a file that cannot be listed, or it
            is not certain whether folders are parts or classes. The message is one line.
    """
    if data_dir is None:
        raise ValueError(
            f"--dataset folder needs {option('data_dir')}: give a folder with one folder of pictures per class"
        )
    root = Path(data_dir)
    if not root.is_dir():
        raise ValueError(
            f"{option('data_dir')} {root}: no such folder; expected a folder with one subfolder of pictures per class"
        )
    store = Store(data_dir)
    shards = _shards.find(store, config.config)
    if shards.parts:
        ensure_no_class_folders(store, shards)
        found, notes = _in_shards(store, shards, config.skip_unreadable)
    elif lists := _picture_lists.find(store):
        found, notes = _picture_lists.read(store, lists, config.skip_unreadable)
    else:
        found, notes = _in_folders(Layout(store), config.skip_unreadable)
    return _parts(store, found, notes)


def _parts(store: Store, found: dict[str, Listing], notes: Sequence[str]) -> Parts:
    train = everything = found["train"]
    ensure_enough(everything, MINIMUM)
    if "test" in found:
        test = found["test"]
        ensure_enough(test, FEWEST)
    else:
        chosen = np.zeros(len(everything.labels), dtype=bool)
        chosen[test_split(torch.from_numpy(everything.labels))[0].numpy()] = True
        line = f"no train/ with test/ in {store.name('')}: {SET_ASIDE}"
        test = replace(everything, chosen=chosen, notes=(line,))
        train = replace(everything, chosen=~chosen)
    if val := found.get("val"):
        ensure_enough(val, FEWEST)
    return Parts(everything, train, test, val, tuple(notes))


def ensure_enough(listing: Listing, minimum: int, readable: Sequence[int] | None = None) -> None:
    """ValueError for fewer than two classes, or classes with fewer than `minimum` pictures.

    Args:
        readable: indices of the pictures that count; None: all.
    """
    if len(listing.classes) < 2:
        raise ValueError(f"{listing.place} has {len(listing.classes)} class(es): give at least 2")
    labels = listing.labels if readable is None else listing.labels[list(readable)]
    counts = zip(listing.classes, np.bincount(labels, minlength=len(listing.classes)).tolist(), strict=True)
    if few := [f"{name} has {n}" for name, n in counts if n < minimum]:
        raise ValueError(
            f"{listing.place}: every class needs at least {minimum} pictures, but {first_ten(few)}; add some"
        )


# where they are listed


def _in_folders(layout: Layout, skip_unreadable: bool) -> tuple[dict[str, Listing], list[str]]:
    """Of class folders, or of pictures beside a table that names their classes."""
    train = layout.read("train", skip_unreadable=skip_unreadable)
    train.ensure_classes()
    found = {"train": _ordered(layout.store, train, train.classes)}
    for part in ("test", "val"):
        if part in layout.parts:
            read = layout.read(part, train.classes, skip_unreadable)
            found[part] = _ordered(layout.store, read, train.classes)
    return found, [*layout.notes, *layout.beside()]


def _ordered(store: Store, part: FolderPart, classes: tuple[str, ...]) -> Listing:
    """The pictures of a part by class, then by path."""
    labelled = zip(part.labels(classes), part.pictures, strict=True)
    files = sorted((label, picture.path.split("/"), picture) for label, picture in labelled)
    return Listing(
        Files(store, pa.array([os.fsencode(picture.path) for *_, picture in files], pa.binary())),
        classes,
        np.array([label for label, *_ in files], dtype=np.int64),
        np.array([picture.size for *_, picture in files], dtype=np.int64),
        np.ones(len(files), dtype=bool),
        (*part.inventory.lines(), *part.notes),
        part.place,
    )


def _in_shards(store: Store, shards: _shards.ShardSet, skip_unreadable: bool) -> tuple[dict[str, Listing], list[str]]:
    """Of the rows of Parquet files."""
    if "train" not in shards.parts:
        raise ValueError(
            f"{store.name('')} has Parquet files of {' and '.join(shards.parts)}, but no train*.parquet: add it"
        )
    read = {part: _rows.part_of(store, files, skip_unreadable=skip_unreadable) for part, files in shards.parts.items()}
    classes = classes_of(read["train"].labels)
    notes = shards.notes(store, *shards.parts)
    if beside := len(look(store, "").pictures):
        notes.append(f"{store.name('')}: {beside:,} pictures beside Parquet files are used only where these name them")
    return {part: _of_rows(of, classes) for part, of in read.items()}, notes


def _of_rows(part: _rows.ParquetPart, classes: tuple[str, ...]) -> Listing:
    labels = aligned(part.labels, classes)
    inventory = part.inventory(labels, classes)
    every = np.ones(len(labels), dtype=bool)
    return Listing(part.source, classes, labels, part.sizes, every, tuple(inventory.lines()), inventory.place)
