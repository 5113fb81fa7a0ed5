"""A folder of many runs: its record, how a command on it ends, and what it leaves; without Ray and MLflow."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import connection, tracking
from cluster.connection import Failed
from cluster.group import CUT_OFF, Group, carry_out
from cluster.options import GroupOptions
from cluster.room import Workers
from dasgm.store.records import read_json
from dasgm.store.run import Run, Unwritable


class Toys(Group):
    """Two runs, which end in the states that they are given; `fault` is raised while they run."""

    kind, one, many = "toys", "toy", "toys"

    def __init__(
        self, storage: Path, states: list[str], size: int = 1, fault: BaseException | None = None, **more: Any
    ):
        super().__init__(GroupOptions(None, storage=storage, **more), "group", "make toys")
        self.states, self.size, self.fault, self.worked = states, size, fault, False
        self.runs = [Run(self.folder / f"r{number}") for number in range(len(states))]

    @property
    def headline(self) -> str:
        return "toys are made"

    @property
    def total(self) -> int:
        return len(self.states)

    def dry_run(self) -> None:
        print("toys cost nothing")

    def check(self) -> Workers:
        return Workers()

    def compare(self) -> tuple[dict[str, Any], dict[str, Any]]:
        begun, asked = self.record(), {"size": self.size}
        if begun:
            self.ensure_same(begun["mathematics"], asked)
        return begun, asked

    def entries(self) -> dict[str, Any]:
        return {"preset": "toy"}

    def left(self) -> int:
        return sum(run.about.get("state") != "finished" for run in self.runs)

    def work(self, workers: Workers, slots: int, kick: Callable[[], None]) -> None:
        self.worked = True
        self.scratch.mkdir()
        for run, state in zip(self.runs, self.states, strict=True):
            run.folder.mkdir(exist_ok=True)
            run.note(title=run.folder.name, state=state, reason="no room" if state == "interrupted" else "")
        if self.fault:
            raise self.fault

    def settle(self) -> bool:
        return all(run.about.get("state") in ("finished", "failed") for run in self.runs)

    def write_pages(self) -> None:
        (self.folder / "page").write_text(read_json(self.folder / "sweep.json")["state"])

    def show(self) -> bool:
        return all(run.about["state"] == "finished" for run in self.runs)


class Silent:
    """In place of MLflow's thread."""

    link = None

    def __init__(self, folder: Path):
        pass

    def start(self) -> Silent:
        return self

    def kick(self) -> None:
        pass

    def stop(self, timeout: float) -> str:
        return "MLflow: not all was sent"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    @contextmanager
    def connected(workers: Workers) -> Iterator[int]:
        yield 1

    monkeypatch.setattr(connection, "connected", connected)
    monkeypatch.setattr(tracking, "MlflowSync", Silent)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def ended(group: Group) -> int:
    """The exit code, a mistake's too."""
    try:
        return carry_out(group)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def record(storage: Path) -> dict[str, Any]:
    return read_json(storage / "group" / "sweep.json")


def test_what_finished_is_not_done_again_and_its_record_stays(tmp_path, capsys):
    assert ended(Toys(tmp_path, ["finished", "finished"])) == 0
    said, first = capsys.readouterr(), record(tmp_path)
    assert "starting Ray: 2 of 2 toys to run\n" in said.out and "not all was sent" in said.out and not said.err
    assert [first[key] for key in ("kind", "name", "state", "command")] == ["toys", "group", "finished", "make toys"]
    assert not (tmp_path / "group" / ".ray").exists() and (tmp_path / "group" / "page").read_text() == "finished"
    again = Toys(tmp_path, ["finished", "finished"])
    assert ended(again) == 0 and not again.worked and record(tmp_path)["started"] == first["started"]


def test_a_run_that_failed_is_exit_code_1(tmp_path):
    assert ended(Toys(tmp_path, ["finished", "failed"])) == 1 and record(tmp_path)["state"] == "finished"


