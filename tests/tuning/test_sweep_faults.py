"""Sweeps that are killed, stopped, or short of disk: each trial ends once, with its own result."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from commands import (
    TINY,
    TINY_GAN,
    TOOLS,
    another_ray,
    busy,
    family,
    finish,
    left_over,
    probes,
    start,
    title,
    wait_for,
)
from faults import mount, unmounted
from optuna.trial import TrialState
from patience import now
from sweeps import (
    ASYNCHRONOUS,
    DRIVER_GONE,
    ROOT,
    SWEEP,
    epochs_of,
    once_and_as_alone,
    outcome,
    saved,
    sweep,
    trials_of,
    twice_saved,
    went_on,
)

from dasgm.store.records import read_lines
from dasgm.store.run import Run

ONE = [*TINY_GAN, "--num-trials=4", "--max-concurrent=1", "--method.epochs=6", "--grace=4", "--seed=3"]


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_sweep_ends_as_an_undisturbed_one_and_can_be_extended(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    code, out, err = finish(sweep(undisturbed, *ONE))
    assert (code, err) == (0, ""), err

    own = Path(tempfile.mkdtemp(prefix="k-"))
    process = sweep(killed, *ONE, TMPDIR=str(own))
    finished, hit = killed / "s" / "t000", killed / "s" / "t001"
    wait_for(process, lambda: twice_saved(hit))
    everyone = family(process)
    process.kill()
    process.communicate()
    assert not left_over(everyone, 90)  # Ray's two agents mourn it for a minute
    before, rows = (finished / "metrics.jsonl").read_bytes(), saved(hit)
    code, out, err = finish(sweep(killed, *ONE, TMPDIR=str(own)))
    assert (code, err) == (0, ""), err
    assert not list(own.glob("dasgm-*"))
    own.rmdir()
    assert before and (finished / "metrics.jsonl").read_bytes() == before
    assert went_on(hit, rows)
    assert outcome(killed / "s") == outcome(undisturbed / "s")

    code, out, err = finish(sweep(killed, *ONE, "--num-trials=5"))
    assert (code, err) == (0, ""), err
    assert outcome(killed / "s")[: len(outcome(undisturbed / "s"))] == outcome(undisturbed / "s")
    assert len(trials_of(killed / "s")) == 5
    from mlflow import MlflowClient

    runs = MlflowClient(f"sqlite:///{killed}/mlflow.db").search_runs(["1"])
    assert sorted(run.info.run_name.split()[0] for run in runs) == ["s", "t000", "t001", "t002", "t003", "t004"]


SEQUENTIAL = ["--space=toy_spaces:rates", "--num-trials=2", "--max-concurrent=1", "--method.epochs=6", "--grace=5"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    storage = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(sweep(storage, *SEQUENTIAL))
    assert (code, err) == (0, ""), err
    return storage


def terminate(everyone: list[list[float]]) -> None:
    for pid, _ in everyone:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


@pytest.mark.faults
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["SIGTERM to all its processes", "clock set back by a day, then SIGKILL"])
def test_sweep_of_one_at_a_time_ends_as_an_undisturbed_one(undisturbed, tmp_path, fault):
    clock, (finished, hit) = tmp_path / "clock", [tmp_path / "s" / name for name in ("t000", "t001")]
    behind = {"CLOCK": str(clock), "PYTHONPATH": f"{ROOT}:{TOOLS}:{TOOLS / 'clock'}"}
    process = sweep(tmp_path, *SEQUENTIAL, **behind)
    wait_for(process, lambda: Run(hit).checkpoints())
    if "clock" in fault:
        clock.write_text("86400")
    wait_for(process, lambda: twice_saved(hit))
    everyone = family(process)
    if "SIGTERM" in fault:
        terminate(everyone)
        code, out, err = finish(process)
        assert code == 130 and f"To continue: {sys.executable} {SWEEP} " in out and err == "", (code, out, err)
    else:
        process.kill()
        process.communicate()
    assert not left_over(everyone, 90)
    before, rows = (finished / "metrics.jsonl").read_bytes(), saved(hit)
    code, out, err = finish(sweep(tmp_path, *SEQUENTIAL, **behind))
    assert (code, err) == (0, ""), (out, err)
    assert before and (finished / "metrics.jsonl").read_bytes() == before
    assert went_on(hit, rows)
    assert outcome(tmp_path / "s") == outcome(undisturbed / "s")
    times = [row["time"] for row in read_lines(hit / "metrics.jsonl")]
    assert ("clock" in fault) == (min(times) < times[0] - 80000)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_worker_that_dies_as_it_saves_a_rung_changes_no_decision(tmp_path):
    """Its report may die with it: whoever goes on reports the next epoch only."""
    words = ["--space=toy_spaces:rates", "--num-trials=3", "--max-concurrent=1", "--grace=2"]
    plain, hit = tmp_path / "plain", tmp_path / "hit"
    code, out, err = finish(sweep(plain, *words))
    assert (code, err) == (0, ""), err
    iterations = int(Run(plain / "s" / "t000").checkpoints()[-1].stem.partition("-")[0]) // 4
    process = sweep(hit, *words)
    for name in ("t000", "t001", "t002"):
        run = Run(hit / "s" / name)
        wait_for(process, lambda run=run: list(run.folder.glob(f"checkpoints/{2 * iterations:09d}-*.safetensors")))
        os.kill(run.about["pid"], signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, err) == (0, ""), (out, err)
    assert outcome(hit / "s") == outcome(plain / "s")
    assert "PRUNED" in {t.state.name for t in trials_of(plain / "s")}


@pytest.mark.slow
def test_time_budget_stops_and_can_be_continued(tmp_path):
    begun = now()
    code, out, err = finish(sweep(tmp_path, "--gan=none", "--num-trials=9", "--time-budget=30"))
    assert (code, err) == (0, "") and "not every search came to its end. To continue: " in out, (code, err)
    assert now() - begun < 90
    assert len(trials_of(tmp_path / "s")) < 9


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_sweeps_at_once_under_load_and_a_third_on_the_folder_of_one(tmp_path):
    """Each with a Ray of its own, beside a third Ray, while a loop runs on each CPU."""
    words = [*ASYNCHRONOUS[:1], "--num-trials=1"]
    elsewhere = Path(tempfile.mkdtemp(prefix="r-"))
    other = another_ray(elsewhere, "dashboard")
    with busy():
        processes = [sweep(tmp_path, *words), sweep(tmp_path, *words, "--name=other")]
        wait_for(processes[0], lambda: (tmp_path / "s" / "t000" / "run.json").exists())
        code, out, err = finish(sweep(tmp_path, *words))
        assert code == 2 and "is in use by process" in err and len(err.strip().splitlines()) == 1, (code, out, err)
        for code, out, err in [finish(process) for process in processes]:
            assert (code, err) == (0, "") and "best genotype" in out, (out, err)
    assert other.poll() is None
    other.communicate("")
    shutil.rmtree(elsewhere, ignore_errors=True)
    assert outcome(tmp_path / "s") == outcome(tmp_path / "other")
    assert once_and_as_alone(tmp_path / "s" / "t000", tmp_path)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sweep_on_a_disk_that_fills_up_ends_in_one_line_and_goes_on(tmp_path):
    disk, words = tmp_path / "disk", ["--gan=none", "--num-trials=2", "--max-concurrent=1"]
    disk.mkdir()
    with unmounted(disk):
        mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", disk)
        process = sweep(disk, *words)
        wait_for(process, lambda: Run(disk / "s" / "t000").checkpoints())
        with suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(bytes(2**16)):
                pass
        code, out, err = finish(process)
        assert code == 2 and err.startswith(f"error: storage {disk / 's'}: No space left on device; "), (out, err)
        assert len(err.splitlines()) == 1
        (disk / "filler").unlink()
        before = epochs_of(disk / "s" / "t000")
        code, out, err = finish(sweep(disk, *words))
        assert (code, err) == (0, "") and before and "going on after epoch" in out, (out, err)
        assert [t.state for t in trials_of(disk / "s")] == [TrialState.COMPLETE] * 2
        assert once_and_as_alone(disk / "s" / "t000", tmp_path)


@pytest.mark.slow
def test_a_space_that_is_wrong_is_one_line(tmp_path):
    code, out, err = finish(sweep(tmp_path, "--space=toy_spaces:wrong"))
    assert code == 2 and "val-portion" in err and "trial 0" in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", ["driver of a search", "driver of the sweep"])
def test_asynchronous_sweep_ends_each_trial_once_with_its_own_result(tmp_path, fault):
    process = sweep(tmp_path, *ASYNCHRONOUS)
    folders = [tmp_path / "s" / f"t{number:03d}" for number in range(3)]
    wait_for(process, lambda: twice_saved(*folders[:2]))
    before = {folder: saved(folder) for folder in folders[:2]}
    everyone = family(process)
    if fault == "driver of a search":
        drivers = [int(pid) for pid, _ in everyone if "ImplicitFunc" in title(int(pid))]
        assert len(drivers) == 2 and not folders[2].exists()
        os.kill(drivers[0], signal.SIGKILL)
        code, out, err = finish(process)
        hit = [folder for folder in folders if DRIVER_GONE in (folder / "log.txt").read_text()]
        assert len(hit) == 1
    else:
        process.kill()
        process.communicate()
        assert not left_over(everyone, 90)
        hit = [folder for folder in before if Run(folder).about["state"] != "finished"]
        assert hit
        code, out, err = finish(sweep(tmp_path, *ASYNCHRONOUS))
    assert (code, err) == (0, ""), (out, err)
    assert [t.state for t in trials_of(tmp_path / "s")] == [TrialState.COMPLETE] * 3
    for folder, rows in before.items():
        assert went_on(folder, rows) == (folder in hit)
        assert read_lines(folder / "metrics.jsonl")[: len(rows)] == rows
    assert all(once_and_as_alone(folder, tmp_path) for folder in folders)


def processes(process, name: str) -> list[int]:
    return [int(pid) for pid, _ in family(process) if name in title(int(pid))]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_driver_that_dies_as_its_worker_starts_holds_no_cpu(tmp_path):
    """Nobody has reported anything yet."""
    words = ["--space=toy_spaces:rates", "--num-trials=1", "--max-concurrent=1"]
    probed = (str(TOOLS / "probed.py"), str(tmp_path / "probes"), "sweep")
    process = start(*probed, "--storage", str(tmp_path), "--name", "s", *TINY, *words)
    wait_for(process, lambda: processes(process, "RayTrainWorker"))
    (driver,) = processes(process, "ImplicitFunc")
    os.kill(driver, signal.SIGKILL)
    code, out, err = finish(process)
    assert (code, err) == (0, ""), (out, err)
    assert DRIVER_GONE in (tmp_path / "s" / "t000" / "log.txt").read_text()
    groups = [probe["groups"] for probe in probes(tmp_path / "probes") if probe.get("groups")]
    assert groups[0] != groups[-1] and len(groups[-1]) == 1, groups


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_driver_that_dies_between_two_searches_is_followed_by_another(tmp_path):
    process = sweep(tmp_path, "--space=toy_spaces:rates", "--num-trials=3", "--max-concurrent=1", "--grace=2")
    stopped, following = [Run(tmp_path / "s" / name) for name in ("t001", "t002")]
    wait_for(process, lambda: stopped.rows())
    (driver,) = processes(process, "ImplicitFunc")
    wait_for(process, lambda: stopped.about.get("state") == "stopped")
    os.kill(driver, signal.SIGKILL)  # it ends the worker of the one and has not begun the next
    code, out, err = finish(process)
    assert (code, err) == (0, ""), (out, err)
    assert DRIVER_GONE in (following.folder / "log.txt").read_text()
    assert [len(trials_of(tmp_path / "s")), following.about["state"] in ("finished", "stopped")] == [3, True]
