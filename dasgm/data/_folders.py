"""The pictures below one folder: which files count, which class each has, and what is ignored. Every reader uses it."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dasgm.data._clutter import DATA, is_clutter, kind_of, replaced
from dasgm.data._inventory import Inventory
from dasgm.data._lists import TABLES, classes_in
from dasgm.data._pictures import ENDINGS, first_ten
from dasgm.data._store import Store
from dasgm.data._tree import Entry, scan, walk
from dasgm.options import option
from dasgm.store.files import printable

# folders with the pictures of all classes, where a table names the classes
IMAGES = ("images", "image", "imgs", "img", "pictures", "jpegimages")
AGAIN = "links to what is read already"


class Picture(NamedTuple):
    """A picture file of a class."""

    path: str
    """Below the store's root; bytes that are no UTF-8 as Python's surrogates."""
    size: int
    """In bytes."""
    name: str
    """Name of its class, as the folder or the table writes it."""


@dataclass(frozen=True)
class FolderPart:
    """The pictures of one part of a data set, sorted by path.

    Attributes:
        place: the folder, as messages name it.
        classes: printable names of the classes, in the order of their folders.
        pictures: the pictures.
        inventory: what was counted.
        table: the file that names the class of each picture, where folders do not.
        notes: lines to be printed.
    """

    place: str
    classes: tuple[str, ...]
    pictures: list[Picture]
    inventory: Inventory
    table: str | None = None
    notes: tuple[str, ...] = ()

    def labels(self, classes: Sequence[str]) -> list[int]:
        """The index in `classes` of each picture's class.

        Raises:
            ValueError: a class is not among them.
        """
        number = {key(name): label for label, name in enumerate(classes)}
        if strangers := [name for name in self.classes if key(name) not in number]:
            raise ValueError(
                f"{self.place} has classes that train/ lacks: {first_ten(strangers)}; add them there or remove them"
            )
        return [number[key(picture.name)] for picture in self.pictures]

    def ensure_classes(self) -> None:
        """Raises ValueError where there are fewer than two classes."""
        if len(self.classes) < 2:
            hint = (
                f"; if {self.classes[0]} holds the class folders, give it as {option('data_dir')}"
                if self.classes
                else ""
            )
            found = "one class folder" if self.classes else "no class folders"
            raise ValueError(f"{self.place} has {found}: give at least 2, one per class{hint}")


@dataclass
class FolderContents:
    """Everything below a folder, sorted by what it is."""

    store: Store
    folder: str
    pictures: list[Entry] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Names of the folders directly in it that are not ignored."""
    others: list[str] = field(default_factory=list)
    """Paths, below the folder, of all other files."""
    unreadable: list[str] = field(default_factory=list)
    """'NAME (reason)'."""
    ignored: Counter[str] = field(default_factory=Counter)

    def below(self, entry: Entry) -> str:
        """The path of an entry below the folder."""
        return entry.path[len(self.folder) + 1 :] if self.folder else entry.path

    def loose(self) -> list[Entry]:
        """Pictures directly in the folder."""
        return [entry for entry in self.pictures if "/" not in self.below(entry)]

    def add(self, entry: Entry, below: str) -> None:
        """Adds an entry to the list that it belongs to."""
        top = "/" not in below
        kind = kind_of(entry.name, above=top and entry.kind == "file")
        if kind is None and entry.kind == "file" and below.endswith("_boxes.txt") and _boxes(below):
            kind = DATA
        if kind is not None and (lacking := absent(self.store, entry)):
            self.unreadable.append(lacking)
        elif kind is not None:
            self.ignored[kind] += 1
        elif entry.kind == "again":
            self.ignored[AGAIN] += 1
        elif entry.kind == "broken":
            self.unreadable.append(f"{self.store.name(entry.path)} ({entry.problem})")
        elif entry.kind == "folder":
            self.folders += [below] if top else []
        elif entry.kind == "file" and below.lower().endswith(ENDINGS):
            self.pictures.append(entry)
        else:
            self.others.append(below)


def look(store: Store, folder: str, left_out: Collection[str] = ()) -> FolderContents:
    """Everything below `folder`, except in the folders directly in it that `left_out` names."""
    found = FolderContents(store, folder)
    for entry in walk(store, folder):
        below = found.below(entry)
        if not left_out or below.partition("/")[0] not in left_out:
            found.add(entry, below)
    return found


def absent(store: Store, entry: Entry) -> str | None:
    """'NAME (reason)' of a picture or folder that is missing because `entry` is only a placeholder for it; otherwise
    None.
    """
    found = replaced(entry.name) if entry.kind == "file" else None
    if found is None:
        return None
    path = entry.path.removesuffix(entry.name) + found[0]
    return None if store.exists(path) else f"{store.name(path)} ({found[1]})"


def tables_in(store: Store, folder: str) -> list[str]:
    """Paths of the text tables directly in `folder`, which may name the classes of pictures.

    Kaggle's sample submissions are left out, because the classes in them are made up.
    """
    return [
        entry.path
        for entry in scan(store, folder)
        if entry.kind == "file"
        and entry.name.lower().endswith(TABLES)
        and "submission" not in entry.name.lower()
        and not is_clutter(entry.name)
    ]


