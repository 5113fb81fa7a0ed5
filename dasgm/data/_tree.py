"""What a folder contains, on this machine or on any pyarrow filesystem. All readers of class folders use it."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
from pyarrow import fs

from dasgm.data._clutter import is_clutter
from dasgm.data._store import Store
from dasgm.options import option
from dasgm.store.files import first_line, reason

KINDS: dict[int, Literal["file", "folder"]] = {stat.S_IFREG: "file", stat.S_IFDIR: "folder"}


class Entry(NamedTuple):
    """A file or a folder. Links are followed: the entry is what the link leads to."""

    path: str
    """Below the store's root, "/" between names; bytes that are no UTF-8 as Python's surrogates."""
    kind: Literal["file", "folder", "again", "broken", "other"]
    """again: a folder that was listed already; broken: what cannot be read; other: a pipe or a device."""
    size: int = 0
    linked: bool = False
    """Whether a link leads to it or to a folder above it."""
    identity: int = 0
    """The same number for the same file by two paths; 0 where the filesystem has none."""
    problem: str = ""
    """Why it cannot be read."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def scan(store: Store, folder: str = "") -> list[Entry]:
    """What `folder` directly contains, sorted by name; [] if there is no such folder.

    Raises:
        ValueError: it cannot be read. The message is one line.
    """
    try:
        return _scan(store, folder)
    except FileNotFoundError:
        return []
    except (OSError, pa.ArrowException) as error:
        raise not_listed(store.name(folder), error) from None


def folders_in(entries: Iterable[Entry]) -> list[Entry]:
    """The folders that may be parts or classes: all but clutter."""
    return [entry for entry in entries if entry.kind == "folder" and not is_clutter(entry.name)]


def not_listed(name: str, error: Exception) -> ValueError:
    """The error for a folder that cannot be read."""
    return ValueError(
        f"{name} cannot be listed ({first_line(error)[:200]}): give a folder or a URI as {option('data_dir')}"
    )


def walk(store: Store, folder: str) -> Iterator[Entry]:
    """Everything below `folder`, in no particular order, except what is below a folder of clutter.

    Within each folder directly in `folder` (a class), a folder is listed once, however many links lead to it, and a
    link to a folder above is not followed: both are "again". A folder that cannot be read is "broken".

    Raises:
        ValueError: `folder` itself cannot be read. The message is one line.
    """
    if store.local is None:
        yield from _walk_elsewhere(store, folder)
        return
    for top in scan(store, folder):
        if top.kind == "folder" and not is_clutter(top.name):
            yield from _walk_here(store, store.local, top)
        else:
            yield top


def _walk_here(store: Store, root: str, top: Entry) -> Iterator[Entry]:
    seen = _above(os.path.dirname(os.path.join(root, top.path)))
    pending = deque([top])
    while pending:  # folders without a link come first, so that what is reached twice has its own path
        here = pending.popleft()
        if here.identity in seen:
            yield here._replace(kind="again")
            continue
        seen.add(here.identity)
        if here.linked:
            seen |= _above(os.path.dirname(os.path.realpath(os.path.join(root, here.path))))
        try:
            entries = _scan(store, here.path)
        except OSError as error:
            yield here._replace(kind="broken", problem=reason(error))
            continue
        yield here
        for entry in entries:
            if here.linked:
                entry = entry._replace(linked=True)
            if entry.kind != "folder" or is_clutter(entry.name):
                yield entry
            elif entry.linked:
                pending.append(entry)
            else:
                pending.appendleft(entry)


def _walk_elsewhere(store: Store, folder: str) -> Iterator[Entry]:
    """The same in one listing, because object storage answers that faster than one listing per folder."""
    told = set[str]()
    start = len(folder.split("/")) if folder else 0
    try:
        infos = store.entries(folder, recursive=True)
    except (OSError, pa.ArrowException) as error:
        raise not_listed(store.name(folder), error) from None
    for info in infos:
        entry = _elsewhere(store, info)
        names = entry.path.split("/")
        left_out = next((i for i in range(start, len(names) - 1) if is_clutter(names[i])), None)
        if left_out is not None:
            entry = Entry("/".join(names[: left_out + 1]), "folder")
        if entry.path not in told:
            yield entry
        if entry.kind == "folder":
            told.add(entry.path)


def _scan(store: Store, folder: str) -> list[Entry]:
    if store.local is None:
        return [_elsewhere(store, info) for info in store.entries(folder)]
    with os.scandir(os.path.join(store.local, folder)) as found:
        return sorted(_here(entry, folder) for entry in found)


def _here(found: os.DirEntry[str], folder: str) -> Entry:
    path, linked = f"{folder}/{found.name}" if folder else found.name, found.is_symlink()
    try:
        status = found.stat()
    except OSError as error:
        nowhere = linked and isinstance(error, FileNotFoundError)
        return Entry(path, "broken", linked=linked, problem="a link to nowhere" if nowhere else reason(error))
    return Entry(path, KINDS.get(stat.S_IFMT(status.st_mode), "other"), status.st_size, linked, _identity(status))


def _elsewhere(store: Store, info: fs.FileInfo) -> Entry:
    if info.type == fs.FileType.Directory:
        return Entry(store.below(info), "folder")
    return Entry(store.below(info), "file" if info.type == fs.FileType.File else "other", info.size or 0)


def _above(path: str) -> set[int]:
    """The identities of `path` and of all folders above it."""
    return {_identity(os.stat(folder)) for folder in (Path(path), *Path(path).parents)}


def identity(store: Store, path: str) -> int | str:
    """What is the same for one file by two paths: `Entry.identity`, or the path where the filesystem has none."""
    return path if store.local is None else _identity(os.stat(os.path.join(store.local, path)))


def _identity(status: os.stat_result) -> int:
    return status.st_dev << 64 | status.st_ino
