"""The pictures that a person names: files, folders, and patterns such as `holiday/*.jpg`. Imports no torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from dasgm.data._clutter import is_clutter
from dasgm.data._pictures import ENDINGS
from dasgm.data._store import Store
from dasgm.data._tree import walk
from dasgm.store.files import printable


class Unreadable(NamedTuple):
    """A picture, or a folder, that is named and cannot be read."""

    path: Path
    why: str


def pictures(name: str | Path, say: Callable[[str], None] = lambda line: None) -> Iterator[Path | Unreadable]:
    """The pictures that `name` stands for, sorted by path.

    A file stands for itself, whatever its ending. A folder stands for all files below it that end as pictures do,
    without those that other programs leave there. Of a name that does not exist, `*`, `?`, `[...]` and `**` (folders
    of any depth) are wildcards; what they find is read in the same way. A name that finds nothing is returned as it is,
    so that reading it tells why.

    Args:
        say: is told how many files of a folder are left out.
    """
    path = Path(name)
    if os.path.isdir(path):
        yield from _below(path, say)
    elif not os.path.lexists(path) and glob.has_magic(str(name)):
        matches = sorted(glob.glob(str(name), recursive=True))
        for match in map(Path, matches):  # of a folder that ** finds, the files are matches themselves
            if not match.is_dir():
                yield match
            elif "**" not in str(name):
                yield from _below(match, say)
        if not matches:
            yield Unreadable(path, "there is no such file, and none that this pattern finds")
    else:
        yield path


def _below(folder: Path, say: Callable[[str], None]) -> Iterator[Path | Unreadable]:
    found, seen, others = list[Path | Unreadable](), set[int](), 0
    try:
        entries = sorted(walk(Store(str(folder.absolute())), ""), key=lambda entry: (entry.linked, entry.path))
    except ValueError:
        found.append(Unreadable(folder, "this folder cannot be listed"))
        entries = []
    for entry in entries:
        path, clutter = folder / entry.path, is_clutter(entry.name)
        again = entry.linked and entry.identity in seen
        if entry.kind == "broken" and not clutter:
            found.append(Unreadable(path, entry.problem))
        elif entry.kind == "file" and entry.name.lower().endswith(ENDINGS) and not clutter and not again:
            found.append(path)
            seen.add(entry.identity)
        elif entry.kind != "folder" or clutter:
            others += 1
    found.sort(key=lambda one: one.path if isinstance(one, Unreadable) else one)
    if others:
        say(printable(f"{folder}: left out, as no pictures or as linked twice: {others:,}"))
    yield from found or [Unreadable(folder, "there are no pictures in this folder")]
