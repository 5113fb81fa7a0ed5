"""A run's folder, which is the truth: what was asked, what came out, where to go on. Free of torch at import.

config.json  run.json  metrics.jsonl  alphas.jsonl  genotype.json  checkpoints/  pictures/  report.html
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dasgm.store import replica
from dasgm.store.bucket import lies_at, local
from dasgm.store.files import contents, exclusive, printable, reason, short, text, write_atomic
from dasgm.store.lease import Held, holding
from dasgm.store.records import (
    ENDS,
    FORMAT,
    amend,
    digest,
    ensure_only,
    ensure_same,
    kept_lines,
    kept_record,
    read_metrics,
    read_record,
)
from dasgm.store.tensors import packed, unpacked

NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
PROBE = 16 * 2**10  # bytes: on a full disk an empty file can be made


class Unwritable(ValueError):
    """A folder that cannot be written now: its disk may be mended."""


def ensure_writable(folder: Path) -> Path:
    """`folder`, made if need be. Unwritable, in one line, where it cannot be written, or is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        try:
            write_atomic(probe, bytes(PROBE))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise Unwritable(
            f"storage {folder}: cannot be written ({reason(error)}); name another with --storage"
        ) from None
    return folder


def not_written(folder: Path, error: OSError) -> OSError:
    """The error, or one line that says what to do where `folder` cannot be written any more."""
    if error.errno not in NOT_WRITTEN:
        return error
    return OSError(
        f"storage {folder}: {error.strerror}; what is saved stays: mend that, and the same command goes on after it"
    )


def who_am_i() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _take(lock: IO[str]) -> bool:
    """Take the lock, which the kernel frees when its holder dies. Waits for a process that only looks (`Run.busy`).

    Unwritable: there are no locks there.
    """
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
        except OSError as error:  # of a file system mounted without them
            raise Unwritable(
                f"storage {Path(lock.name).parent}: no file can be locked there ({error.strerror})"
            ) from None
    return False


class Locked(ValueError):
    """Another process works on the run."""