def read(
    store: Store,
    folder: str,
    tables: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    skip_unreadable: bool = False,
    left_out: Collection[str] = (),
) -> FolderPart:
    """The pictures below `folder`.

    Each folder in it is a class; without class folders, a table names the class of each picture.

    Args:
        tables: paths of tables that lie elsewhere.
        classes: the classes of the training pictures, where they are known.
        skip_unreadable: whether unreadable files are left out.
        left_out: names of folders in it that are no classes.

    Raises:
        ValueError: a file is no picture, a picture is in no class, or a file cannot be read and is not to be skipped.
    """
    found, place = look(store, folder, left_out), store.name(folder)
    notes = _sound(found, skip_unreadable)
    loose = found.loose()
    images = len(found.folders) == 1 and found.folders[0].lower() in IMAGES and found.folders[0] not in (classes or ())
    table = None
    if loose and found.folders and not images:
        raise ValueError(
            f"{place}: {len(loose)} pictures are in no class folder, but beside them ({first_ten(found.folders)}): "
            f"{first_ten(map(found.below, loose))}; move them into one, or remove them"
        )
    if loose or images:
        table, named = _by_table(found, [*tables, *tables_in(store, folder)], classes)
        found.ignored[DATA] -= table.rpartition("/")[0] == folder
        names, notes = set(named), [*notes, f"{store.name(table)} says which class a picture of {place} has"]
    else:
        named, names = [found.below(entry).partition("/")[0] for entry in found.pictures], set(found.folders)
    ordered = sorted(names | set(named))
    if len(set(map(key, ordered))) < len(ordered):
        raise ValueError(f"{place} has classes whose names look the same: {first_ten(ordered)}; rename some")
    pictures, linked, more = _once(found, named)
    counts = Counter(picture.name for picture in pictures)
    ignored = {kind: n for kind, n in sorted(found.ignored.items()) if n}
    shown = {printable(name): counts[name] for name in ordered}
    inventory = Inventory(place, shown, ignored, linked, tuple(found.unreadable))
    return FolderPart(place, tuple(shown), pictures, inventory, table, (*notes, *more))


def key(name: str) -> str:
    """The class name in a normal form. macOS decomposes accents, other systems do not."""
    return unicodedata.normalize("NFC", printable(name))


def _boxes(below: str) -> bool:
    """Whether it is tiny-imagenet's list of the bounding boxes of a class."""
    return below.split("/")[-1] == f"{below.split('/')[0]}_boxes.txt"


def _sound(found: FolderContents, skip_unreadable: bool) -> list[str]:
    """Raises ValueError for files that should not be there. Directly in the root of the data they only give a note."""
    root = not found.folder
    notes, others = [name for name in found.others if root and "/" not in name], found.others
    if others := [found.store.name(f"{found.folder}/{name}".lstrip("/")) for name in others if name not in notes]:
        raise ValueError(
            f"{len(others)} files are no jpg, png, webp or gif pictures: {first_ten(others)}; convert or remove them"
        )
    if found.unreadable and not skip_unreadable:
        raise ValueError(
            f"{len(found.unreadable)} of {len(found.unreadable) + len(found.pictures)} pictures cannot be read: "
            f"{first_ten(found.unreadable)}; repair or remove them, or leave them out with "
            f"{option('data.skip_unreadable')}"
        )
    return [f"{found.store.name('')}: not used: {first_ten(notes)}"] if notes else []


def _by_table(found: FolderContents, tables: Sequence[str], classes: Sequence[str] | None) -> tuple[str, list[str]]:
    """The table that names the class of every picture, and these classes.

    Raises:
        ValueError: there is no such table, or several disagree.
    """
    names = [entry.name for entry in found.pictures]
    known = {name for shown in classes for name in (shown, key(shown))} if classes else None
    fits = []
    for path in dict.fromkeys(tables):
        try:
            text = found.store.read(path).decode("utf-8-sig")
        except (OSError, ValueError):
            continue
        if labels := classes_in(text, names, known):
            fits.append((path, labels))
    if len({tuple(labels) for _, labels in fits}) == 1:
        return fits[0]
    place = found.store.name(found.folder)
    if fits:
        raise ValueError(
            f"{place}: {first_ten(found.store.name(path) for path, _ in fits)} disagree on the classes of its "
            "pictures: keep only the right one there"
        )
    hint = " (of ImageNet, LOC_val_solution.csv)" if names and names[0].startswith("ILSVRC2012_val_") else ""
    raise ValueError(
        f"{place} holds {len(names)} pictures in no class folder, and no table there says which class each has{hint}: "
        "move them into one folder per class, add such a table, or move the folder elsewhere"
    )


def _once(found: FolderContents, names: Sequence[str]) -> tuple[list[Picture], int, list[str]]:
    """Each picture once per class, by path; the number of pictures that only links lead to; lines to be printed."""
    if not any(entry.linked for entry in found.pictures):
        pictures = [Picture(e.path, e.size, name) for e, name in zip(found.pictures, names, strict=True)]
        return sorted(pictures), 0, []
    kept, linked, where = [], 0, defaultdict[int, set[str]](set)
    for entry, name in sorted(zip(found.pictures, names, strict=True), key=lambda pair: (pair[0].linked, pair[0].path)):
        if entry.linked and name in where[entry.identity]:
            found.ignored[AGAIN] += 1
            continue
        where[entry.identity].add(name)
        kept.append(Picture(entry.path, entry.size, name))
        linked += entry.linked
    several = [entry.path for entry in found.pictures if entry.linked and len(where[entry.identity]) > 1]
    place = found.store.name(found.folder)
    notes = [f"{place}: {len(several)} links lead to pictures that have another class as well: {first_ten(several)}"]
    return sorted(kept), linked, notes if several else []
