"""Sweeps whose storage is a bucket: killed and continued on a fresh head, and with workers on other machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import Server, serve
from commands import TINY, Simulated, family, finish, left_over, start, wait_for
from sweeps import SWEEP, outcome

from dasgm.store.records import read_json
from dasgm.store.replica import here
from dasgm.store.run import Run

server = pytest.fixture(scope="module")(serve)
WORDS = ["--name=s", *TINY, "--gan=none", "--num-trials=3", "--max-concurrent=1", "--grace=4", "--seed=3"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_sweep_goes_on_on_a_fresh_head(server: Server, tmp_path: Path, monkeypatch):
    code, out, err = finish(start(SWEEP, f"--storage={tmp_path}", *WORDS))
    assert (code, err) == (0, ""), (out, err)
    place = "--storage=s3://bucket/k"
    process = start(SWEEP, place, *WORDS, **server.machine(tmp_path / "a", 10))
    wait_for(process, lambda: [name for name in server.names("k/s/t001/checkpoints/") if name.endswith(".pt")])
    everyone = family(process)
    process.kill()
    process.communicate()
    assert not left_over(everyone, 90)  # Ray's two agents mourn it for a minute
    code, out, err = finish(start(SWEEP, place, *WORDS, **server.machine(tmp_path / "b", 10)))
    assert (code, err) == (0, ""), (out, err)
    assert "everything lies in s3://bucket/k/s; to continue" in out
    for name, value in server.machine(tmp_path / "c").items():
        monkeypatch.setenv(name, value)
    folder = here("s3://bucket/k/s", depth=1)
    assert outcome(folder) == outcome(tmp_path / "s")
    assert read_json(folder / "sweep.json")["state"] == "finished"
    assert not [name for name in server.names("k/s/") if name.startswith(".ray") or name.endswith(".tmp")]
    evaluate = [SWEEP.replace("tuning/sweep", "cluster/evaluate"), "--from-sweep=s", place, "--dry-run"]
    code, out, err = finish(start(*evaluate, **server.machine(tmp_path / "d")))
    assert (code, err) == (0, ""), (out, err)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_on_other_machines_share_nothing_but_the_bucket(server: Server, tmp_path: Path, monkeypatch):
    head = server.machine(tmp_path / "head", 10)
    cluster = Simulated(3, **head)
    try:
        words = ["--gan=none", "--num-trials=3", "--space=toy_spaces:mixed", "--grace=4", "--name=s", *TINY]
        code, out, err = finish(cluster.run(SWEEP, "--storage=s3://bucket/c", *words, **head))
        used = cluster.ask("nodes")
    finally:
        cluster.stop()
    assert code == 0 and "best genotype" in out and "everything lies in s3://bucket/c/s" in out, (out, err)
    assert len(set(used)) == 3
    for name, value in server.machine(tmp_path / "reader").items():
        monkeypatch.setenv(name, value)
    folder = here("s3://bucket/c/s", depth=1)
    states = {Run(folder / f"t00{n}").about["state"] for n in range(3)}
    assert states <= {"finished", "failed", "stopped"} and read_json(folder / "sweep.json")["state"] == "finished"
    assert not [name for name in server.names("c/s/") if name.startswith(".ray")]