class Run:
    """One run's folder, by its path or its address. Only rank 0 opens it for writing; `with` holds its lock.

    A folder that stands for object storage is brought up to date then, and what is new in it is sent (lease.py). A
    process without the lock reads the local copy; `latest` fetches news. `note` and `unheld` write to the storage too.

    Raises:
        Locked: another process works on it (named with its host and number).
        Unwritable: the folder cannot be written.
        ValueError: it holds a run that differs in what it computes.
    """

    def __init__(self, folder: Path | str):
        self.folder = local(folder)
        self._lock: IO[str] | None = None
        self._held: Held | None = None
        self._clock: float | None = None

    def __enter__(self) -> Run:
        self._lock = self._taken("lock")
        try:
            if (held := holding(self.folder)) and (holder := held.hold()):
                raise self._in_use(holder)
            self._held = held
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        held, lock = self._held, self._lock
        self._held = self._lock = None
        try:
            if held:
                held.let_go()
        finally:
            if lock:
                with suppress(OSError):  # it only named the holder
                    lock.truncate(0)
                lock.close()

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Holds the lock of a lone process or of a launcher, before the first worker takes the run's own lock.

        Locked: another process on this machine, or of a shared file system, has it.
        """
        with self._taken("driver.lock"):
            yield

    def _taken(self, name: str) -> IO[str]:
        """A lock of the folder's, which names its holder. Locked: another process has it."""
        ensure_writable(self.folder)
        lock = open(self.folder / name, "a+")
        if not _take(lock):
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise self._in_use(holder)
        lock.truncate(0)
        lock.write("process {pid} on {host}".format(**who_am_i()))
        lock.flush()
        return lock

    def _in_use(self, holder: str) -> Locked:
        return Locked(f"run {lies_at(self.folder)} is in use by {holder}; wait for it, or choose another --name")

    def _send(self) -> None:
        """Something is new in the folder. Locked: another machine has taken it while this one was out of reach."""
        if self._held and (holder := self._held.news()):
            raise self._in_use(holder)

    def latest(self, depth: int = 0) -> Run:
        """Fetches what other machines did in it (`depth`: in runs below too), without checkpoints; returns itself."""
        replica.refresh(self.folder, depth)
        return self

    @contextmanager
    def unheld(self) -> Iterator[Run]:
        """Inside, this process changes a folder that no process holds, itself included: what is new is sent after it.
        Call `latest` first."""
        yield self
        replica.send(self.folder)

    @property
    def busy(self) -> bool:
        """Whether a process holds the lock, here or on another machine."""
        return self._busy_here or replica.claimed(self.folder)

    @property
    def _busy_here(self) -> bool:
        if not (self.folder / "lock").exists():
            return False
        with open(self.folder / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    # what was asked

    @property
    def about(self) -> dict[str, Any]:
        """run.json: state, reason, command, device, swept parameters."""
        return read_record(self.folder / "run.json")

    def note(self, **changes: Any) -> None:
        """Change entries of run.json; a sweep and its worker may both."""
        path = self.folder / "run.json"
        with exclusive(self.folder / "run.json.lock"), replica.shared(path):
            amend(path, **changes)

    def begin(self, settings: dict[str, Any], identity: dict[str, Any], about: dict[str, Any]) -> None:
        """Write down what is asked, or compare it with what this folder began with.

        Args:
            settings: all of them, as config.json keeps them.
            identity: those that change the mathematics, and the digests of what is read: "data", "genotype",
                "gan_checkpoint".
            about: more entries of run.json.

        Raises:
            ValueError: a setting that changes the mathematics differs; it is named, and more epochs never do. Or what
                it began with cannot be read. Or it is finished, and its checkpoints are gone.
        """
        path = self.folder / "run.json"
        ensure_only(self.folder, "run.json")
        with exclusive(self.folder / "run.json.lock"), replica.shared(path):
            begun = kept_record(path)
            if (kind := begun.get("format", FORMAT)) != FORMAT:
                raise ValueError(f"{path}: format {short(kind)}, expected {FORMAT}; use another --name")
            if begun.get("mathematics"):
                ensure_same(f"run {self.folder}", begun["mathematics"], identity)
                if begun.get("state") == "finished" and not any((self.folder / "checkpoints").glob("*.safetensors*")):
                    raise ValueError(
                        f"run {self.folder} is finished, and its checkpoints are gone: it would begin anew and lose "
                        "its results; use another --name"
                    )
            elif self.checkpoints():
                raise ValueError(
                    f"run {self.folder} has checkpoints, and no run.json that says what they are of: put it back, or "
                    "use another --name"
                )
            else:
                begun |= {"format": FORMAT, "started": time.time()}
                begun |= {"identity": digest(identity), "mathematics": identity}
            for line in begun.pop("befell", []):
                self.say(str(line))
            fresh: dict[str, Any] = {"state": "running", "reason": "", "ended": None}
            if begun.get("state") == "stopped" and begun.get("driver") == about.get("driver"):
                fresh = {}  # its sweep has just stopped it, and is about to take this worker away
            write_atomic(self.folder / "config.json", json.dumps(settings, indent=1))
            write_atomic(path, json.dumps(begun | about | fresh | who_am_i(), indent=1))

    # what came out

    def rows(self) -> list[dict[str, Any]]:
        """Every epoch so far, and at the end the best."""
        return read_metrics(self.folder)

    def log(self, name: str, row: dict[str, Any]) -> None:
        """Append a line to <name>.jsonl; where it is earlier than the one before, say so."""
        if name == "metrics":
            self._watch(row["time"])
        with open(self.folder / f"{name}.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._send()

    def _watch(self, now: float) -> None:
        before = self._clock if self._clock is not None else next((r["time"] for r in reversed(self.rows())), now)
        if now < before - 1:
            self.say(f"the clock was set back, or is another machine's: {before - now:.0f} s behind the last epoch's")
        self._clock = now

    def say(self, line: str) -> None:
        """Append a line for people to log.txt."""
        with open(self.folder / "log.txt", "a") as log:
            print(line, file=log)

    def note_incident(self, line: str) -> None:
        """Note what happened to a worker in the log. The worker may still hold the folder; in object storage the next
        process that holds it writes the line."""
        path = self.folder / "run.json"
        if not replica.of(self.folder):
            self.say(line)
            return
        with exclusive(self.folder / "run.json.lock"), replica.shared(path):
            amend(path, befell=[*kept_record(path).get("befell", []), line])

    def said(self) -> list[str]:
        """The lines of log.txt, printable; [] where there are none."""
        try:
            found = contents(self.folder / "log.txt").decode(errors="replace")
        except (OSError, ValueError):
            return []
        return [printable(line) for line in found.splitlines()]

    def cut(self, epoch: int) -> None:
        """Drop the lines after `epoch`: they are about to be computed again."""
        for name in ("metrics", "alphas"):
            path = self.folder / f"{name}.jsonl"
            rows = [r for r in kept_lines(path) if isinstance(r.get("epoch"), int)]
            kept = [r for r in rows if r["epoch"] <= epoch and r.get("phase") not in ENDS]
            write_atomic(path, "".join(json.dumps(r) + "\n" for r in kept))
        for picture in (self.folder / "pictures").glob("*-*.png"):
            of = picture.stem.rpartition("-")[2]
            if of.isdecimal() and int(of) > epoch:
                picture.unlink()

    def picture(self, kind: str, epoch: int) -> Path:
        """Where a picture of an epoch goes."""
        (self.folder / "pictures").mkdir(exist_ok=True)
        return self.folder / "pictures" / f"{kind}-{epoch:03d}.png"

    # where to go on

    def checkpoints(self) -> list[Path]:
        """Sound or not, oldest first: <iteration>-<first 8 digits of the content's sha256>[.<part>].safetensors."""
        found = (path for path in (self.folder / "checkpoints").glob("[0-9]*-*.safetensors") if path.is_file())
        return sorted(found, key=lambda path: (path.name.partition("-")[0], _part(path), path.name))

    def save(self, state: dict[str, Any], iteration: int, keep: int, best: bool, part: str = "") -> None:
        """Write a checkpoint; keep the last `keep` and the best. One of a `part` that follows the last iteration, such
        as a search's proxy, is kept besides, until the next checkpoint is written.
        """
        folder = self.folder / "checkpoints"
        folder.mkdir(exist_ok=True)
        content = packed(state)
        sha256 = hashlib.sha256(content).hexdigest()
        path = folder / f"{iteration:09d}-{sha256[:8]}{part and '.'}{part}.safetensors"
        write_atomic(path, content)
        if best:
            write_atomic(folder / "best", path.name)
        own = [p.name for p in self.checkpoints() if not _part(p)]
        kept = {*own[-keep:], _text(folder / "best"), path.name}
        for old in self.checkpoints():
            if old.name not in kept:
                old.unlink()
        self._send()

    def load(self, say: Any = print) -> dict[str, Any] | None:
        """The last sound checkpoint, or None; a torn one is said in one line and the one before it is taken.

        Where none is sound, the last is kept as <name>.torn: it may be all that is left of days.

        Raises:
            ValueError: it is whole, but none of ours.
        """
        for left_over in (self.folder / "checkpoints").glob(".*.tmp"):
            left_over.unlink()
        torn: list[Path] = []
        for path in reversed(self.checkpoints()):
            with open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256[:8] == path.name.partition(".")[0].rpartition("-")[2]:
                try:
                    state = unpacked(path)
                except ValueError as error:
                    raise ValueError(f"checkpoint {path}: {error}; remove it to go on without") from None
                for old in torn:
                    say(printable(f"checkpoint {old.name} is torn; going on from the one before"))
                    old.unlink()
                return state
            torn.append(path)
        if torn:
            last, *others = torn
            kept = last.replace(last.with_name(f"{last.name}.torn"))
            say(printable(f"checkpoint {last.name} is torn (kept as {kept.name})"))
            say("no sound checkpoint is left; beginning anew")
            for old in others:
                old.unlink()
        elif self.rows():
            say(printable(f"no checkpoint is left in {self.folder}; beginning anew"))
        return None


def _part(checkpoint: Path) -> str:
    """What a checkpoint is of, by its name; '': of an iteration."""
    return checkpoint.stem.partition(".")[2]


def _text(path: Path) -> str:
    try:
        return text(path, 1000)
    except (OSError, ValueError):
        return ""


def state_of(folder: Path) -> str:
    """A run's state; 'running' without a process that holds the lock means 'interrupted'."""
    run = Run(folder)
    if (state := run.about.get("state", "unknown")) != "running" or run.busy:
        return state
    state = run.latest().about.get("state", "unknown")  # it may have ended on another machine since
    return "interrupted" if state == "running" else state


def runs(storage: Path) -> Iterator[Path]:
    """Run folders under a storage: lone ones and trials of sweeps."""
    for path in sorted(storage.glob("*/run.json")) + sorted(storage.glob("*/*/run.json")):
        yield path.parent
