"""A folder of many runs, which one command makes and continues: the searches of a sweep, or evaluations side by side.

sweep.json is the record of the folder. What is known of a run lies in the run's own folder in it.
"""

from __future__ import annotations

import errno
import math
import os
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster import connection
from cluster.driver import ended
from cluster.options import GroupOptions
from cluster.patience import say_now
from cluster.room import Workers
from cluster.stores import ensure_known, set_environment
from dasgm.store import legacy
from dasgm.store.files import printable
from dasgm.store.records import FORMAT, amend, another, ensure_only, first_difference, kept_record
from dasgm.store.replica import discard, following
from dasgm.store.run import NOT_WRITTEN, Run, Unwritable, not_written

CUT_OFF = "with the command"
"""The reason that is noted for a run that was still in progress when the command ended."""


class Group(ABC):
    """The folder and what the command does with it. A subclass says which runs there are and how they are done.

    Args:
        options: where the folder lies, and how many runs there are at once.
        name: the folder's name if the options have none.
        command: continues the group.
    """

    kind = ""
    """The entry `kind` of sweep.json. A sweep of searches has none."""
    what = "group"
    """What the folder is called in messages."""
    one, many = "run", "runs"
    """What the runs are called in messages."""

    def __init__(self, options: GroupOptions, name: str, command: str):
        self.options: Any = options
        self.command = command
        self.folder = (options.storage / (options.name or name)).absolute()
        self.scratch = self.folder / ".ray"  # Ray's own notes while it runs
        self.link: str | None = None
        """MLflow's page of the group, once it has been sent."""
        self.interrupted = False
        """Whether Ctrl-C ended the runs without an exception."""
        self.begun = time.monotonic()

    # ---------------------------------------------------------------- what a subclass supplies

    @property
    @abstractmethod
    def headline(self) -> str:
        """What the command is about to do, in one line."""

    @property
    @abstractmethod
    def total(self) -> int:
        """The number of runs."""

    @abstractmethod
    def dry_run(self) -> None:
        """Print what the runs would cost."""

    @abstractmethod
    def check(self) -> Workers:
        """Check everything that can be wrong before Ray starts, and return the workers of each run.

        Raises:
            ValueError: what is wrong.
        """

    @abstractmethod
    def compare(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The record of this folder, empty for a new one, and the settings that must not change between commands.

        Raises:
            ValueError: the folder began with other mathematics; what differs is named.
        """

    @abstractmethod
    def entries(self) -> dict[str, Any]:
        """Entries of sweep.json that are written anew each time."""

    def has(self, name: str) -> bool:
        """Whether the command is about the run with this name: the folder may hold runs of earlier commands."""
        return True

    @abstractmethod
    def left(self) -> int:
        """The number of runs that are still to be done."""

    @abstractmethod
    def work(self, workers: Workers, slots: int, kick: Callable[[], None]) -> None:
        """Do them.

        Args:
            slots: number of runs that fit at once.
            kick: to be called when there is something new for MLflow.
        """

    @abstractmethod
    def settle(self) -> bool:
        """Note which runs were cut off, now that none runs any more; return whether all came to their end."""

    @abstractmethod
    def write_pages(self) -> None:
        """Write what a reader of the folder looks at."""

    @abstractmethod
    def show(self) -> bool:
        """Print what came of the runs; return whether that is a success."""

    # ---------------------------------------------------------------- the record

    def note(self, **changes: Any) -> None:
        """Change entries of sweep.json."""
        amend(self.folder / "sweep.json", **changes)

    def record(self) -> dict[str, Any]:
        """What sweep.json says; empty if there is none.

        Raises:
            ValueError: the folder belongs to another command, or dasgm 0.1.0 left it unfinished.
        """
        ensure_only(self.folder, "sweep.json")
        found = kept_record(self.folder / "sweep.json")
        if found and (kind := found.get("kind", "")) != self.kind:
            what = kind or "a sweep of searches"
            raise ValueError(f"{self.folder} holds {what}, expected {self.many}; use another --name")
        if legacy.wrote(found) and found.get("state") != "finished":
            raise legacy.unfinished(self.folder)
        return found

    def ensure_same(self, known: dict[str, Any], asked: dict[str, Any]) -> None:
        """ValueError if the folder began with other mathematics than asked for; it names the first difference."""
        if key := first_difference(known, asked):
            raise another(f"{self.what} {self.folder}", key, known, asked)

    def begin(self) -> None:
        """Write sweep.json, or compare it with what is asked for. ValueError: see `compare`."""
        begun, asked = self.compare()
        if legacy.wrote(begun):
            if self.left():
                raise legacy.unfinished(self.folder)
            return  # an older version finished it: it is only shown
        first = {"format": FORMAT, "started": time.time(), "mathematics": asked}
        first |= {"kind": self.kind} if self.kind else {}
        now = {"name": self.folder.name, "state": "running", "reason": "", "ended": None}
        now |= {"command": self.command, "machine": connection.machine()}
        self.note(**(first | begun | now | self.entries()))

    # ---------------------------------------------------------------- the runs

    def make(self) -> bool:
        """Do what is left; return whether every run came to its end.

        Raises:
            ValueError, OSError: what cannot be used, or written.
            connection.Failed: Ray failed to do something.
        """
        say_now(self.headline)
        with _full_disk_named(self):
            ensure_known()
            workers = self.check()
            with Run(self.folder) as run:
                run.latest(depth=1)
                self.begin()
                return self.run(workers)

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return seconds_left(self.options.time_budget, self.begun) <= 0

    def carry_out(self) -> int:
        """Do what is left, and show what came of it; the exit code, see the function `carry_out`."""
        complete = self.make()
        succeeded = self.show()
        if complete:
            return 0 if succeeded else 1
        say_now(f"not every {self.one} came to its end. To continue: {self.command}")
        if self.out_of_time:
            return 0
        if self.interrupted:
            return 130
        print(printable(f"error: {self.why()}"), file=sys.stderr)
        return 1

    def run(self, workers: Workers) -> bool:
        """Do what is left, and send it to MLflow meanwhile; return whether every run came to its end."""
        from cluster.tracking import MlflowSync

        set_environment()  # Tune imports mlflow too, and earlier
        left, mirror = self.left(), MlflowSync(self.folder).start()
        try:
            with following(self.folder):
                if left:
                    say_now(f"starting Ray: {left} of {self.total} {self.many} to run")
                    with connection.connected(workers) as slots:
                        self.work(workers, slots, mirror.kick)
        finally:
            discard(self.scratch)
            complete = self.settle()
            self.note(state="finished" if complete else "interrupted", ended=time.time())
            self.write_pages()
            if missing := mirror.stop(20):
                print(missing)
        self.link = mirror.link
        return complete

    def in_mlflow(self) -> str:
        """The line that says how to open the group's `link`."""
        from cluster.tracking import address, ui_command

        storage = self.folder.parent
        serve = ui_command(storage)
        return f"  {serve + ' & ' if serve else ''}# then open {address(str(self.link), storage)}"

    def why(self) -> str:
        """What kept a run from its end, in one line."""
        from dasgm.pages.view import read_trials

        cut = [run for run in read_trials(self.folder) if run.state == "interrupted" and self.has(run.folder.name)]
        reasons = {run.title: run.info.get("reason") for run in cut}
        lines = (f"{title}: {reason}" for title, reason in reasons.items() if reason not in ("", None, CUT_OFF))
        return next(lines, f"it ended before its {self.many}; see their logs")


def seconds_left(budget: float | None, begun: float) -> float:
    """Seconds that are left of a time budget since `begun`, by time.monotonic; infinite without a budget."""
    return math.inf if budget is None else budget - (time.monotonic() - begun)


def carry_out(group: Group) -> int:
    """Make or continue a group; the command's exit code.

    Returns:
        0 when it is done, or its time budget is used up; 1 when something failed; 2 for a user's mistake; 130 when it
        was stopped.
    """

    def job() -> int:
        if not group.options.dry_run:
            return group.carry_out()
        group.dry_run()
        return 0

    return ended(job, group.folder, group.command)


@contextmanager
def _full_disk_named(group: Group) -> Iterator[None]:
    """Raise an OSError of one line in place of any error that a full disk caused: Optuna and Tune have their own."""
    try:
        yield
    except (connection.Failed, Unwritable):
        raise
    except Exception as error:
        if full := _unwritten(error):
            raise not_written(group.folder, full) from None
        raise


def _unwritten(error: BaseException | None) -> OSError | None:
    """What in an error's causes says that the disk is full or cannot be written, the study's SQLite included."""
    numbers = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
    while error is not None:
        number = error.errno if isinstance(error, OSError) else numbers.get(getattr(error, "sqlite_errorcode", 0) & 255)
        if number in NOT_WRITTEN:
            return OSError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None
