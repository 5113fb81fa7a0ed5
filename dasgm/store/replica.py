"""A run's folder and what it stands for in object storage, kept alike: the rest of the code works on the folder.

There, it has the files that it has here, and besides
  .manifest   the files, each with its time and size, written after them: what it does not name does not count
  .claims/    an object of whoever works on it, written anew while he lives: object storage has no locks
run.json is not in the manifest: a sweep and its worker both change it, so each change reads it and writes it whole.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dasgm.store.bucket import Storage, local, place_file, root_of, storage
from dasgm.store.files import exclusive, plain
from dasgm.store.records import ENDED, read_record

PAUSE = 5.0  # seconds between two looks at what is new
ABOUT, MANIFEST, CLAIMS, SESSION = "run.json", ".manifest", ".claims", ".session"
SENT = re.compile(r"((checkpoints|pictures)/)?(?!lock$|run\.json$)[\w-][\w. -]*(?<!\.lock)(?<!-journal)")
TAG = re.compile(r"\d{1,18}-\d{1,18}")  # see `_tag`
NO_RUNS = ("checkpoints", "pictures", "cache")
ORDER = ("checkpoints/[0-9]*", "*.jsonl", "*", "checkpoints/best", "pictures/*")
"""A checkpoint's rows are written before it: looking for checkpoints first, then reading the rows, finds both."""


held: dict[Path, Replica] = {}
"""Folders that this process holds (lease.py)."""
_worked: dict[Path, float] = {}
"""When a process was last seen to work in a folder."""


def age() -> float:
    """Seconds after which who gave no sign of life no longer holds a run."""
    return float(os.environ.get("DASGM_LOCK_AGE", 60))


def of(folder: Path) -> Replica | None:
    """What a folder stands for, if it stands for something."""
    if found := held.get(folder.absolute()):
        return found
    root, uri = root_of(folder)
    if not root:
        return None
    below = folder.absolute().relative_to(root).as_posix()
    return Replica(folder, storage(uri), "" if below == "." else f"{below}/")


def here(place: str | Path, depth: int = 0) -> Path:
    """Where a path or an address is here: the files there are fetched, but for checkpoints, and those of runs in it.

    Args:
        place: of a folder, or of one of its files.
        depth: how far below runs are looked for.

    Raises:
        ValueError: the storage cannot be read: one line.
    """
    name = ""
    if "://" in str(place) and (parts := urlsplit(str(place))).path.endswith((".json", ".safetensors")):
        above, _, name = parts.path.rpartition("/")
        place = parts._replace(path=above).geturl()
    folder = local(place)
    if replica := of(folder):
        with replica.storage.needed():
            replica.storage.look()
            replica.refresh(depth)
    return folder / name


def refresh(folder: Path, depth: int = 0, ended: set[str] | None = None) -> None:
    """The same for a folder in passing: a storage that does not answer is said, and left."""
    if replica := of(folder):
        replica.storage.attempt(lambda: replica.refresh(depth, ended))


def speak(folder: Path, say: Callable[[str], None]) -> None:
    """What befalls a folder's storage is told to `say`."""
    if replica := of(folder):
        replica.storage.say = say


def send(folder: Path) -> None:
    """What is new in a folder goes to what it stands for, now."""
    if replica := of(folder):
        replica.storage.attempt(replica.push)


def discard(folder: Path) -> None:
    """Remove a folder here, and what it stands for."""
    shutil.rmtree(folder, ignore_errors=True)
    if replica := of(folder):
        replica.storage.attempt(lambda: replica.storage.remove_all(replica.prefix))


def claimed(folder: Path) -> bool:
    """Whether a process on any machine works in a folder that stands for object storage; a yes holds for PAUSE."""
    place, found = folder.absolute(), list[str]()
    if time.monotonic() - _worked.get(place, -math.inf) < PAUSE:
        return True
    if replica := of(folder):
        replica.storage.attempt(lambda: found.extend(replica.claims()))
    if found:
        _worked[place] = time.monotonic()
    return bool(found)


@contextmanager
def following(folder: Path) -> Iterator[None]:
    """In here, what others do in a folder, and in the runs in it, is fetched every PAUSE seconds, and at the end.

    The caller has just fetched what they did before.
    """
    over, ended = threading.Event(), set[str]()

    def follow() -> None:
        while not over.wait(PAUSE):
            refresh(folder, 1, ended)

    thread = threading.Thread(target=follow, daemon=True)
    if of(folder):
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
        refresh(folder, 1)