def test_what_was_cut_off_says_why_and_how_to_continue(tmp_path, capsys):
    assert ended(Toys(tmp_path, ["finished", "interrupted"])) == 1
    said = capsys.readouterr()
    assert said.err == "error: r1: no room\n" and "not every toy came to its end. To continue: make toys\n" in said.out
    assert record(tmp_path)["state"] == "interrupted" and (tmp_path / "group" / "page").read_text() == "interrupted"
    rest = Toys(tmp_path, ["finished", "finished"])
    assert ended(rest) == 0 and "starting Ray: 1 of 2 toys to run\n" in capsys.readouterr().out


def test_a_time_budget_that_is_used_up_is_a_success(tmp_path, capsys):
    group = Toys(tmp_path, ["finished", "interrupted"], time_budget=60.0)
    group.begun = time.monotonic() - 61
    assert ended(group) == 0 and "To continue: make toys\n" in capsys.readouterr().out
    assert ended(Toys(tmp_path, ["finished", "interrupted"], time_budget=60.0)) == 1


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "To continue: make toys\n"),
        (Failed("no Ray"), 1, "error: no Ray\n"),
        (ValueError("size 0: expected more"), 2, "error: size 0: expected more\n"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 2, "group: No space left on device; what is saved stays"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_other_ends_are_one_line_and_leave_nothing(tmp_path, capsys, fault, code, says):
    assert ended(Toys(tmp_path, ["interrupted", "interrupted"], fault=fault)) == code
    said = capsys.readouterr()
    assert says in said.out + said.err and len(said.err.splitlines()) == (code != 130)
    assert record(tmp_path)["state"] == "interrupted" and not (tmp_path / "group" / ".ray").exists()
    assert not Run(tmp_path / "group").busy


def test_a_full_disk_is_named_though_another_error_hides_it(tmp_path, capsys):
    hidden = RuntimeError("the library's own")
    hidden.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert ended(Toys(tmp_path, ["interrupted"], fault=hidden)) == 2
    assert "group: No space left on device" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        carry_out(Toys(tmp_path, ["interrupted"], fault=RuntimeError("a bug")))


def test_another_command_or_other_mathematics_are_refused(tmp_path, capsys):
    assert ended(Toys(tmp_path, ["finished"])) == 0
    before = record(tmp_path)
    assert ended(Toys(tmp_path, ["finished"], size=2)) == 2
    assert "group began with size = 1, but this command asks for 2; choose another --name" in capsys.readouterr().err
    other = Toys(tmp_path, ["finished"])
    other.kind = ""
    assert ended(other) == 2 and record(tmp_path) == before
    assert "group holds toys, expected toys" in capsys.readouterr().err
    with Run(tmp_path / "group"):
        assert ended(Toys(tmp_path, ["finished"])) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_a_dry_run_starts_nothing(tmp_path, capsys):
    assert ended(Toys(tmp_path, ["finished"], dry_run=True)) == 0
    assert capsys.readouterr().out == "toys cost nothing\n" and not list(tmp_path.iterdir())


def test_storage_that_cannot_be_written_keeps_its_remedy(tmp_path, capsys):
    """`Unwritable` has an OSError in its context, which is not a disk that fills up during the runs."""
    try:
        try:
            raise OSError(errno.EROFS, "Read-only file system")
        except OSError:
            raise Unwritable("storage x: cannot be written (Read-only file system); name another") from None
    except Unwritable as error:
        fault = error
    assert ended(Toys(tmp_path, ["finished"], fault=fault)) == 2
    assert "name another" in capsys.readouterr().err


def test_why_is_of_this_command_and_names_a_cause(tmp_path):
    toys = Toys(tmp_path, ["interrupted", "interrupted", "interrupted"])
    for run, reason in zip(toys.runs, ("an earlier command's", CUT_OFF, "no room"), strict=True):
        run.folder.mkdir(parents=True)
        run.note(title=run.folder.name, state="interrupted", reason=reason)
    toys.has = lambda name: name != toys.runs[0].folder.name
    assert toys.why() == "r2: no room"
