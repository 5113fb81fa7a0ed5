"""Lists of pictures: CSV files `path,label` in the folder of the data, one for all pictures or one for each part."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from io import StringIO

import numpy as np
import pyarrow as pa

from dasgm.data._folders import look, tables_in
from dasgm.data._inventory import Inventory
from dasgm.data._layout import PART_OF
from dasgm.data._listing import Files, Listing
from dasgm.data._lists import LABELS
from dasgm.data._pictures import first_ten
from dasgm.data._store import Store
from dasgm.data._tree import identity
from dasgm.options import option
from dasgm.store.files import printable

PATH = "path"


def find(store: Store) -> dict[str, str]:
    """The list of each part, by its file: `train.csv`, `val.csv` and `test.csv`, or one of another name for all.

    Raises:
        ValueError: several lists could be that of a part.
    """
    found: dict[str, str] = {}
    for path in tables_in(store, ""):
        if not path.lower().endswith(".csv") or not _columns(_rows(store, path)[:1]):
            continue
        part = PART_OF.get(path.rpartition(".")[0].lower(), "train")
        if part in found:
            raise ValueError(
                f"{store.name('')}: {first_ten([found[part], path])} both list pictures of {part}: keep one, or call "
                "them train.csv, val.csv and test.csv"
            )
        found[part] = path
    if found and "train" not in found:
        raise ValueError(f"{store.name('')} has {first_ten(found.values())}, but no train.csv: add it")
    return found


def read(store: Store, lists: dict[str, str], skip_unreadable: bool) -> tuple[dict[str, Listing], list[str]]:
    """The pictures that lists name, and lines to be printed.

    Raises:
        ValueError: a picture is not there (and is not to be skipped), has two classes or two paths, or is in two lists.
    """
    seen: dict[int | str, tuple[str, str]] = {}
    entries = {part: _entries(store, path, skip_unreadable, seen) for part, path in lists.items()}
    classes = sorted(set(entries["train"][0].values()))
    pictures = look(store, "").pictures
    sizes = {entry.path: entry.size for entry in pictures}
    notes = [f"{store.name(path)} says which pictures there are, and their classes" for path in lists.values()]
    if others := len({entry.identity or entry.path for entry in pictures} - seen.keys()):
        notes.append(f"{store.name('')}: {others:,} pictures are in no list, and are not used")
    return {part: _listed(store, lists[part], *found, classes, sizes) for part, found in entries.items()}, notes


def _listed(
    store: Store,
    place: str,
    labels: dict[str, str],
    absent: Sequence[str],
    classes: Sequence[str],
    sizes: dict[str, int],
) -> Listing:
    """The pictures of one list, by class, then by path."""
    if strangers := sorted(set(labels.values()) - set(classes)):
        raise ValueError(
            f"{store.name(place)} has classes that the training list lacks: {first_ten(strangers)}; add them there or "
            "remove them"
        )
    number = {name: label for label, name in enumerate(classes)}
    files = sorted((number[name], path.split("/"), path) for path, name in labels.items())
    numbers = np.array([label for label, *_ in files], dtype=np.int64)
    counts = np.bincount(numbers, minlength=len(classes)).tolist()
    shown = tuple(map(printable, classes))
    inventory = Inventory(store.name(place), dict(zip(shown, counts, strict=True)), unreadable=tuple(absent))
    return Listing(
        Files(store, pa.array([os.fsencode(path) for *_, path in files], pa.binary())),
        shown,
        numbers,
        np.array([sizes.get(path, 0) for *_, path in files], dtype=np.int64),
        np.ones(len(files), dtype=bool),
        tuple(inventory.lines()),
        store.name(place),
    )


def _entries(
    store: Store, place: str, skip_unreadable: bool, seen: dict[int | str, tuple[str, str]]
) -> tuple[dict[str, str], list[str]]:
    """The class of each picture of a list, by its path below the root, and the rows whose picture is not there.

    Args:
        seen: the list and the path of each file so far, by its identity: a link gives one file two paths.
    """
    header, *rows = _rows(store, place)
    columns = _columns([header])
    assert columns is not None
    found: dict[str, str] = {}
    absent, shared = [], list[tuple[str, str]]()
    for number, row in enumerate(rows, start=2):
        if len(row) <= max(columns) or not row[columns[1]].strip():
            raise ValueError(f"{store.name(place)} line {number}: expected {PATH} and label; complete or remove it")
        given, name = (row[column].strip() for column in columns)
        path = store.beside(place, given.replace("\\", "/"))
        if path is None:
            absent.append(f"line {number} ({given!r:.80}: no such file below the folder)")
            continue
        other, first = seen.setdefault(identity(store, path), (place, path))
        if other != place:
            shared.append((other, path if path == first else f"{path}, there {first}"))
        elif first != path:
            raise ValueError(
                f"{store.name(place)} line {number}: {given!r:.80} is the same file as {first!r:.80}; keep one"
            )
        elif found.setdefault(path, name) != name:
            raise ValueError(
                f"{store.name(place)} line {number}: {given!r:.80} has the classes {found[path]!r:.80} and "
                f"{name!r:.80}; keep one"
            )
    if shared:
        raise ValueError(
            f"{store.name(place)} and {store.name(shared[0][0])} both name {first_ten(path for _, path in shared)}: a "
            "network must not be tested on the pictures that it is trained on; leave each in one of them"
        )
    if absent and not skip_unreadable:
        raise ValueError(
            f"{store.name(place)}: {len(absent)} of {len(rows)} pictures cannot be read: {first_ten(absent)}; put them "
            f"there, or leave them out with {option('data.skip_unreadable')}"
        )
    return found, absent


def _rows(store: Store, path: str) -> list[list[str]]:
    """The rows of a CSV file that are not empty; [] where it is none."""
    try:
        text = store.read(path).decode("utf-8-sig")
        return [row for row in csv.reader(StringIO(text, newline="")) if row]
    except (OSError, ValueError, csv.Error):
        return []


def _columns(rows: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """The columns of paths and of labels, by the header; None where it is another table."""
    names = [name.strip().lower() for name in rows[0]] if rows else []
    labels = [column for column, name in enumerate(names) if name in LABELS]
    return (names.index(PATH), labels[0]) if PATH in names and len(labels) == 1 else None