def ensure_writable(folder: Path) -> None:
    """ValueError in one line where a folder stands for what cannot be written."""
    if replica := of(folder):
        with replica.storage.needed():
            probe = f"{replica.prefix}.probe-{uuid.uuid4().hex}"
            replica.storage.write(probe, b"")
            if replica.storage.read(probe) is None:
                raise OSError("what is written cannot be read")
            replica.storage.remove(probe)


@contextmanager
def shared(path: Path, once: bool = False) -> Iterator[None]:
    """Around what reads and changes a file that other machines do too. `once`: made by the first, then constant."""
    if not (once and path.exists()):
        fetch(path)
    yield
    offer(path, once)


def fetch(path: Path) -> None:
    """Bring one file of a folder up to date, whose storage may not answer."""
    if replica := of(path.parent):
        replica.storage.attempt(lambda: replica.fetch(path.name))


def offer(path: Path, once: bool = False) -> None:
    """Send one file of a folder. `once`: unless there is one."""
    if replica := of(path.parent):
        replica.offer(path.name, once)


def withdraw(path: Path) -> None:
    """Remove one file of a folder, here and there."""
    path.unlink(missing_ok=True)
    if replica := of(path.parent):
        replica.storage.attempt(lambda: replica.withdraw(path.name))


def for_ray(folder: Path) -> tuple[str, Any]:
    """A folder that Ray's machines share: its path, and the pyarrow filesystem that it is in (None: the machine's)."""
    replica = of(folder)
    return (f"{replica.storage.path}/{replica.prefix[:-1]}", replica.storage.system) if replica else (str(folder), None)


