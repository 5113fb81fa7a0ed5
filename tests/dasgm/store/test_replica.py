"""Object storage against a mock S3 server: what a folder stands for is kept alike, and held by one at a time."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from typing import Any

import pytest
from buckets import Server
from commands import start, wait_for
from outcomes import rows_of
from patience import until
from replicas import SEARCH, files, work
from reproduced import searched

from cluster import room
from cluster.room import Workers
from dasgm.cli import main as cli
from dasgm.store import legacy, replica
from dasgm.store.bucket import Storage, lies_at, local, storage
from dasgm.store.files import version
from dasgm.store.records import read_json, read_lines
from dasgm.store.replica import CLAIMS, here, refresh
from dasgm.store.run import Run, runs


def test_another_machine_has_the_same_files_and_goes_on(server, machine):
    with Run("s3://bucket/r1/x") as run:
        work(run, range(1, 4))
        run.note(state="interrupted")
        mine = files(run.folder)
    assert lies_at(run.folder) == "s3://bucket/r1/x"
    machine("b")
    with Run("s3://bucket/r1/x") as run:
        assert files(run.folder) == mine
        state = run.load()
        assert state and state["epoch"] == 3
        work(run, range(4, 6))
        mine = files(run.folder)
    there = {name: server.read(f"r1/x/{name}") for name in server.names("r1/x/") if name[0] != "." and name[-1:] != "/"}
    assert there == mine and len([name for name in mine if name.endswith(".safetensors")]) == 3  # two and the best
    machine("a")
    with Run("s3://bucket/r1/x") as run:
        assert files(run.folder) == mine


def test_what_a_manifest_does_not_name_does_not_count(server, machine):
    """A process that is killed between a checkpoint and the manifest."""
    with Run("s3://bucket/r2/x") as run:
        work(run, range(1, 3))
    server.client.put_object(Bucket="bucket", Key="r2/x/checkpoints/000000009-00000000.safetensors", Body=b"half")
    machine("b")
    with Run("s3://bucket/r2/x") as run:
        state = run.load()
        assert state and state["epoch"] == 2
    assert "checkpoints/000000009-00000000.safetensors" not in server.names("r2/x/")


def test_checkpoints_of_dasgm_0_1_0_stay_when_their_run_is_refused(server, machine):
    with Run("s3://bucket/r0/x") as run:
        work(run, range(1, 3))
        for checkpoint in run.checkpoints():
            checkpoint.rename(checkpoint.with_suffix(".pt"))
        run.note(format=1, state="interrupted")
    machine("b")
    with pytest.raises(ValueError, match="r0/x: written by dasgm 0.1.0: "), Run("s3://bucket/r0/x") as run:
        legacy.result(run, {})
    assert len([name for name in server.names("r0/x/checkpoints/") if name.endswith(".pt")]) == 2


def test_driver_sees_light_files_only_and_both_change_run_json(server, machine):
    """A sweep's driver on one machine, the trial's worker on another."""
    driver = Run(local("s3://bucket/r10") / "s" / "t000")
    driver.folder.mkdir(parents=True)
    driver.note(state="waiting", asked=1)
    machine("b")
    with Run("s3://bucket/r10/s/t000") as worker:
        assert worker.about == {"state": "waiting", "asked": 1}
        work(worker, range(1, 3))
        worker.note(state="running")
        until(lambda: ".manifest" in server.names("r10/s/t000/"))
        machine("a")
        driver.note(rung=2)
        machine("b")
        worker.note(judge={"accuracy": 0.5})
    assert worker.about == {"state": "running", "asked": 1, "rung": 2, "judge": {"accuracy": 0.5}}
    machine("a")
    refresh(driver.folder.parent, 1)
    assert driver.about == worker.about and len(driver.rows()) == 2
    assert (driver.folder / "pictures" / "cells-002.png").read_bytes() == b"picture 2"
    assert not (driver.folder / "checkpoints").exists()
    driver.cut(1)  # what a stopped trial did beyond its rung
    replica.send(driver.folder)
    machine("b")
    with Run("s3://bucket/r10/s/t000") as worker:
        assert len(worker.rows()) == 1 and len(worker.checkpoints()) == 2
        assert not (worker.folder / "pictures" / "cells-002.png").exists()


def test_reader_leaves_alone_what_its_machine_works_on(machine):
    with Run("s3://bucket/r11/x") as run:
        work(run, range(1, 3))
        refresh(run.folder)
        assert len(run.rows()) == 2 and len(run.checkpoints()) == 2


def test_object_that_is_replaced_while_it_is_read_is_read_whole(server, machine):
    """pyarrow reads as many bytes as the object had a moment before."""
    place = Storage("s3://bucket/r18")
    system, path = place._opened

    class Overtaken:
        """Between the question for the size and the answer to that for the bytes another writes, once."""

        later = [b"much longer"]

        def open_input_stream(self, name: str) -> Any:
            stream = system.open_input_stream(name)
            if self.later:
                server.client.put_object(Bucket="bucket", Key="r18/o", Body=self.later.pop())
            return stream

    place.write("o", b"short")
    place.__dict__["_opened"] = Overtaken(), path
    assert place.read("o") == b"much longer"


def test_database_is_copied_whole_while_it_is_written(server, machine, tmp_path):
    with Run("s3://bucket/r12/s") as run:
        study = sqlite3.connect(run.folder / "study.db")
        study.execute("create table t (n)")
        study.executemany("insert into t values (?)", [(n,) for n in range(1000)])
        study.commit()
        study.execute("insert into t values (1000)")  # begun, not done
        replica.send(run.folder)
        (tmp_path / "copy.db").write_bytes(server.read("r12/s/study.db"))
        study.rollback()
    assert sqlite3.connect(tmp_path / "copy.db").execute("select count(*) from t").fetchone() == (1000,)


def test_all_runs_of_a_storage_are_found(machine, capsys):
    for name in ("x", "s/t000"):
        with Run(f"s3://bucket/r13/{name}") as run:
            work(run, range(1, 2))
            run.note(state="finished")
    machine("b")
    assert [p.name for p in runs(here("s3://bucket/r13", depth=2))] == ["x", "t000"]
    assert cli.main(["runs", "--storage", "s3://bucket/r13"]) == 0
    assert "s3://bucket/r13" in capsys.readouterr().out


def test_the_papers_results_lie_in_the_storage(server, machine, capsys):
    with Run("s3://bucket/r21/s/t000") as run:
        searched(run.folder, "darts-1st", 0, 0.75)
    machine("b")
    assert cli.main(["report", "s3://bucket/r21", "--paper"]) == 0
    assert capsys.readouterr().out.split() == [f"s3://bucket/r21/paper.{kind}" for kind in ("html", "md")]
    text = server.read("r21/paper.md").decode()
    assert "1 run in s3://bucket/r21." in text and "| DARTS-1st | not trained | 3.00 ± 0.14 | 25.00 (n = 1" in text
    assert "--name darts-1st-cifar10 --storage s3://bucket/r21" in text
    assert server.read("r21/paper.html").decode().count("<svg") == 1


def test_made_once_for_all_machines(server, machine):
    cache = local("s3://bucket/r14") / "cache"
    cache.mkdir()
    with replica.shared(cache / "judge.safetensors", once=True):
        (cache / "judge.safetensors").write_bytes(b"weights")
    machine("b")
    other = local("s3://bucket/r14") / "cache"
    assert other != cache
    with replica.shared(other / "judge.safetensors", once=True):
        assert (other / "judge.safetensors").read_bytes() == (cache / "judge.safetensors").read_bytes()


BAD = [
    ("s3://wrong/runs", "wrong"),
    ("s3://key:secret@bucket/runs", "no password"),
    ("s3://bucket/runs?colour=red", "colour behind its question mark: expected endpoint_override"),
    ("s3://bucket/runs?secret_key=secret", "secret_key behind its question mark"),
    ("s3://bucket/runs?secret/+K7==", "something behind its"),
    ("s3://bucket/runs?secret", "something behind its question mark"),
    ("s3://bucket/runs?endpoint_override=http://key:secret@host", "no password in"),
    ("abfs://container/runs?account_key=secret", "account_key behind its question mark: expected no option"),
    ("s3:///runs", "expected s3://BUCKET/PREFIX"),
    ("s3://bucket/../../runs", "expected s3://BUCKET/PREFIX"),
    ("nosuch://bucket/runs", "nosuch"),
]


@pytest.mark.parametrize(("place", "part"), BAD, ids=[part for _, part in BAD])
def test_storage_that_cannot_be_used_is_one_line(machine, capsys, tmp_path, place, part):
    with pytest.raises(SystemExit) as error:
        cli.main(["search", "--storage", place])
    said = capsys.readouterr()
    assert error.value.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert part in said.err and "secret" not in (said.err + said.out).replace("secret_key behind", "")
    assert not any(b"secret" in note.read_bytes() for note in (tmp_path / "a").rglob(".mirror"))


def test_server_that_is_not_there_is_one_line(machine, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["search", "--storage", "s3://bucket/runs?endpoint_override=127.0.0.1:9&scheme=http"])
    assert error.value.code == 2 and "AWS_ENDPOINT_URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        b'{"session": "s", "files": {"../../escaped": "1-1"}}',
        b'{"session": "s", "files": {"a": "1-1"',
        b'{"session": "s", "files": {"a": 1}}',
        b'{"session": "s", "files": ["a"]}',
        b'{"session": 1, "files": {}}',
        b'{"files": {}}',
        b"[1]",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_foreign_manifest_is_one_line_and_writes_nowhere_else(server, machine, monkeypatch, content):
    server.client.put_object(Bucket="bucket", Key="r15/x/.manifest", Body=content)
    with pytest.raises(ValueError, match="none of ours"):
        here("s3://bucket/r15/x")
    storage.cache_clear()
    told: list[str] = []
    monkeypatch.setattr(storage("s3://bucket/r15/x"), "say", told.append)
    refresh(local("s3://bucket/r15/x"))
    assert len(told) == 1 and "none of ours" in told[0]


def test_a_folder_from_elsewhere_says_nothing_about_storage(server, machine, tmp_path, capsys):
    """It could name any that this user may write."""
    with Run("s3://bucket/r21/x") as run:
        work(run, range(1, 3))
    before = {name: server.read(f"r21/x/{name}") for name in server.names("r21/x/")}
    received = tmp_path / "received" / "x"
    received.mkdir(parents=True)
    (received / ".mirror").write_text("s3://bucket/r21/x")
    (received / "run.json").write_text('{"state": "running"}')
    assert cli.main(["runs", "--storage", str(received.parent)]) == 0 and "interrupted" in capsys.readouterr().out
    with Run(received) as run:
        run.note(state="failed")
    assert {name: server.read(f"r21/x/{name}") for name in server.names("r21/x/")} == before
    assert lies_at(received) == str(received)


def test_clocks_of_two_machines_need_not_agree(server, machine, monkeypatch):
    """Who still holds a run is told by the storage's clock."""
    server.client.put_object(Bucket="bucket", Key="r22/x/.claims/other", Body=b"process 7 on elsewhere")
    clock = time.time
    for age, hours, alive in ((60, 0, True), (60, 5, True), (60, -5, True), (1, 0, False), (1, -5, False)):
        machine("a", age)
        time.sleep(2.1 if age == 1 else 0)
        monkeypatch.setattr(replica, "_worked", {})
        monkeypatch.setattr(time, "time", lambda hours=hours: clock() + 3600 * hours)
        storage.cache_clear()
        assert Run("s3://bucket/r22/x").busy == alive, (age, hours)
    assert not [name for name in server.names("r22/x/") if "probe" in name]


