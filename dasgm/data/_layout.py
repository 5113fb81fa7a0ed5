"""Which folders of a data set are its parts, and which are classes: decided once, for every reader."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from dasgm.data._clutter import DATA, is_clutter, kind_of
from dasgm.data._folders import IMAGES, Part, look, read, tables_in
from dasgm.data._inventory import Inventory
from dasgm.data._pictures import ENDINGS, first_ten
from dasgm.data._store import Store
from dasgm.data._tree import Entry, scan

PARTS = {  # what a part's folder may be called, in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "eval"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
ALIKE = re.compile(rf"(?:^|[^a-z])(?:{'|'.join(PART_OF)})[a-z]?(?:[^a-z]|$)")  # seg_train, train2017, testA
TINY_IMAGENET = "wnids.txt"
NESTED = 4  # folders of one name within one another, as archives of archives leave them
RESULTS = ("run.json", "sweep.json")


class Layout:
    """The parts of a data set in folders. Raises ValueError, one line, where they are not certain.

    parts: the folders, below the store's root, of "train", "val" and "test", where they are there.
    divided: whether there are such folders; else the root's folders are the classes of "train".
    notes: lines worth printing.
    """

    def __init__(self, store: Store):
        self.store, self.notes, self._ignored = store, list[str](), Counter[str]()
        self.root = self._innermost("", store.root.rstrip("/").rpartition("/")[2])
        self._top = scan(store, self.root)
        self._ours = [entry.name for entry in self._top if self._is_ours(entry)]
        names = [entry.name for entry in self._folders(self.root) if entry.name not in self._ours]
        found = defaultdict[str, list[str]](list)
        for name in names:
            found[PART_OF.get(name.lower(), "")].append(name)
        others = found.pop("", [])
        self.divided = bool(found)
        if self.divided:
            self._ensure_certain(found, others)
            self._count_beside()
        self.parts = {part: self._at(some[0]) for part, some in found.items()} or {"train": self.root}
        self._drop_unlabelled()

    def read(self, part: str, classes: Sequence[str] | None = None, skip_unreadable: bool = False) -> Part:
        """The pictures of `part`; `classes` are the training pictures', where these are known.

        Raises ValueError, one line: see `_folders.read`.
        """
        folder = self.parts[part]
        tables = tables_in(self.store, self.root) if folder != self.root else []
        if self.divided:
            folder = self._innermost(folder, folder.rpartition("/")[2])
        found = read(self.store, folder, tables, classes, skip_unreadable, self._ours if not self.divided else ())
        if found.table in tables:  # used after all
            self._ignored[DATA] -= 1
        if found.table is None:
            self._ensure_classes(found, folder)
        return found

    def beside(self) -> list[str]:
        """What lies beside the parts and is ignored, as lines to print."""
        ignored = {kind: n for kind, n in sorted(self._ignored.items()) if n > 0}
        return Inventory(self.store.name(self.root), ignored=ignored).lines()

    def place(self, part: str) -> str:
        """The part's folder as messages have it."""
        return self.store.name(self.parts[part])

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".lstrip("/")

    def _folders(self, folder: str) -> list[Entry]:
        return [e for e in scan(self.store, folder) if e.kind == "folder" and not is_clutter(e.name)]

    def _innermost(self, folder: str, name: str) -> str:
        """The folder, or what it wraps: one folder of its own name and nothing else, or at the root one of parts."""
        for _ in range(NESTED):
            folders = self._folders(folder)
            if len(folders) != 1 or any(e.name.lower().endswith(ENDINGS) for e in scan(self.store, folder)):
                break
            only = folders[0]
            wraps = not folder and only.name.lower() not in PART_OF and self._has_parts(only.path)
            if not wraps and only.name.lower() != name.lower():
                break
            self.notes.append(f"{self.store.name(only.path)} is read: the only folder in {self.store.name(folder)}")
            folder = only.path
        return folder

    def _has_parts(self, folder: str) -> bool:
        return any(entry.name.lower() in PARTS["train"] for entry in self._folders(folder))

    def _is_ours(self, entry: Entry) -> bool:
        """Whether it is where runs are written by default, and has some."""
        if entry.name != "runs" or entry.kind != "folder":
            return False
        inside = (file.name for folder in self._folders(entry.path) for file in scan(self.store, folder.path))
        return any(name in RESULTS for name in inside)

    def _ensure_certain(self, parts: dict[str, list[str]], others: list[str]) -> None:
        root = self.store.name(self.root)
        for some in parts.values():
            if len(some) > 1:
                raise ValueError(f"{root} has {first_ten(some)}, which name the same part: merge them or move one away")
        names = [name for some in parts.values() for name in some]
        holding = {name: len(look(self.store, self._at(name)).pictures) for name in others}
        if classes := [name for name, pictures in holding.items() if pictures]:
            raise ValueError(
                f"{root} has {first_ten(names)} beside {first_ten(classes)}: the former name parts of a data set, the "
                "latter hold pictures; move the latter into train/, or rename the former if they are classes"
            )
        if "train" not in parts:
            raise ValueError(
                f"{root} has {first_ten(names)} but no train/: move the training pictures there, one folder per class, "
                "or rename the folders if they are classes"
            )
        if others:
            self.notes.append(f"{root}: not used, without pictures: {first_ten(others)}")

    def _count_beside(self) -> None:
        """What lies at the root beside the parts."""
        strange = []
        for entry in self._top:
            kind = kind_of(entry.name, above=entry.kind == "file")
            if entry.name in self._ours:
                self._ignored["results of dasgm"] += 1
            elif kind is not None:
                self._ignored[kind] += 1
            elif entry.kind != "folder":
                strange.append(f"{entry.name} ({entry.problem})" if entry.problem else entry.name)
        if strange:
            self.notes.append(f"{self.store.name(self.root)}: not used: {first_ten(strange)}")

    def _drop_unlabelled(self) -> None:
        """tiny-imagenet's test pictures have no labels."""
        if "test" not in self.parts or TINY_IMAGENET not in {entry.name for entry in self._top}:
            return
        folder = self.parts["test"]
        if [entry.name.lower() in IMAGES for entry in self._folders(folder)] == [True]:
            n = len(look(self.store, folder).pictures)
            self.notes.append(f"{self.store.name(folder)} is not used: its {n:,} pictures have no labels")
            del self.parts["test"]

    def _ensure_classes(self, found: Part, folder: str) -> None:
        """No class is called like a part, unless every part has that class."""
        depth = folder.count("/") + 2 if folder else 1  # slashes in the path of a picture that lies in a class's folder
        direct = {picture.name for picture in found.pictures if picture.path.count("/") == depth}
        if not self.divided:
            alike = [name for name in found.classes if ALIKE.search(name.lower())]
            if parts := alike if len(alike) == len(found.classes) else [name for name in alike if name not in direct]:
                raise ValueError(
                    f"{found.place}: {first_ten(parts)} seem to be parts, not classes: rename them to train, val and "
                    "test, each with one folder of pictures per class"
                )
            return
        for name in found.classes:
            if name.lower() not in PART_OF:
                continue
            inside = [{e.name for e in self._folders(part)} for part in self.parts.values()]
            if len(inside) < 2 or name not in direct or not all(name in names for names in inside):
                raise ValueError(
                    f"{found.place} has a folder {name} among its classes, which is the name of a part: move it to "
                    f"{self.store.name(self.root)} if it is one, rename it if it is a class"
                )
            self.notes.append(f"{found.place}/{name} is taken for a class: every part has a folder of that name")