class Replica:
    """A local folder and its copy in the storage. A process that holds neither fetches only the light files."""

    session = ""
    """The session of this process, if it holds the folder."""

    def __init__(self, folder: Path, storage: Storage, prefix: str):
        self.folder, self.storage, self.prefix = folder, storage, prefix
        self._one = threading.Lock()
        self._known: dict[str, Any] | None = None

    # files of their own: run.json, and what is made once for all

    def fetch(self, name: str) -> None:
        """Fetch a file from the storage, unless there is none or the local one is still to be sent."""
        path = self.folder / name
        if self._unsent(name).exists() or (content := self.storage.read(self.prefix + name)) is None:
            return
        if not path.is_file() or path.read_bytes() != content:  # its time shows readers that it changed
            place_file(path, content)

    def offer(self, name: str, once: bool = False) -> None:
        """Send a file: now, or later if that fails."""
        path = self.folder / name

        def send() -> None:
            if path.exists() and not (once and name in self.storage.list(self.prefix)):
                self.storage.write(self.prefix + name, path.read_bytes())

        if self.storage.attempt(send):
            self._unsent(name).unlink(missing_ok=True)
        elif not once:
            self._unsent(name).touch()

    def withdraw(self, name: str) -> None:
        """Remove a file from the storage."""
        self._unsent(name).unlink(missing_ok=True)
        self.storage.remove(self.prefix + name)

    def _unsent(self, name: str) -> Path:
        return self.folder / f".unsent-{name}"

    # the others

    def refresh(self, depth: int = 0, ended: set[str] | None = None) -> None:
        """Fetch what is new in the storage, without checkpoints, for this folder and the runs in it.

        `ended`: runs to leave out. Runs that have ended and that no process holds are added to it.
        """
        below = self.storage.list(self.prefix)
        if {MANIFEST, ABOUT} & set(below) and not self.session:
            self._fetch_light()
        if depth:
            folders = [name for name, made in below.items() if made is None]
            runs = [name for name in folders if name not in NO_RUNS and not name.startswith(".")]
            self._refresh_runs(runs, depth - 1, set() if ended is None else ended)

    def _fetch_light(self) -> None:
        """Fetch all files but checkpoints, where what lies there is not older than what is here."""
        with exclusive(self.folder / ".refresh.lock"):  # or one that read earlier might write later
            found = self.manifest()
            if found and found["session"] != text(self.folder / SESSION):  # else this folder is at least as new
                self.pull(found["files"], light=True)
            with exclusive(self.folder / f"{ABOUT}.lock"):
                self.fetch(ABOUT)

    def _refresh_runs(self, names: list[str], depth: int, ended: set[str]) -> None:
        """Refresh the runs in this folder; those that have ended and that no process holds are left out next time."""
        for name in names:
            its = Replica(self.folder / name, self.storage, f"{self.prefix}{name}/")
            if name in ended and its._ended():  # otherwise it was continued from here
                continue
            its.refresh(depth)
            (ended.add if its._ended() and not its.claims() else ended.discard)(name)

    def _ended(self) -> bool:
        return read_record(self.folder / ABOUT).get("state") in ENDED

    def push(self) -> None:
        """Send what is new, the manifest last, and remove what was removed here."""
        with self._one:
            known = self._known or self.manifest() or {"session": "", "files": {}}
            files, there = dict(known["files"]), set[str]()
            for name in self._names(*ORDER):
                tag = _tag(self.folder / name)
                if files.get(name) != tag:
                    try:
                        content = _content(self.folder / name)
                    except FileNotFoundError:  # an old checkpoint that has just gone
                        continue
                    self.storage.write(self.prefix + name, content)
                    files[name] = tag
                there.add(name)
            gone = [name for name in files if name not in there and (self.session or not _heavy(name))]
            files = {name: tag for name, tag in files.items() if name not in gone}
            session = self.session or (uuid.uuid4().hex if files != known["files"] else known["session"])
            if known != (now := {"session": session, "files": files}):
                self.storage.write(self.prefix + MANIFEST, json.dumps(now).encode())
                self._known = now if self.session else None  # no other process writes it
            for name in gone:
                self.storage.remove(self.prefix + name)
            if self._unsent(ABOUT).exists():
                self.storage.write(self.prefix + ABOUT, (self.folder / ABOUT).read_bytes())
                self._unsent(ABOUT).unlink()

    def claims(self, *but: str) -> list[str]:
        """The sessions that hold it, without `but`; the time is that of the first in `but`, else the storage's."""
        found = {name: made.timestamp() for name, made in self.storage.list(self.prefix + CLAIMS).items() if made}
        now = found.get(but[0], 0.0) if but else time.time()
        if not but and not all(0 <= now - made < age() for made in found.values()):  # dead, or the clock here is wrong
            now = self.storage.now(self.prefix)
        return [name for name, made in found.items() if name not in but and now - made < age()]

    def manifest(self) -> dict[str, Any] | None:
        """Its session and files; None: there is none. OSError: one that no Replica wrote."""
        if not (content := self.storage.read(self.prefix + MANIFEST)):
            return None
        try:
            found = plain(content.decode())
            session, files = found["session"], found["files"]
            sound = (
                isinstance(session, str) and all(map(SENT.fullmatch, files)) and all(map(TAG.fullmatch, files.values()))
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            sound = False
        if not sound:
            raise OSError(f"{self.prefix}{MANIFEST} is none of ours")
        return {"session": session, "files": files}

    def pull(self, files: dict[str, str], light: bool) -> None:
        """Make what is here like `files`; what only this folder ever had goes too, unless it is `light`."""
        for name, tag in files.items():
            if tag != _tag(self.folder / name) and not (light and _heavy(name)):
                content = self.storage.read(self.prefix + name)
                with self._ours(light) as ours:
                    if ours and content is not None:
                        (self.folder / f"{name}-journal").unlink(missing_ok=True)  # of the database that was here
                        place_file(self.folder / name, content, int(tag.partition("-")[0]))
        before = self.folder / MANIFEST
        there = _known_here(before) if light else list(self._names("*", "*/*"))
        with self._ours(light) as ours:
            for name in there if ours else ():
                if name not in files and not (light and _heavy(name)):
                    (self.folder / name).unlink(missing_ok=True)
        place_file(before, json.dumps(files).encode())

    @contextmanager
    def _ours(self, light: bool) -> Iterator[bool]:
        """Whether files may change: this process holds the folder, or none of this machine does, nor will in here."""
        if not light:
            yield True
        else:
            with open(self.folder / "lock", "a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    yield False
                else:
                    yield True

    def _names(self, *patterns: str) -> Iterator[str]:
        for pattern in patterns:
            for path in sorted(self.folder.glob(pattern)):
                if path.is_file() and SENT.fullmatch(name := path.relative_to(self.folder).as_posix()):
                    yield name


def _tag(path: Path) -> str:
    """Tells one content from another: a file's time (microseconds) and size. What is fetched gets the time it had."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_mtime_ns // 1000}-{found.st_size}"


def _content(path: Path) -> bytes:
    """A file's; of a database that is being written as it was at one moment."""
    if path.suffix != ".db":
        return path.read_bytes()
    try:
        with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(":memory:")) as copy:
            source.backup(copy)
            return copy.serialize()
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from None


def _heavy(name: str) -> bool:
    return name.startswith("checkpoints/")


def _known_here(manifest: Path) -> dict[str, Any]:
    """The files that were fetched last; {} if the manifest is torn."""
    try:
        found = plain(text(manifest) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def text(path: Path) -> str:
    """The text of a file of our own; '' if there is none. That of a torn file matches nothing."""
    return path.read_text(errors="replace") if path.exists() else ""