def test_of_runs_that_ended_nothing_is_asked_again(server, machine, monkeypatch):
    for name, state in (("t0", "finished"), ("t1", "running"), ("t2", "stopped")):
        with Run(f"s3://bucket/r24/s/{name}") as run:
            work(run, range(1, 3))
            run.note(state=state)
    machine("b")
    asked, listed, ended = list[str](), Storage.list, set[str]()
    monkeypatch.setattr(Storage, "list", lambda self, name: asked.append(name) or listed(self, name))
    folder = local("s3://bucket/r24/s")

    def looked() -> list[str]:
        asked.clear()
        refresh(folder, 1, ended)
        return [name for name in asked if name.endswith("/") and CLAIMS not in name]

    assert looked() == ["t0/", "t1/", "t2/"] and ended == {"t0", "t2"}
    assert len(Run(folder / "t2").rows()) == 2
    before = version(folder / "t1" / "run.json")
    assert looked() == ["t1/"] and version(folder / "t1" / "run.json") == before
    Run(folder / "t0").note(state="waiting")  # taken up again
    assert looked() == ["t0/", "t1/"] and ended == {"t2"}


def test_a_storage_that_does_not_tell_its_clock_is_asked_again(server, machine, monkeypatch):
    found, written, clock = Storage("s3://bucket/r25"), Storage.write, time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600)

    def away(*_: Any) -> None:
        raise OSError("503")

    monkeypatch.setattr(Storage, "write", away)
    assert found.now("x/") - clock() > 3590
    monkeypatch.setattr(Storage, "write", written)
    assert abs(found.now("x/") - clock()) < 5


