"""Which folders of a data set are its parts and which are classes. Every reader uses it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from dasgm.data._clutter import DATA, kind_of, replaced
from dasgm.data._folders import IMAGES, FolderPart, absent, look, read, tables_in
from dasgm.data._inventory import Inventory
from dasgm.data._pictures import ENDINGS, first_ten
from dasgm.data._store import Store
from dasgm.data._tree import Entry, folders_in, scan
from dasgm.options import option

PARTS = {  # names that a part's folder may have, in upper or lower case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "eval"),
}
PART_OF = {name: part for part, names in PARTS.items() for name in names}
ALIKE = re.compile(rf"(?:^|[^a-z])(?:{'|'.join(PART_OF)})[a-z]?(?:[^a-z]|$)")  # seg_train, train2017, testA
TINY_IMAGENET = "wnids.txt"
NESTED = 4  # nested folders of the same name, as unpacked archives leave them
RESULTS = ("run.json", "sweep.json", "fit.json")


class Layout:
    """The parts of a data set in folders.

    Attributes:
        parts: folders of "train", "val" and "test" below the store's root, as far as they exist.
        divided: whether there are such folders; if not, the folders in the root are the classes of "train".
        notes: lines to be printed.

    Raises:
        ValueError: it is not certain which folders are parts. The message is one line.
    """

    def __init__(self, store: Store):
        self.store, self.notes, self._ignored = store, list[str](), Counter[str]()
        self._read = dict[str, FolderPart]()
        self._ours = list[str]()
        self.root = self._innermost("", (store.local or store.root).rstrip("/").rpartition("/")[2])
        self._top = scan(store, self.root)
        self._ours = [entry.name for entry in self._top if self._is_ours(entry)]
        names = [entry.name for entry in folders_in(self._top) if entry.name not in self._ours]
        for entry in self._top:
            self._ensure_there(entry)
        found = defaultdict[str, list[str]](list)
        for name in names:
            found[PART_OF.get(name.lower(), "")].append(name)
        others = found.pop("", [])
        self.divided = bool(found)
        if self.divided:
            self._ensure_certain(found, others)
            self._count(self._top)
        self.parts = {part: self._at(some[0]) for part, some in found.items()} or {"train": self.root}
        self._drop_unlabelled()

    def read(self, part: str, classes: Sequence[str] | None = None, skip_unreadable: bool = False) -> FolderPart:
        """The pictures of `part`.

        Args:
            classes: the classes of the training pictures, where they are known.

        Raises:
            ValueError: see `_folders.read`.
        """
        folder = self.parts[part]
        tables = tables_in(self.store, self.root) if folder != self.root else []
        if self.divided:
            folder = self._innermost(folder, folder.rpartition("/")[2])
        found = read(self.store, folder, tables, classes, skip_unreadable, self._ours if not self.divided else ())
        if found.table is None:
            self._ensure_classes(found, folder)
        elif found.table in tables:
            self._ignored[DATA] -= found.table not in {other.table for other in self._read.values()}
            self._ensure_distinct(found)
        self._read[part] = found
        return found

    def beside(self) -> list[str]:
        """Lines to be printed about what lies beside the parts and is ignored."""
        ignored = {kind: n for kind, n in sorted(self._ignored.items()) if n > 0}
        return Inventory(self.store.name(""), ignored=ignored).lines()

    def place(self, part: str) -> str:
        """The folder of a part, as messages name it."""
        return self.store.name(self.parts[part])

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}".lstrip("/")

    def _folders(self, folder: str) -> list[Entry]:
        return folders_in(scan(self.store, folder))

    def _innermost(self, folder: str, name: str) -> str:
        """The folder, or the one that it wraps: its only folder, if that has the same name, or holds class folders in
        images/, or (in the root) holds the parts. Pictures beside the inner folder are not allowed.
        """
        for _ in range(NESTED):
            entries = scan(self.store, folder)
            folders = folders_in(entries)
            if len(folders) != 1 or any(entry.name.lower().endswith(ENDINGS) for entry in entries):
                break
            only = folders[0]
            wraps = not folder and only.name.lower() not in PART_OF and self._has_parts(only.path)
            of_classes = only.name.lower() in IMAGES and self._folders(only.path)
            if not (wraps or of_classes) and only.name.lower() != name.lower():
                break
            self._count(entry for entry in entries if entry != only)
            self.notes.append(f"{self.store.name(only.path)} is read: the only folder in {self.store.name(folder)}")
            folder = only.path
        return folder

    def _has_parts(self, folder: str) -> bool:
        return any(entry.name.lower() in PARTS["train"] for entry in self._folders(folder))

    def _is_ours(self, entry: Entry) -> bool:
        """Whether it is the default folder for runs of dasgm and has some."""
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
        self._ensure_apart(names)
        holding = [name for name in others if look(self.store, self._at(name)).pictures]
        if holding:
            raise ValueError(
                f"{root} has parts of a data set ({first_ten(names)}) beside other folders with pictures "
                f"({first_ten(holding)}): move the others into the training part if they are classes, or elsewhere if "
                f"they are not to be used; if all of them are classes, rename {first_ten(names)}"
            )
        if "train" not in parts:
            raise ValueError(
                f"{root} has {first_ten(names)} but no train/: move the training pictures there, one folder per class, "
                "or rename the folders if they are classes"
            )
        if others:
            self.notes.append(f"{root}: not used, without pictures: {first_ten(others)}")

    def _ensure_apart(self, parts: Collection[str]) -> None:
        """Raises ValueError if a link makes one folder belong to two parts."""
        if self.store.local is None:  # no links there
            return
        seen = dict[int, tuple[str, str]]()
        for top in (entry for entry in self._top if entry.name in parts):
            for entry in (top, *self._folders(top.path)):
                part, path = seen.setdefault(entry.identity, (top.name, entry.path))
                if part != top.name:
                    raise ValueError(
                        f"{self.store.name(path)} and {self.store.name(entry.path)} are the same folder, "
                        "because of a link: a network must not be tested on the pictures that it is trained on; "
                        "remove the link"
                    )

    def _ensure_there(self, entry: Entry) -> None:
        """Raises ValueError for a part that cannot be read or has not been downloaded."""
        if entry.kind == "broken" and entry.name.lower() in PART_OF:
            raise ValueError(f"{self.store.name(entry.path)} cannot be read ({entry.problem}): repair or remove it")
        lacking = absent(self.store, entry)
        if lacking and (replaced(entry.name) or ("",))[0].lower() in PART_OF:
            raise ValueError(f"{lacking}, or remove {entry.name}")

    def _ensure_distinct(self, found: FolderPart) -> None:
        """Raises ValueError if a table beside the parts could mean pictures of two parts."""
        names = {_stem(picture.path) for picture in found.pictures}
        for other in self._read.values():
            if shared := sorted(names & {_stem(picture.path) for picture in other.pictures}):
                raise ValueError(
                    f"{found.place} and {other.place} both have pictures called {first_ten(shared)}: which of them "
                    f"{self.store.name(found.table or '')} means is not certain; move {found.place}'s pictures into "
                    "one folder per class, or move the folder elsewhere"
                )

    def _count(self, entries: Iterable[Entry]) -> None:
        """Counts what lies beside the parts, or beside the folder that holds everything."""
        strange = []
        for entry in entries:
            kind = kind_of(entry.name, above=entry.kind == "file")
            if entry.name in self._ours:
                self._ignored["results of dasgm"] += 1
            elif lacking := absent(self.store, entry):
                strange.append(lacking)
            elif kind is not None:
                self._ignored[kind] += 1
            elif entry.kind != "folder":
                strange.append(f"{entry.name} ({entry.problem})" if entry.problem else entry.name)
        if strange:
            self.notes.append(f"{self.store.name('')}: not used: {first_ten(strange)}")

    def _drop_unlabelled(self) -> None:
        """Leaves out tiny-imagenet's test pictures, which have no labels."""
        if "test" not in self.parts or TINY_IMAGENET not in {entry.name for entry in self._top}:
            return
        folder = self.parts["test"]
        if [entry.name.lower() in IMAGES for entry in self._folders(folder)] == [True]:
            n = len(look(self.store, folder).pictures)
            self.notes.append(f"{self.store.name(folder)} is not used: its {n:,} pictures have no labels")
            del self.parts["test"]

    def _ensure_classes(self, found: FolderPart, folder: str) -> None:
        """Raises ValueError if a class is named like a part, unless every part has a class of that name."""
        depth = folder.count("/") + 2 if folder else 1  # slashes in the path of a picture directly in a class folder
        if nested := {part for picture in found.pictures if (part := _part_below(picture.path, depth))}:
            raise ValueError(
                f"{first_ten(map(self.store.name, sorted(nested)))}: named like parts, but inside class folders; parts "
                "are train/, val/ and test/ above the class folders: move them there, or give the folder that "
                f"holds them as {option('data_dir')}, or rename them"
            )
        direct = {picture.name for picture in found.pictures if picture.path.count("/") == depth}
        if self.divided:
            self._ensure_no_part_among(found, direct)
            return
        alike = [name for name in found.classes if ALIKE.search(name.lower())]
        if parts := alike if len(alike) == len(found.classes) else [name for name in alike if name not in direct]:
            raise ValueError(
                f"{found.place}: {first_ten(parts)} seem to be parts, not classes: rename them to train, val and "
                "test, each with one folder of pictures per class"
            )

    def _ensure_no_part_among(self, found: FolderPart, direct: Collection[str]) -> None:
        """The same within a part. `direct`: classes with pictures directly in their folders."""
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


def _part_below(path: str, depth: int) -> str | None:
    """The first folder on a picture's path, below the first `depth` ones, that is named like a part."""
    if path.count("/") <= depth:
        return None
    folders = path.split("/")[:-1]
    return next(("/".join(folders[: i + 1]) for i in range(depth, len(folders)) if folders[i].lower() in PART_OF), None)


def _stem(path: str) -> str:
    """A picture's name without its ending, which tables may omit."""
    return path.rpartition("/")[2].rpartition(".")[0]
