"""A search whose disk fills up, becomes read-only, whose clock is set back, that goes on elsewhere: no bit is lost.

In this process, so that the fault comes at a known moment; the disks, mounts and limits are real.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import safetensors
import torch
from faults import broken_off, config, mount, outcome, search, unmounted, went_on

from dasgm.config import mathematics, to_json
from dasgm.store import files, records
from dasgm.store import run as runs
from dasgm.store.records import amend, read_json_strict, read_lines
from dasgm.store.run import Run, Unwritable


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    search(folder)
    return folder


def test_disk_full_while_a_checkpoint_is_written(tmp_path: Path, undisturbed: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with unmounted(disk):
        mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", disk)

        def fill(epoch: int) -> None:
            room = os.statvfs(disk)
            (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - 200_000))

        reported = broken_off(disk / "run", fill, "No space left on device")
        assert [row["epoch"] for row in reported] == [1, 2]  # the epoch was there, its checkpoint was not
        (disk / "filler").unlink()
        went_on(disk / "run", reported, undisturbed)


def test_disk_full_at_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an empty file can still be made."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with unmounted(disk):
        mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", disk)
        (disk / "run").mkdir()
        with suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        (disk / "run" / "empty").touch()
        full = f"^storage {disk / 'run'}: cannot be written .No space left on device.; name another with --storage$"
        with pytest.raises(Unwritable, match=full):
            search(disk / "run")
        assert [path.name for path in (disk / "run").iterdir()] == ["empty"]
        monkeypatch.setattr(runs, "PROBE", 0)  # as if it filled up just after
        with pytest.raises(OSError, match=f"^storage {disk / 'run'}: No space left on device; what is saved stays"):
            search(disk / "run")


@pytest.mark.faults
def test_file_too_large_while_a_checkpoint_is_written(tmp_path: Path, undisturbed: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        reported = broken_off(
            tmp_path / "run",
            lambda epoch: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1])),
            "File too large",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    went_on(tmp_path / "run", reported, undisturbed)


@pytest.mark.faults
def test_storage_that_becomes_read_only(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "run"
    with unmounted(folder):
        reported = broken_off(
            folder, lambda epoch: mount("--bind", "-o", "ro", folder, folder), "Read-only file system"
        )
        with pytest.raises(Unwritable, match="cannot be written .Read-only file system.; name another with --storage"):
            search(folder)
    went_on(folder, reported, undisturbed)


def test_clock_set_back(tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a day after epoch 1, by another one after epoch 2, where the search is broken off."""
    offset, real = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() - offset[0])

    class Broken(Exception):
        pass

    def set_back(epoch: int) -> None:
        offset[0] += 86400
        if epoch == 2:
            raise Broken

    with pytest.raises(Broken):
        search(tmp_path / "run", set_back)
    assert "going on after epoch 2" in "".join(search(tmp_path / "run"))
    assert outcome(tmp_path / "run") == outcome(undisturbed)
    times = [row["time"] for row in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert times[1] < times[0] - 80000 and (tmp_path / "run" / "report.html").exists()
    told = [line for line in Run(tmp_path / "run").said() if line.startswith("the clock was set back")]
    assert len(told) == 2 and all(re.search(r": 86\d\d\d s behind the last epoch's$", line) for line in told), told


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(runs.fcntl, "flock", refuse)
    with pytest.raises(Unwritable, match=f"^storage {tmp_path}: no file can be locked there .No locks available.$"):
        Run(tmp_path).__enter__()


def torn(content: bytes) -> dict[str, bytes]:
    """A file as a crash of the machine may leave it: cut short, empty, a block of zeros, one bit turned."""
    half = len(content) // 2
    flipped = bytearray(content)
    flipped[half] ^= 1
    return {"short": content[:half], "empty": b"", "zeros": content[:half] + bytes(half), "bit": bytes(flipped)}


def test_torn_files_of_every_kind(tmp_path: Path, undisturbed: Path) -> None:
    """The last checkpoint in four ways, and the last line of the metrics."""
    for name in torn(b"0123"):
        folder = tmp_path / name
        shutil.copytree(undisturbed, folder)
        *_, of_proxy = Run(folder).checkpoints()
        of_proxy.unlink()
        one_before, last = Run(folder).checkpoints()
        last.write_bytes(torn(last.read_bytes())[name])
        with open(folder / "metrics.jsonl", "rb+") as metrics:
            metrics.truncate((folder / "metrics.jsonl").stat().st_size - 20)
        said: list[str] = []
        state = Run(folder).load(said.append)
        assert (
            state and state["epoch"] == 2 and said == [f"checkpoint {last.name} is torn; going on from the one before"]
        )
        assert [row["epoch"] for row in Run(folder).rows()] == [1, 2, 3] and Run(folder).checkpoints() == [one_before]
    search(folder)
    assert outcome(folder) == outcome(undisturbed)


@pytest.mark.faults
def test_all_checkpoints_torn_is_said_and_the_last_is_kept(tmp_path: Path, undisturbed: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    for path in Run(folder).checkpoints():
        path.write_bytes(path.read_bytes()[:-1])
    first, *_, last = Run(folder).checkpoints()
    content = last.read_bytes()
    said = search(folder)
    at = said.index(f"checkpoint {last.name} is torn (kept as {last.name}.torn)")
    assert said[at + 1] == "no sound checkpoint is left; beginning anew" and first.name not in "".join(said)
    assert last.with_name(f"{last.name}.torn").read_bytes() == content
    assert outcome(folder) == outcome(undisturbed)


@contextmanager
def unreadable(number: int) -> Iterator[None]:
    """Every file of ours, in the block, with this error; it is there again afterwards."""

    def refuse(path: Any, mode: str = "r") -> Any:
        if "r" in mode:
            raise OSError(number, os.strerror(number), str(path))
        return open(path, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open", refuse, raising=False)
        yield


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=os.strerror)
def test_what_cannot_be_read_for_a_moment_is_not_written_back_as_nothing(
    tmp_path: Path, undisturbed: Path, number: int
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    run = Run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.folder.glob("*.json*")}
    changes: tuple[Callable[[], Any], ...] = (
        lambda: run.cut(1),
        lambda: run.note(reason="x"),
        lambda: run.begin(to_json(config()), mathematics(config()), {}),
        lambda: amend(run.folder / "run.json", reason="x"),
    )
    for change in changes:
        with unreadable(number), pytest.raises(OSError, match=os.strerror(number)):
            change()
        assert {path.name: path.read_bytes() for path in run.folder.glob("*.json*")} == before
    amend(tmp_path / "none.json", reason="x")  # where there is none, it begins
    assert read_json_strict(tmp_path / "none.json") == {"reason": "x"}


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no answer"), MemoryError(), torch.OutOfMemoryError("x")])
def test_a_checkpoint_that_cannot_be_read_now_is_not_taken_for_none_of_ours(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(safetensors, "safe_open", fail)
    with pytest.raises(type(error)):
        Run(undisturbed).load()


def test_what_cannot_be_understood_is_refused_and_stays(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    run = Run(tmp_path / "run")
    path, lines = run.folder / "run.json", run.folder / "metrics.jsonl"
    for torn in (path.read_bytes()[:-20], b"", b"[1]"):
        path.write_bytes(torn)
        for change in (lambda: run.note(state="x"), lambda: run.begin(to_json(config()), mathematics(config()), {})):
            with pytest.raises(ValueError, match="run.json: .*; mend it, or begin anew under another --name$") as error:
                change()
            assert len(str(error.value).splitlines()) == 1 and path.read_bytes() == torn
    for content, says in (
        (None, "has checkpoints, and no run.json"),
        ('{"format": 99}', "run.json: format 99, expected 2"),
    ):
        path.unlink(missing_ok=True)
        if content:
            path.write_text(content)
        with pytest.raises(ValueError, match=says):
            run.begin(to_json(config()), mathematics(config()), {})
    before = lines.read_bytes()
    monkeypatch.setattr(records, "LONGEST", len(before) - 1)
    with pytest.raises(ValueError, match="metrics.jsonl: larger than"):
        run.cut(1)
    assert lines.read_bytes() == before


def test_what_is_noted_as_a_worker_begins_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASHA may stop a trial just as its worker begins anew."""
    run = Run(tmp_path)
    run.begin(to_json(config()), mathematics(config()), {"driver": "a"})
    notes = threading.Thread(target=lambda: run.note(state="stopped", reason="rung 2: 0.1 < 0.2", rung=2))

    def meanwhile(*_: Any) -> None:
        notes.start()
        notes.join(0.3)

    monkeypatch.setattr(runs, "ensure_same", meanwhile)
    run.begin(to_json(config()), mathematics(config()), {"driver": "a"})
    notes.join()
    assert (run.about["state"], run.about["rung"]) == ("stopped", 2)
    monkeypatch.undo()
    run.begin(to_json(config()), mathematics(config()), {"driver": "a"})
    assert (run.about["state"], run.about["reason"]) == ("stopped", "rung 2: 0.1 < 0.2"), (
        "the worker is taken away soon"
    )
    run.begin(to_json(config()), mathematics(config()), {"driver": "b"})
    assert (run.about["state"], run.about["reason"]) == ("running", "")


def test_a_lock_is_let_go_on_storage_that_has_turned_read_only(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ZeroDivisionError), run:
        lock = run._lock
        assert lock
        turned = SimpleNamespace(truncate=lambda size: os.truncate("/proc/version", size), close=lock.close)
        run._lock = cast(Any, turned)
        raise ZeroDivisionError
    assert not run.busy