def test_file_address_is_the_folder_itself(tmp_path):
    assert local(f"file://{tmp_path}/runs") == tmp_path / "runs"
    assert lies_at("DARTS_V2") == "DARTS_V2"


@pytest.mark.slow
def test_killed_search_goes_on_on_another_machine_with_the_same_bits(server, machine, tmp_path, capsys):
    place = "s3://bucket/r16"
    process = start("-m", "dasgm", *SEARCH, f"--storage={place}", **server.machine(tmp_path / "a", 6))
    wait_for(process, lambda: b'"epoch": 2' in read(server, "r16/x/metrics.jsonl"))
    machine("b", 6)
    with pytest.raises(SystemExit) as refused:
        cli.main([*SEARCH, f"--storage={place}"])
    assert refused.value.code == 2 and f"in use by process {process.pid} on" in capsys.readouterr().err
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until(lambda: not Run(f"{place}/x").busy)
    assert cli.main([*SEARCH, f"--storage={place}"]) == 0
    said = capsys.readouterr().out
    assert "going on after epoch" in said and f"everything lies in {place}/x" in said
    assert cli.main([*SEARCH, f"--storage={tmp_path}/alone"]) == 0
    alone = tmp_path / "alone" / "x"
    assert rows_of(local(f"{place}/x")) == rows_of(alone)
    for name in ("genotype.json", "alphas.jsonl"):
        assert server.read(f"r16/x/{name}") == (alone / name).read_bytes()
    machine("c")
    assert cli.main(["draw", f"{place}/x/genotype.json", f"--output={tmp_path}/cells.png"]) == 0
    assert cli.main(["evaluate", f"{place}/x", "--dry-run"]) == 0
    assert read_json(local(f"{place}/x") / "run.json")["state"] == "finished"


