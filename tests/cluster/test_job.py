"""One search as a Ray Train job: the same numbers as alone, workers that die, listening, what is refused."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, TINY, TINY_GAN, TOOLS, family, finish, left_over, probes, start, title, wait_for
from faults import mount, unmounted
from outcomes import rows_of
from patience import rest

from cluster import connection, job
from cluster.driver import look_at_data
from cluster.job import workers_for
from cluster.room import Workers
from dasgm import distributed
from dasgm.config import SearchConfig, mathematics, override, to_json
from dasgm.cpus import cpus
from dasgm.genotype import Genotype
from dasgm.jobs.session import Refused
from dasgm.presets import preset
from dasgm.store.records import read_lines
from dasgm.store.run import Locked, Run, Unwritable

SEARCH = str(ROOT / "cluster" / "search.py")


def test_a_graph_is_refused_before_workers_are_started():
    says = "^cuda-graph on: 2 workers exchange gradients within an iteration; use --cuda-graph auto or off$"
    config = override(preset("quickstart").config, {"cuda_graph": "on", "data.limit": 200})
    with pytest.raises(ValueError, match=says):
        look_at_data(config, Workers(2, gpus=1))
    with pytest.raises(ValueError, match="^cuda-graph on: it needs a GPU, and the device is cpu"):
        look_at_data(config, Workers(1))
    look_at_data(override(config, {"cuda_graph": "auto"}), Workers(2))


def test_slots_are_what_fits():
    assert Workers(1).slots(2, 0) == 2
    assert Workers(2).slots(2, 0) == 1
    assert Workers(3).slots(2, 0) == 0
    assert Workers(2, gpus=1.0).slots(64, 8) == 4
    assert Workers(2, gpus=0.5).slots(4, 8) == 2
    assert Workers(1, gpus=1.0).slots(64, 0) == 0
    assert Workers(1, gpus=0.4).slots(64, 2) == 4  # a share lies on one GPU
    assert Workers(1, gpus=0.5).slots(64, 0.5) == 1  # beside another search's
    assert Workers(10, cpus=0.1).slots(1, 0) == 1
    assert Workers(2, cpus=2.0).room([{"CPU": 3.0}, {"CPU": 5.0, "GPU": 1.0}, {}]) == 3


def test_more_than_there_is_is_refused(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert workers_for(1, None).slots(cpus(), connection.visible_gpus()) >= 1
    for number, gpus in ((1, 99.0), (10**6, 0.0), (0, None), (1, -1.0)):
        with pytest.raises(ValueError) as error:
            workers_for(number, gpus)
        assert len(str(error.value).splitlines()) == 1
    for wait in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"^wait {wait}: expected 0 or more seconds$"):
            workers_for(1, None, wait=wait)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # there it is waited for
    assert workers_for(1, 99.0) == Workers(1, 99.0, private=False)


def test_a_driver_notes_the_end_of_its_own_workers_only(tmp_path):
    from cluster.driver import _note_end, payload

    config, run = preset("quickstart").config, Run(tmp_path)
    ours, other = (payload(config, tmp_path, tmp_path / "cache", {}) | {"driver": name} for name in "ab")
    with run:
        run.begin(to_json(config), mathematics(config), {"driver": ours["driver"]})
    _note_end(other, connection.Failed("no room"))
    assert run.about["state"] == "running"  # killed, to be continued: or it runs on another machine
    _note_end(ours, connection.Failed("no room"))
    assert [run.about[key] for key in ("state", "reason")] == ["interrupted", "no room"]


def test_what_killed_ones_left_goes_and_what_is_in_use_stays(monkeypatch):
    root = Path(tempfile.mkdtemp(prefix="k-"))
    monkeypatch.setattr(tempfile, "tempdir", str(root))
    for name in ("killed", "made-again"):
        (root / f"dasgm-ray-{name}" / "session").mkdir(parents=True)
    (root / "dasgm-ray-killed" / "lock").touch()
    with connection._scratch() as used:
        with connection._scratch() as other:
            assert {used, other} == set(root.iterdir()) and os.environ["TMPDIR"] == str(other)
        assert [used] == list(root.iterdir())
    root.rmdir()


def test_two_workers_share_a_search_and_listen_on_loopback_only(tmp_path):
    words = ["--gan=none", "--workers=2", "--storage", str(tmp_path), "--name=two", *TINY]
    far = tmp_path / ("far" * 30)  # no room there for the path of a socket
    far.mkdir()
    process = start(str(TOOLS / "probed.py"), str(tmp_path / "probes"), "search", *words, TMPDIR=str(far))
    code, out, err = finish(process)
    assert (code, err) == (0, "") and "finished: proxy accuracy " in out, (out, err)
    about = Run(tmp_path / "two").about
    assert about["state"] == "finished" and about["workers"] == 2
    assert [row["epoch"] for row in rows_of(tmp_path / "two")] == [1, 2, 3, 4, 4]
    genotype = Genotype.load(tmp_path / "two" / "genotype.json")
    assert set(json.loads(genotype.to_json())) == {"normal", "normal_concat", "reduce", "reduce_concat"}
    seen = probes(tmp_path / "probes")
    assert max(len(probe["workers"]) for probe in seen) == 2
    assert {ip for probe in seen for ip in probe["listening"]} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not left_over(process for probe in seen for process in probe["processes"])
    assert not list((tmp_path / "two").glob(".ray*"))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unwritable("storage s: cannot be written"), True),
        (Locked("run r is in use"), True),
        (OSError(errno.EIO, os.strerror(errno.EIO)), True),
        (ValueError("batch-size 9"), False),
        (Refused("batch-size 9"), False),
        (ValueError("of one of two"), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_worker_is_tried_again_for_what_may_pass_and_not_for_a_users_mistake(monkeypatch, tmp_path, error, again):
    """Of one of two, the others wait until it dies."""
    import ray
    import ray.train

    if type(error) is Refused or again:
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(ray.train, "report", lambda row: None)

    def main(*_):
        raise error

    config = json.dumps(to_json(preset("quickstart").config))
    payload = {"folder": str(tmp_path), "cache": str(tmp_path), "config": config, "about": "{}", "driver": "a"}
    if again:
        with pytest.raises(type(error)):
            job._work(payload, SearchConfig, main)
    else:
        assert job._work(payload, SearchConfig, main) == "batch-size 9"


def test_refused_in_one_line(tmp_path, warm):
    words = ["--gan=none", "--storage", str(tmp_path), "--name=one", *TINY]
    for more, says in (
        (["--gpus=5"], "5 GPUs"),
        (["--batch-size=5000"], "--batch-size"),
        (["--dataset=folder", "--data-dir=nowhere"], "nowhere"),
    ):
        code, out, err = finish(warm.start(SEARCH, *words, *more))
        assert code == 2 and says in err and len(err.strip().splitlines()) == 1, err
        assert not (tmp_path / "one").exists()
    with Run(tmp_path / "one"):
        code, out, err = finish(warm.start(SEARCH, *words))
        assert code == 2 and f"process {os.getpid()} on " in err, err


@pytest.mark.faults
def test_a_ray_that_does_not_start_is_one_line_and_the_same_command_tries_again(tmp_path):
    sweep = [str(ROOT / "tuning" / "sweep.py"), "--gan=none", "--storage", str(tmp_path), "--name=s", *TINY]
    train = [str(ROOT / "cluster" / "evaluate.py"), "DARTS_V2", "--dataset=digits", "--storage", str(tmp_path)]
    search = [SEARCH, "--gan=none", "--storage", str(tmp_path), "--name=one", *TINY]
    failing = [start(*words, RAY_gcs_storage="nonsense") for words in (sweep, train, search)]
    rest(8)
    everyone = [process for one in failing for process in family(one)]
    for process in failing:
        code, out, err = finish(process)
        assert code == 1 and err.startswith("error: Ray did not start: Timed out waiting for file "), (out, err)
        assert err.endswith("; the same command tries again\n") and len(err.splitlines()) == 1
    assert everyone and not left_over(everyone)
    elsewhere = Path(tempfile.mkdtemp(prefix="k-"))
    with unmounted(elsewhere):
        mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", elsewhere)
        code, out, err = finish(start(*sweep, TMPDIR=str(elsewhere)))
        says = f"{elsewhere} has 1 MiB free, and Ray writes there; make room, or name another folder in TMPDIR"
        assert code == 1 and err == f"error: Ray did not start: {says}\n", (out, err)
    elsewhere.rmdir()
    code, out, err = finish(start(*search))
    assert (code, err) == (0, "") and Run(tmp_path / "one").about["state"] == "finished", (out, err)


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_of_two_at_once_on_a_folder_one_is_refused_and_the_other_when_killed_leaves_it(tmp_path):
    """Before either has workers, which hold the run's own lock."""
    words = ["--gan=none", "--storage", str(tmp_path), "--name=one", *TINY]
    both = [start(SEARCH, *words) for _ in range(2)]
    while all(process.poll() is None for process in both):
        assert not (tmp_path / "one" / "run.json").exists()  # no worker has begun
        time.sleep(0.05)
    process, refused = sorted(both, key=lambda process: process.poll() is not None)
    code, out, err = finish(refused)
    assert code == 2 and f"is in use by process {process.pid} on " in err and len(err.strip().splitlines()) == 1, err
    wait_for(process, lambda: Run(tmp_path / "one").checkpoints())
    everyone = family(process)
    process.kill()
    process.communicate()
    assert not left_over(everyone, 90)
    code, out, err = finish(start(SEARCH, *words))
    assert (code, err) == (0, "") and "going on after epoch" in out, (out, err)


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_search_that_is_told_to_stop_with_all_its_processes_says_so_everywhere(tmp_path, number):
    from mlflow import MlflowClient

    words = ["--gan=none", "--storage", str(tmp_path), "--name=one", *TINY, "--method.epochs=20"]
    process = start(SEARCH, *words)
    wait_for(process, lambda: len(Run(tmp_path / "one").checkpoints()) > 1)
    everyone, before = family(process), rows_of(tmp_path / "one")[:-1]
    os.killpg(process.pid, number)
    code, out, err = finish(process)
    assert code == 130 and "stopped; what is done is in " in out and err == "", (code, out, err)
    assert not left_over(everyone)
    assert [Run(tmp_path / "one").about[key] for key in ("state", "reason")] == ["interrupted", "stopped on request"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [run.info.status for run in client.search_runs(["1"])] == ["KILLED"]
    code, out, err = finish(start(SEARCH, *words))
    assert (code, err) == (0, "") and "going on after epoch" in out, (out, err)
    assert before and rows_of(tmp_path / "one")[: len(before)] == before


@pytest.mark.faults
def test_killed_controller_of_the_workers_is_one_line_and_the_same_command_goes_on(tmp_path):
    words = ["--gan=none", "--storage", str(tmp_path), "--name=one", *TINY]
    process = start(SEARCH, *words)
    wait_for(process, lambda: len(Run(tmp_path / "one").checkpoints()) > 1)
    everyone, before = family(process), rows_of(tmp_path / "one")[:-1]
    (controller,) = [int(pid) for pid, _ in everyone if "TrainController" in title(int(pid))]
    os.kill(controller, signal.SIGKILL)
    code, out, err = finish(process)
    says = "the search failed: Ray Train's controller, a process, is gone; to continue, run the same command"
    assert code == 1 and err == f"error: {says}\n" and not left_over(everyone), (out, err)
    code, out, err = finish(start(SEARCH, *words))
    assert (code, err) == (0, "") and "going on after epoch" in out, (out, err)
    assert before and rows_of(tmp_path / "one")[: len(before)] == before


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_worker_goes_on_to_the_numbers_of_a_search_alone(tmp_path):
    words = ["--storage", str(tmp_path), *TINY, *TINY_GAN, "--val-portion=0.3"]
    code, out, err = finish(start("-m", "dasgm", "search", "quickstart", *words, "--name=alone"))
    assert code == 0, err
    process = start(SEARCH, *words, "--name=ray")
    wait_for(process, lambda: len(Run(tmp_path / "ray").checkpoints()) == 2)
    os.kill(Run(tmp_path / "ray").about["pid"], signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, err) == (0, ""), err
    log = (tmp_path / "ray" / "log.txt").read_text()
    assert sum(line.startswith("worker 0 failed: ") for line in log.splitlines()) == 1, log
    assert "going on after epoch" in log and all(line in out for line in log.splitlines())
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "alone")
    assert read_lines(tmp_path / "ray" / "alphas.jsonl") == read_lines(tmp_path / "alone" / "alphas.jsonl")


