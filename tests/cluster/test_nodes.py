"""Machines that are lost, and those that are waited for, on a simulated cluster of real Ray processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from buckets import serve
from commands import ROOT, TINY, Simulated, finish, wait_for
from outcomes import rows_of
from sweeps import ASYNCHRONOUS, DRIVER_GONE, once_and_as_alone, saved, trials_of, twice_saved, went_on

from dasgm.store.records import read_lines
from dasgm.store.run import Run

SCRIPTS = ("cluster/search.py", "cluster/evaluate.py", "tuning/sweep.py")
SEARCH, EVALUATE, SWEEP = (str(ROOT / name) for name in SCRIPTS)
server = pytest.fixture(scope="module")(serve)
pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def cluster():
    """Two machines with a CPU each."""
    simulated = Simulated(2)
    yield simulated
    simulated.stop()


def search(cluster: Simulated, storage: Path, *words: str):
    return cluster.run(SEARCH, "--gan=none", "--storage", str(storage), "--name=one", *TINY, *words)


def losing(cluster: Simulated, process: Any, machines: list[str]) -> tuple[int, str, str]:
    """How a command ends that loses these machines; afterwards as many others are there."""
    for machine in machines:
        cluster.ask("kill", machine)
    try:
        return finish(process)
    finally:
        for _ in machines:
            cluster.ask("add")


def errors(out: str, err: str) -> list[str]:
    return [line for line in (out + err).splitlines() if line.startswith("error: ")]


def test_fewer_gpus_than_asked_for_are_waited_for_and_given_up(cluster, tmp_path):
    code, out, err = finish(search(cluster, tmp_path, "--gpus=1", "--wait=3"))
    asked = "a search asks for 1 worker(s) with 1 CPUs and 1 GPUs in all"
    assert f"waiting up to 3 s for room on the cluster: {asked}, it has 2 CPUs and 0 GPUs free" in out, (out, err)
    assert code == 2 and errors(out, err) == [
        f"error: {asked}; after 3 s the cluster has 2 CPUs and 0 GPUs free (see --wait)"
    ]


def test_a_worker_that_fits_on_no_single_machine_is_waited_for_and_given_up(cluster, tmp_path):
    words = ["--dataset=digits", "--cells=3", "--channels=2", "--cpus-per-worker=2", "--wait=3"]
    code, out, err = finish(cluster.run(EVALUATE, "DARTS_V2", "--storage", str(tmp_path), *words))
    asked = "a search asks for 1 worker(s) with 2 CPUs in all"
    has = "the cluster has 2 CPUs and 0 GPUs free, but each worker is on one machine: room for 0"
    assert code == 2 and errors(out, err) == [f"error: {asked}; after 3 s {has} (see --wait)"], (out, err)


def test_search_goes_on_on_another_machine_when_its_own_is_lost(cluster, tmp_path):
    process = search(cluster, tmp_path)
    wait_for(process, lambda: len(Run(tmp_path / "one").checkpoints()) > 1)
    before = rows_of(tmp_path / "one")[:-1]  # of what is before the last, the checkpoint is there
    assert before
    (lost,) = cluster.ask("busy")
    code, out, err = losing(cluster, process, [lost])
    assert code == 0 and "going on after epoch" in out, (out, err)
    assert "worker 0 failed: " in out and rows_of(tmp_path / "one")[: len(before)] == before
    assert once_and_as_alone(tmp_path / "one", tmp_path)


def test_lost_machine_without_room_for_its_worker_is_waited_for_and_given_up(cluster, tmp_path):
    words = ["--workers=2", "--wait=20"]
    process = search(cluster, tmp_path, *words)
    wait_for(process, lambda: len(Run(tmp_path / "one").checkpoints()) > 1)
    before = rows_of(tmp_path / "one")[:-1]
    assert before
    code, out, err = losing(cluster, process, cluster.ask("busy")[:1])
    asked, has = "a search asks for 2 worker(s) with 2 CPUs in all", "1 CPUs and 0 GPUs free"
    assert out.count(f"waiting up to 20 s for room on the cluster: {asked}, it has {has}\n") == 1, (out, err)
    says = (
        f"the search failed: {asked}; after 20 s the cluster has {has} (see --wait); to continue, run the same command"
    )
    assert code == 1 and errors(out, err) == [f"error: {says}"], (out, err)
    assert rows_of(tmp_path / "one")[: len(before)] == before
    code, out, err = finish(search(cluster, tmp_path, *words))
    assert code == 0 and "going on after epoch" in out, (out, err)
    assert rows_of(tmp_path / "one")[: len(before)] == before and Run(tmp_path / "one").about["state"] == "finished"


def test_machine_lost_before_its_worker_is_up_is_waited_for_and_given_up(cluster, tmp_path):
    process = search(cluster, tmp_path, "--workers=2", "--wait=20")
    machines: list[str] = []
    wait_for(process, lambda: machines or machines.extend(cluster.ask("starting")))
    code, out, err = losing(cluster, process, machines[:1])
    asked, has = "a search asks for 2 worker(s) with 2 CPUs in all", "1 CPUs and 0 GPUs free"
    assert out.count(f"waiting up to 20 s for room on the cluster: {asked}, it has {has}\n") == 1, (out, err)
    says = f"{asked}; after 20 s the cluster has {has} (see --wait); to continue, run the same command"
    assert code == 1 and errors(out, err) == [f"error: the search failed: {says}"], (out, err)


ONE_RETRY = "import sys; from cluster import job, search; job.RETRIES = 1; sys.exit(search.main())"


def test_lost_machine_is_one_failure_in_a_bucket_too(server, tmp_path):
    """Its last sign of life counts on when Ray starts the next worker, who waits."""
    head = server.machine(tmp_path / "head", 60)
    cluster = Simulated(2, **head)
    try:
        words = ["--gan=none", "--storage=s3://bucket/n", "--name=one", *TINY]
        process = cluster.run("-c", ONE_RETRY, *words, DASGM_JOB="here", **head)
        wait_for(process, lambda: any(n.endswith(".safetensors") for n in server.names("n/one/checkpoints/")))
        cluster.ask("kill", cluster.ask("busy")[0])
        code, out, err = finish(process)
    finally:
        cluster.stop()
    assert code == 0 and b"going on after epoch" in server.read("n/one/log.txt"), (out, err)


def test_sweep_goes_on_when_a_machine_with_a_driver_and_its_worker_is_lost(cluster, tmp_path):
    process = cluster.run(SWEEP, "--storage", str(tmp_path), "--name=s", *TINY, *ASYNCHRONOUS, "--num-trials=2")
    folders = [tmp_path / "s" / name for name in ("t000", "t001")]
    wait_for(process, lambda: twice_saved(*folders))
    before = {folder: saved(folder) for folder in folders}
    code, out, err = losing(cluster, process, cluster.ask("busy")[:1])
    assert code == 0 and "best genotype" in out, (out, err)
    assert [t.state.name for t in trials_of(tmp_path / "s")] == ["COMPLETE"] * 2
    assert sum(DRIVER_GONE in (folder / "log.txt").read_text() for folder in folders) == 1
    assert any(went_on(folder, rows) for folder, rows in before.items())
    for folder, rows in before.items():
        assert read_lines(folder / "metrics.jsonl")[: len(rows)] == rows  # the times too: not run again
        assert once_and_as_alone(folder, tmp_path)


def test_sweep_whose_machines_are_all_lost_waits_for_others_and_gives_up(cluster, tmp_path):
    words = ["--storage", str(tmp_path), "--name=s", *TINY, *ASYNCHRONOUS, "--num-trials=2", "--wait=20"]
    process = cluster.run(SWEEP, *words)
    folders = [tmp_path / "s" / name for name in ("t000", "t001")]
    wait_for(process, lambda: twice_saved(*folders))
    before = {folder: saved(folder) for folder in folders}
    code, out, err = losing(cluster, process, cluster.ask("busy"))
    asked, has = "a search asks for 1 worker(s) with 1 CPUs in all", "0 CPUs and 0 GPUs free"
    says = f"{asked}; after 20 s the cluster has {has} (see --wait); to continue, run the same command"
    assert code == 1 and errors(out, err) == [f"error: {says}"], (out, err)
    waits = f"waiting up to 20 s for room on the cluster: {asked}, it has {has}"
    assert [Run(folder).said().count(waits) for folder in folders] == [1, 1] and out.count(waits) == 2
    process = cluster.run(SWEEP, *words, "--wait=600")
    wait_for(process, lambda: all("going on after" in (folder / "log.txt").read_text() for folder in folders))
    for node in cluster.ask("busy"):
        cluster.ask("kill", node)
    try:
        waits = waits.replace("20 s", "600 s")
        wait_for(process, lambda: all(waits in Run(folder).said() for folder in folders))
    finally:
        cluster.ask("add")
        cluster.ask("add")
    code, out, err = finish(process)
    assert code == 0 and "best genotype" in out, (out, err)
    for folder, rows in before.items():
        assert went_on(folder, rows) and once_and_as_alone(folder, tmp_path)


def test_sweep_with_a_machine_too_few_for_a_search_gives_up_once(cluster, tmp_path):
    words = ["--storage", str(tmp_path), "--name=s", "--gan=none", *TINY, "--num-trials=3"]
    process = cluster.run(SWEEP, *words, "--workers-per-trial=2", "--wait=20")
    wait_for(process, lambda: twice_saved(tmp_path / "s" / "t000"))
    code, out, err = losing(cluster, process, cluster.ask("busy")[:1])
    asked, has = "a search asks for 2 worker(s) with 2 CPUs in all", "1 CPUs and 0 GPUs free"
    says = f"{asked}; after 20 s the cluster has {has} (see --wait); to continue, run the same command"
    assert code == 1 and errors(out, err) == [f"error: {says}"], (out, err)
    assert not [row for name in ("t001", "t002") for row in rows_of(tmp_path / "s" / name)]


def test_search_on_three_machines_waits_for_the_third(cluster, tmp_path):
    process = search(cluster, tmp_path, "--workers=3", "--wait=300")
    log = tmp_path / "one" / "run.json"
    assert process.stdout
    for line in process.stdout:
        if line.startswith("waiting up to 300 s"):
            break
    assert "it has 2 CPUs" in line and not log.exists()
    cluster.ask("add")
    code, out, err = finish(process)
    assert code == 0 and Run(tmp_path / "one").about["workers"] == 3, (out, err)
