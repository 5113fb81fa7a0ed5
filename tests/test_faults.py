"""A search whose disk fills up, becomes read-only, whose clock is set back, that goes on elsewhere: no bit is lost.

In this process, so that the fault comes at a known moment; the disks, mounts and limits are real.
"""

from __future__ import annotations

import errno
import math
import os
import re
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cluster import job
from dasgm.config import SearchConfig, mathematics, override, to_json
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.store import files, records
from dasgm.store import run as runs
from dasgm.store.records import amend, read_json_strict, read_lines
from dasgm.store.run import Run, Unwritable, state_of

TIMES = ("time", "speed/", "cost/")
TINY = {"gan": "none", "method.epochs": 3, "method.arch_start_epoch": 1, "method.channels": 2, "batch_size": 8}
TINY |= {"data.limit": 200, "data.holdout": 0.2, "pictures_every": 9}
TINY |= {"proxy.epochs": 1, "proxy.channels": 4, "proxy.batch_size": 8}


def config() -> SearchConfig:
    return override(preset("quickstart").config, TINY)


def search(folder: Path, at_epoch: Callable[[int], None] = lambda epoch: None) -> list[str]:
    """Begin or continue it; what it said. `at_epoch` is called once an epoch is saved."""
    said: list[str] = []
    main(config(), folder, Hooks(say=said.append, report=lambda row: at_epoch(row["epoch"])))
    return said


def outcome(folder: Path) -> list[Any]:
    """All that must not depend on what happened on the way."""
    rows = [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in read_lines(folder / "metrics.jsonl")]
    return [rows, read_lines(folder / "alphas.jsonl"), (folder / "genotype.json").read_text(), state_of(folder)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    search(folder)
    return folder


def mount(*words: str | Path) -> None:
    if subprocess.run(["mount", *words], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount")


@contextmanager
def unmounted(folder: Path) -> Iterator[None]:
    """Whatever is mounted there in the block is not afterwards."""
    try:
        yield
    finally:
        while subprocess.run(["umount", "--lazy", folder], stderr=subprocess.DEVNULL).returncode == 0:
            pass


def broken_off(folder: Path, at_epoch: Callable[[int], None], says: str) -> list[dict[str, Any]]:
    """Run into the fault that comes after epoch 1; the epochs that were reported before it."""
    with pytest.raises(OSError) as error:
        search(folder, at_epoch)
    line = str(error.value)
    assert line.startswith(f"storage {folder}: ") and says in line and len(line.splitlines()) == 1
    assert state_of(folder) == "interrupted" and not list((folder / "checkpoints").glob(".*"))
    return read_lines(folder / "metrics.jsonl")


def went_on(folder: Path, reported: list[dict[str, Any]], undisturbed: Path) -> None:
    """The same call ends as if nothing had been; what was reported and saved is not computed again."""
    said = search(folder)
    assert f"going on after epoch 1 of {folder}" in said
    assert read_lines(folder / "metrics.jsonl")[:1] == reported[:1]  # the time too
    assert outcome(folder) == outcome(undisturbed)


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
    first, last = Run(folder).checkpoints()
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

    monkeypatch.setattr(torch, "load", fail)
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
        ('{"format": 99}', "run.json: format 99, expected 1"),
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

    monkeypatch.setattr(Run, "_ensure_same", meanwhile)
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


# ------------------------------------------------------------------------------------------------ other placement


def worker(rank: int, folder: str, workers: int, ends: int) -> None:
    """One of so many; all of them are gone, without a word, after epoch `ends`."""
    job.meet(f"{folder}/meet-{workers}-{ends}", rank, workers, "gloo")

    def report(row: dict[str, Any]) -> None:
        dist.barrier()
        if row["epoch"] == ends:
            os._exit(9)

    run = Run(Path(folder) / "run")
    main(override(config(), {"threads": 1}), run.folder, Hooks(say=run.say, report=report))


def odd_worker(rank: int, folder: str, workers: int, odd: int, value: float) -> None:
    """One of so many; in `odd`'s memory A becomes something else at the end of epoch 2."""
    job.meet(f"{folder}/meet-odd", rank, workers, "gloo")
    iterate = Search.iterate

    def moved(self: Search) -> Any:
        losses = iterate(self)
        if rank == odd and self.iteration == 2 * self.batches:
            next(iter(self.A.params.values())).data.fill_(value)
        return losses

    Search.iterate = moved  # type: ignore[method-assign]
    run = Run(Path(folder) / "run")
    with pytest.raises(RuntimeError, match=f"^epoch 2: worker {odd} holds another A than the others$"):
        main(override(config(), {"threads": 1}), run.folder, Hooks(say=run.say))


def on(folder: Path, workers: int, ends: int = 0) -> None:
    processes = mp.spawn(worker, (str(folder), workers, ends), nprocs=workers, join=False)
    while not ends and not processes.join():  # raises what one of them raised
        pass
    for process in processes.processes:
        process.join()
        assert process.exitcode == (9 if ends else 0)


@pytest.mark.faults
@pytest.mark.parametrize(("odd", "value"), [(0, math.nan), (2, 0.5)], ids=["NaN", "finite"])
def test_a_worker_that_holds_another_A_is_named_by_all_and_the_next_try_goes_on(
    tmp_path: Path, odd: int, value: float
) -> None:
    (tmp_path / "run").mkdir()
    mp.spawn(odd_worker, (str(tmp_path), 3, odd, value), nprocs=3)
    assert state_of(tmp_path / "run") == "interrupted"
    on(tmp_path, 3)
    assert "going on after epoch 1" in (tmp_path / "run" / "log.txt").read_text()
    assert state_of(tmp_path / "run") == "finished"


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_search_on_two_workers_goes_on_on_one_and_on_four(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "undisturbed"):
        (place / "run").mkdir(parents=True)
    on(tmp_path / "undisturbed", 2)
    on(tmp_path, 2, ends=1)
    first = read_lines(tmp_path / "run" / "metrics.jsonl")
    for workers in (1, 4, 2):
        folder = tmp_path / str(workers)
        shutil.copytree(tmp_path / "run", folder / "run")
        on(folder, workers)
        rows, log = read_lines(folder / "run" / "metrics.jsonl"), (folder / "run" / "log.txt").read_text()
        assert [row["epoch"] for row in rows] == [1, 2, 3, 3] and rows[:1] == first
        assert "going on after epoch 1" in log and state_of(folder / "run") == "finished"
        line = f"it began on 2 worker(s) and goes on on {workers}: batches of 8 a worker"
        assert (line in log) == (workers != 2), log
        assert (outcome(folder / "run") == outcome(tmp_path / "undisturbed" / "run")) == (workers == 2)
        state = Run(folder / "run").load()
        assert state
        rates = [state["search"][name]["optimizer"]["param_groups"][0]["lr"] for name in "WA"]
        low, high = config().classifier_lr_min, config().classifier_lr  # not rescaled: of the last of three epochs
        assert rates == pytest.approx([low + (high - low) * (1 + math.cos(math.pi * 2 / 3)) / 2, config().arch_lr])
        assert Run(folder / "run").about["mathematics"] == Run(tmp_path / "run").about["mathematics"]