def same(one: Any, other: Any) -> bool:
    """To the bit, whatever is nested in it."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_worker_of_two_goes_on_to_the_bits_of_an_undisturbed_search(tmp_path):
    """Not rank 0, which alone writes."""
    words = ["--workers=2", "--storage", str(tmp_path), *TINY, *TINY_GAN, "--val-portion=0.3"]
    code, out, err = finish(start(SEARCH, *words, "--name=undisturbed"))
    assert (code, err) == (0, ""), err
    undisturbed, killed = (Run(tmp_path / name) for name in ("undisturbed", "killed"))
    process = start(SEARCH, *words, "--name=killed")
    wait_for(process, lambda: len(killed.checkpoints()) > 1)
    before = read_lines(killed.folder / "metrics.jsonl")[:-1]
    workers = {int(pid) for pid, _ in family(process) if "ray::RayTrainWorker" in title(int(pid))}
    (other,) = workers - {killed.about["pid"]}
    os.kill(other, signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, err) == (0, ""), err
    log = (killed.folder / "log.txt").read_text()
    assert sum(" failed: " in line for line in log.splitlines()) == 1 and "going on after epoch" in log, log
    assert before and read_lines(killed.folder / "metrics.jsonl")[: len(before)] == before  # the times too
    assert rows_of(killed.folder) == rows_of(undisturbed.folder)
    for name in ("alphas.jsonl", "genotype.json"):
        assert (killed.folder / name).read_text() == (undisturbed.folder / name).read_text()
    one, truth = (run.load()["search"] for run in (killed, undisturbed))
    assert one["iteration"] == truth["iteration"] and all(same(one[name], truth[name]) for name in "ABEGW")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stopped_then_continued_and_another_configuration_refused(tmp_path):
    words = ["--gan=none", "--storage", str(tmp_path), "--name=one", *TINY]
    process = start(SEARCH, *words)
    wait_for(process, lambda: len(rows_of(tmp_path / "one")) == 1)
    everyone = family(process)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130 and f"To continue: {sys.executable} {SEARCH} --gan=none" in out and err == "", (code, out, err)
    assert not left_over(everyone)
    before = (tmp_path / "one" / "run.json").read_bytes()
    code, out, err = finish(start(SEARCH, *words, "--arch-lr=0.5"))
    assert code == 2 and "arch_lr" in err and len(err.strip().splitlines()) == 1, err
    assert (tmp_path / "one" / "run.json").read_bytes() == before
    code, out, err = finish(start(SEARCH, *words))
    assert (code, err) == (0, "") and "going on after epoch" in out, err


@pytest.mark.slow
def test_nan_is_one_line(tmp_path):
    words = ["--gan=none", "--storage", str(tmp_path), "--name=one", *TINY]
    code, out, err = finish(start(SEARCH, *words, "--classifier-lr=1e30", "--classifier-clip=1e30"))
    assert code == 1 and "epoch 1, stage 1" in err and len(err.strip().splitlines()) == 1, (code, err)