def read(server: Server, name: str) -> bytes:
    return server.read(name) if name in server.names(name)[:1] or server.names(name) == [""] else b""


def state_of_train(kind: str, error: Exception | None) -> Any:
    """A state of Ray Train's controller, after this error of its workers."""
    from ray.train import ControllerError
    from ray.train.v2._internal.execution.controller import state as of_train

    one = object.__new__(getattr(of_train, f"{kind}State"))
    if error:
        one.training_failed_error = ControllerError(error)
    return one


@pytest.mark.parametrize("place", ["folder", "s3://bucket/waiting"])
def test_workers_that_wait_for_room_say_so_once_and_give_up(place, server, machine, tmp_path, monkeypatch):
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    machine("worker")
    folder = local(place if "://" in place else tmp_path / place)
    with Run(folder) as run:
        run.say("epoch 1")
        run.log("metrics", {"epoch": 1, "phase": "search 1", "time": 1e9})
    machine("head")
    folder = local(place) if "://" in place else folder
    now = [100.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(room, "_machines", lambda free: [{"CPU": 1.0}])
    waiter = room.waiter(folder, Workers(2, wait=30.0))

    def enter(kind: str, seconds: float = 0.0, error: Exception | None = None) -> None:
        now[0] += seconds
        waiter.after_controller_state_update(None, state_of_train(kind, error))

    none = WorkerGroupStartupTimeoutError(2)
    for _ in range(2):  # the time counts anew once they ran
        enter("Running")
        enter("Preempting", 60)
        enter("Restarting")
        enter("Rescheduling", 10, none)
        enter("Scheduling")
        enter("Rescheduling", 19, none)
    asks = "a search asks for 2 worker(s) with 2 CPUs in all"
    line = f"waiting up to 30 s for room on the cluster: {asks}, it has 1 CPUs and 0 GPUs free"
    machine("another worker")
    found = here(place) if "://" in place else folder
    assert Run(found).said() == ["epoch 1", line, line]
    assert [row["epoch"] for row in read_lines(found / "metrics.jsonl")] == [1]
    machine("head")
    with pytest.raises(RuntimeError, match="after 30 s the cluster has 1 CPUs and 0 GPUs free"):
        enter("Rescheduling", 1, none)
    enter("Running")
    enter("Scheduling", 40)
    for _ in range(room.STARTS):  # there was room: what that took is not waited for it
        enter("Rescheduling", 40, OSError("a worker died"))
        enter("Scheduling")
    before = Run(folder).said()
    with pytest.raises(RuntimeError, match="after 30 s the cluster has"):
        enter("Rescheduling", 30, none)
    assert Run(folder).said() == [*before, line], "what is given up was said to be waited for"
    with pytest.raises(OSError, match="a worker died"):
        enter("Rescheduling", 0, OSError("a worker died"))
