"""A run in object storage is held by one process at a time, whoever dies and whatever goes away."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack

import pytest
from patience import now, rest, until
from replicas import files, work

from cluster import job
from dasgm.config import SearchConfig, mathematics, to_json
from dasgm.jobs import session
from dasgm.presets import preset
from dasgm.store import replica
from dasgm.store.bucket import local, storage
from dasgm.store.records import read_lines
from dasgm.store.run import Locked, Run


def test_second_is_refused_and_told_of_the_first(machine):
    with Run("s3://bucket/r3/x"):
        machine("b")
        assert Run("s3://bucket/r3/x").busy
        with pytest.raises(Locked, match=rf"s3://bucket/r3/x is in use by process {os.getpid()} on "):
            Run("s3://bucket/r3/x").__enter__()
    until(lambda: not Run("s3://bucket/r3/x").busy)
    with Run("s3://bucket/r3/x"):
        pass


def test_dead_holder_is_followed_once_its_time_is_over(server, machine):
    server.client.put_object(Bucket="bucket", Key="r4/x/.claims/dead", Body=b"process 7 on elsewhere")
    with pytest.raises(Locked, match="s3://bucket/r4/x is in use by process 7 on elsewhere"):
        Run("s3://bucket/r4/x").__enter__()
    machine("a", 1)
    time.sleep(2.1)
    with Run("s3://bucket/r4/x"):
        assert not any("dead" in name for name in server.names("r4/x/.claims/"))


@pytest.mark.parametrize("place", ["folder", "s3://bucket/r20/x"])
def test_what_befell_a_worker_is_in_the_log_of_who_goes_on_elsewhere(place, machine, tmp_path):
    place = place if "://" in place else tmp_path / place
    with Run(place) as run:
        run.say("epoch 1")
        if "://" in str(place):
            machine("head")
        Run(place).note_incident("worker 0 failed: lost")
    machine("b")
    with Run(place) as run:
        run.begin(to_json(config := preset("quickstart").config), mathematics(config), {})
        run.say("going on")
        assert run.said() == ["epoch 1", "worker 0 failed: lost", "going on"] and "befell" not in run.about


def test_worker_waits_until_a_lost_ones_time_is_over_and_no_longer(server, machine):
    """In the same try: Ray counts a second failure otherwise."""
    machine("a", 4)
    server.client.put_object(Bucket="bucket", Key="r19/x/.claims/dead", Body=b"process 7 on elsewhere")
    run, config = Run("s3://bucket/r19/x"), preset("quickstart").config
    with ExitStack() as stack:
        with pytest.raises(Locked):
            session._begin(stack, run, config, {}, session.Hooks())
        session._begin(stack, run, config, {}, session.Hooks(patience=2 * replica.age()))
        assert run.about["state"] == "running"
        machine("b", 2)
        begun = now()
        with pytest.raises(Locked):  # he lives
            session._begin(stack, Run("s3://bucket/r19/x"), config, {}, session.Hooks(patience=3))
        assert now() - begun < 10


def test_ray_workers_are_patient_with_a_bucket_only(machine, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.train.report", lambda row: None)
    seen = []
    for place in ("s3://bucket/r20/x", str(tmp_path / "x")):
        asked = {"config": json.dumps(to_json(preset("quickstart").config)), "about": "{}", "driver": "a"}
        asked |= {"folder": place, "cache": str(tmp_path / "cache")}
        job._work(asked, SearchConfig, lambda config, folder, hooks: seen.append(hooks.patience))
    assert seen == [2 * replica.age(), 0]


def test_killed_holder_is_followed_at_once_on_its_machine(server, machine):
    with Run("s3://bucket/r5/x") as run:
        session = (run.folder / ".session").read_text()
    server.client.put_object(Bucket="bucket", Key=f"r5/x/.claims/{session}", Body=b"process 7 here")
    with Run("s3://bucket/r5/x"):
        pass


def test_living_holder_gives_signs_of_life(server, machine):
    machine("a", 2)
    with Run("s3://bucket/r6/x") as run:
        name = f"r6/x/.claims/{(run.folder / '.session').read_text()}"

        def sign() -> object:
            return server.client.head_object(Bucket="bucket", Key=name)["LastModified"]

        first = sign()
        until(lambda: sign() > first)


def out_of_reach(server, run: Run, prefix: str) -> None:
    """As if its time were over. It has sent all it had: who really is out of reach so long sends nothing any more."""
    run._held.push()
    assert b"metrics.jsonl" in server.read(f"{prefix}/.manifest")  # what it does not name does not count
    server.client.delete_object(Bucket="bucket", Key=f"{prefix}/.claims/{run._held.session}")


def test_who_was_out_of_reach_too_long_stops_and_spoils_nothing(server, machine):
    machine("a", 600)  # its own next look is far
    with Run("s3://bucket/r7/x") as late:
        work(late, range(1, 2))
        out_of_reach(server, late, "r7/x")
        machine("b", 600)
        with Run("s3://bucket/r7/x") as run:
            late._held._signed = 0.0
            work(run, range(2, 4))
            with pytest.raises(Locked, match="is in use by process"):
                while True:
                    late.log("metrics", {"epoch": 9, "phase": "search 1", "time": 1.0})
                    time.sleep(0.1)
            mine = files(run.folder)
    assert [row["epoch"] for row in read_lines(run.folder / "metrics.jsonl")] == [1, 2, 3]
    assert server.read("r7/x/metrics.jsonl") == mine["metrics.jsonl"]


def test_who_was_out_of_reach_while_another_went_on_and_ended_spoils_nothing(server, machine):
    machine("a", 600)  # its own next look is far
    with Run("s3://bucket/r23/x") as late:
        work(late, range(1, 2))
        out_of_reach(server, late, "r23/x")
        machine("b", 600)
        with Run("s3://bucket/r23/x") as run:
            work(run, range(2, 4))
            mine = files(run.folder)
        late._held._signed = 0.0
        with pytest.raises(Locked, match="is in use by another process, which went on with it and has ended"):
            while True:
                late.log("metrics", {"epoch": 9, "phase": "search 1", "time": 1.0})
                time.sleep(0.1)
    assert server.read("r23/x/metrics.jsonl") == mine["metrics.jsonl"]


def test_storage_that_goes_away_is_told_once_and_gets_all_afterwards(server, machine, monkeypatch):
    monkeypatch.setattr("dasgm.store.bucket.RETRY", 0.5)
    told: list[str] = []
    monkeypatch.setattr(storage("s3://bucket/r8"), "say", told.append)
    local("s3://bucket/r8")
    with Run("s3://bucket/r8/x") as run:
        work(run, range(1, 2))
        rest(1)
        server.stop()
        try:
            for epoch in range(2, 5):
                work(run, range(epoch, epoch + 1))
                rest(0.5)
            run.note(state="finished")
            until(lambda: told)
        finally:
            server.start()
        mine = files(run.folder)
    assert len(told) == 2 and "going on" in told[0] and "answers again" in told[1], told
    machine("b")
    with Run("s3://bucket/r8/x") as run:
        assert files(run.folder) == mine and run.about["state"] == "finished"


def test_storage_that_stays_away_leaves_a_line_and_gets_all_next_time(server, machine, monkeypatch):
    machine("a", 2)
    told: list[str] = []
    local("s3://bucket/r9")
    monkeypatch.setattr(storage("s3://bucket/r9"), "say", told.append)
    with Run("s3://bucket/r9/x") as run:
        work(run, range(1, 2))
        rest(1)
        server.stop()
        work(run, range(2, 4))
    server.start()
    assert "lies only on" in told[-1] and str(run.folder) in told[-1]
    with Run("s3://bucket/r9/x") as run:
        assert [row["epoch"] for row in run.rows()] == [1, 2, 3]
        mine = files(run.folder)
    machine("b", 2)
    with Run("s3://bucket/r9/x") as run:
        assert files(run.folder) == mine
