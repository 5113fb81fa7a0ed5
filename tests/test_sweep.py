"""A sweep from outside, for real: Ray, Optuna, MLflow, processes; stopped, failed, killed, continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from commands import TINY, TINY_GAN, another_ray, busy, family, finish, left_over, probes, start, title, wait_for
from optuna.trial import TrialState
from patience import now
from test_faults import mount, unmounted

from dasgm.config import from_json, override
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.store.records import read_json, read_lines
from dasgm.store.run import Run

ROOT = Path(__file__).parents[1]
SWEEP = str(ROOT / "tuning" / "sweep.py")
TIMES = ("time", "speed/", "cost/")


def sweep(storage: Path, *more: str, **environment: str) -> Any:
    """The command, tiny."""
    return start(SWEEP, "--storage", str(storage), "--name", "s", *TINY, *more, **environment)


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder}/study.db").trials


def epochs_of(folder: Path) -> list[int]:
    return [row["epoch"] for row in read_lines(folder / "metrics.jsonl") if row["phase"] != "best"]


def twice_saved(*folders: Path) -> bool:
    """Whether each has two checkpoints: then what went before its last row is saved."""
    return all(len(Run(folder).checkpoints()) > 1 for folder in folders)


def saved(folder: Path) -> list[dict[str, Any]]:
    """A trial's rows before its last. There are some."""
    rows = read_lines(folder / "metrics.jsonl")[:-1]
    assert rows, folder
    return rows


def went_on(folder: Path, before: list[dict[str, Any]]) -> bool:
    """Whether a trial went on after the rows that were `saved`, which were not run again: they have their times."""
    log = (folder / "log.txt").read_text()
    return "going on after epoch" in log and read_lines(folder / "metrics.jsonl")[: len(before)] == before


MIXED = ["--space=toy_spaces:mixed", "--num-trials=3", "--max-concurrent=2", "--grace=3"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two at a time on a 2-CPU Ray beside an unrelated one: good, broken, hopeless."""
    storage = tmp_path_factory.mktemp("swept")
    temporary, elsewhere = Path(tempfile.mkdtemp(prefix="t-")), Path(tempfile.mkdtemp(prefix="r-"))
    other = another_ray(elsewhere)
    process = start(
        *(str(ROOT / "tests" / "probed.py"), str(storage / "probes"), "sweep"),
        *("--storage", str(storage), "--name", "s", *TINY, *MIXED),
        TMPDIR=str(temporary),
    )
    begun, wall = now(), time.monotonic()
    code, out, err = finish(process)
    slowness = (time.monotonic() - wall) / (now() - begun)
    assert other.poll() is None
    other.communicate("")
    shutil.rmtree(elsewhere, ignore_errors=True)
    yield SimpleNamespace(
        storage=storage,
        folder=storage / "s",
        code=code,
        out=out,
        err=err,
        slowness=slowness,
        probes=probes(storage / "probes"),
        left=sorted(p.name for p in temporary.iterdir()),
    )
    shutil.rmtree(temporary, ignore_errors=True)


def test_sweep_ends_with_a_ranking_and_says_no_more_than_it_should(swept):
    assert swept.code == 0 and swept.err == "", (swept.out, swept.err)
    states = {name: Run(swept.folder / name).about["state"] for name in ("t000", "t001", "t002")}
    assert states == {"t000": "finished", "t001": "failed", "t002": "stopped"}
    assert "stage 1 (classifier)" in Run(swept.folder / "t001").about["reason"]
    assert Run(swept.folder / "t002").about["reason"].startswith("rung 3: ")
    for part in ("rung 3: ", "best genotype, t00", "stage 1", "everything lies in", "mlflow ui", "viewStateShareKey="):
        assert part in swept.out, part
    for noise in ("Traceback", "WARN", "INFO", "ray::", "tensorboard"):
        assert noise not in swept.out, noise
    assert (swept.folder / "report.html").stat().st_size < 3e6
    about = read_json(swept.folder / "sweep.json")
    assert about["state"] == "finished" and about["num_trials"] == 3 and about["machine"].startswith("2 CPUs")


def test_stopped_trial_has_nothing_beyond_its_rung(swept):
    assert epochs_of(swept.folder / "t002") == [1, 2, 3]
    assert epochs_of(swept.folder / "t000") == [1, 2, 3, 4]


def test_study_says_pruned_failed_and_complete(swept):
    trials = trials_of(swept.folder)
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED]
    for trial in trials:
        rows = read_lines(swept.folder / f"t{trial.number:03d}" / "metrics.jsonl")
        told = {row["epoch"]: row["val/accuracy"] for row in rows if "val/accuracy" in row}
        assert trial.intermediate_values == told
        if trial.state == TrialState.COMPLETE:
            assert trial.value == rows[-1]["best/proxy"]
    assert sorted(trials[2].intermediate_values) == [1, 2, 3]


def test_mlflow_mirrors_the_sweep(swept):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{swept.storage}/mlflow.db")
    experiment = client.get_experiment_by_name("dasgm")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["s", "t000", "t001", "t002"]
    parent = runs.pop("s")
    assert parent.info.status == "FINISHED" and parent.data.tags["state"] == "finished"
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert [runs[name].info.status for name in sorted(runs)] == ["FINISHED", "FAILED", "FINISHED"]
    assert runs["t002"].data.tags["state"] == "stopped" and "rung 3" in runs["t002"].data.tags["reason"]
    assert runs["t000"].data.params == {"classifier_lr": "0.1"}
    for name, run in runs.items():
        rows = read_lines(swept.folder / name / "metrics.jsonl")
        history = client.get_metric_history(run.info.run_id, "val/accuracy")
        there = {m.step: m.value for m in history}
        told = {row["epoch"]: row["val/accuracy"] for row in rows if "val/accuracy" in row}
        assert told.items() <= there.items()  # a stopped one may have done an epoch more while it was stopped
        if rows and "best/proxy" in rows[-1]:
            assert run.data.metrics["best/proxy"] == rows[-1]["best/proxy"]


def test_cpus_of_stopped_and_failed_trials_are_free_within_10_s(swept):
    seen = [probe for probe in swept.probes if "groups" in probe]
    assert {probe["cpus"] for probe in seen} == {2.0}
    assert max(len(probe["groups"]) for probe in seen) == 2
    last = {group: probe["time"] for probe in seen for group in probe["groups"]}
    ended = sorted(Run(swept.folder / name).about["ended"] for name in ("t000", "t001", "t002"))
    assert len(last) == 3  # one a trial: a stopped trial's controller did not begin anew elsewhere
    for freed, end in zip(sorted(last.values()), ended, strict=True):
        assert freed - end < 10 * swept.slowness
    assert all(probe["free"] + len(probe["groups"]) <= 2 for probe in seen)


def test_nothing_listens_beyond_loopback(swept):
    listening = {ip for probe in swept.probes for ip in probe["listening"]}
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_nothing_is_left(swept):
    assert not left_over(process for probe in swept.probes for process in probe["processes"])
    assert swept.left == [] and not (swept.folder / ".ray").exists()
    assert not Run(swept.folder).busy


def test_finished_sweep_called_again_prints_its_ranking(swept):
    before = (swept.folder / "t000" / "metrics.jsonl").read_bytes()
    begun = now()
    code, out, err = finish(sweep(swept.storage, *MIXED))
    assert (code, err) == (0, "") and "best genotype" in out and "starting Ray" not in out
    assert (swept.folder / "t000" / "metrics.jsonl").read_bytes() == before
    assert now() - begun < 60


REFUSED: list[tuple[list[str], str]] = [
    ([*MIXED, "--arch-lr=0.5"], "arch_lr"),
    ([*MIXED, "--method.epochs=6"], "method.epochs"),
    ([*MIXED, "--grace=1"], "grace"),
    (["--num-trials=4", "--grace=3"], "space"),
    (["--name=new", "--gpus-per-trial=7"], "7 GPUs"),
    (["--name=new", "--workers-per-trial=3"], "3 CPUs"),
    (["--name=new", "--space=toy_spaces:nothing"], "toy_spaces:nothing"),
    (["--name=new", "--batch-size=5000"], "smaller --batch-size"),
    (["--name=new", "--proxy.epochs=0"], "proxy"),
    (["--name=new", "--preset=quickstrat"], "did you mean 'quickstart'"),
    (["--name=new", "--storage=/dev/null/runs"], "/dev/null"),
]


@pytest.mark.parametrize("words,says", REFUSED, ids=lambda value: value[-1] if isinstance(value, list) else None)
def test_refused_in_one_line_and_nothing_written(swept, words, says):
    before = (swept.folder / "sweep.json").read_bytes()
    code, out, err = finish(sweep(swept.storage, *words))
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1, (code, err)
    assert err.startswith("error: ") and "Ray" not in out
    assert not (swept.storage / "new").exists() and (swept.folder / "sweep.json").read_bytes() == before


def test_second_sweep_of_a_name_is_refused(swept):
    with Run(swept.folder):
        code, out, err = finish(sweep(swept.storage, *MIXED))
    assert code == 2 and f"process {os.getpid()} on " in err and len(err.strip().splitlines()) == 1, err


@pytest.mark.faults
def test_own_folder_from_where_the_user_stands_and_ctrl_c_on_the_way(tmp_path):
    """Ray's workers stand in folders of their own; the paths on the command line are the user's."""
    from PIL import Image

    for name, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(60):
            Image.new("RGB", (20 + i % 5, 24), (shade, shade, i)).save(tmp_path / "pictures" / name / f"{i:02d}.jpg")
    words = ["--storage=mine", "--name=s", "--dataset=folder", "--data-dir=pictures", "--data.image-size=16"]
    command = [SWEEP, *words, *TINY, "--gan=none", "--num-trials=1"]
    folder = tmp_path / "mine" / "s"

    process = start(*command, cwd=tmp_path)
    wait_for(process, lambda: epochs_of(folder / "t000"))
    everyone = family(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, out, err = finish(process)
    assert code == 130 and f"To continue: {sys.executable} {SWEEP} " in out and err == "", (code, out, err)
    assert not left_over(everyone)
    assert read_json(folder / "sweep.json")["state"] == "interrupted"
    assert Run(folder / "t000").about["state"] == "interrupted"
    assert trials_of(folder)[0].state == TrialState.RUNNING

    code, out, err = finish(start(*command, cwd=tmp_path))
    assert (code, err) == (0, ""), (out, err)
    assert (
        Run(folder / "t000").about["state"] == "finished" and "2 classes" in out and (folder / "report.html").exists()
    )


# ------------------------------------------------------------------------------------------------ longer proofs


def outcome(folder: Path) -> list[Any]:
    """All that must not depend on what happened to a sweep on its way."""
    found: list[Any] = []
    for trial in trials_of(folder):
        run = folder / f"t{trial.number:03d}"
        rows = [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in read_lines(run / "metrics.jsonl")]
        found.append([trial.params, trial.state.name, trial.value, trial.intermediate_values, rows])
        found.append([read_lines(run / "alphas.jsonl"), Run(run).about["state"], Run(run).about["reason"]])
        if trial.state == TrialState.COMPLETE:
            found.append(json.loads((run / "genotype.json").read_text()))
    return found


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
    behind = {"CLOCK": str(clock), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'clock'}"}
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
        wait_for(process, lambda run=run: list(run.folder.glob(f"checkpoints/{2 * iterations:09d}-*.pt")))
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
    other = another_ray(elsewhere)
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


# ------------------------------------------------------------------------------------------------ several at once

ASYNCHRONOUS = ["--space=toy_spaces:rates", "--num-trials=3", "--max-concurrent=2", "--grace=4"]


DRIVER_GONE = "the search's driver, or its controller, is gone; another goes on with it"


def once_and_as_alone(folder: Path, elsewhere: Path) -> bool:
    """Each epoch of a trial is there once, with what its configuration gives alone in this process."""
    alone = elsewhere / f"{folder.name}-alone"
    config = from_json(json.loads((folder / "config.json").read_text()))
    main(override(config, {"threads": 1}), alone, Hooks(say=lambda line: None))
    found, truth = (
        [
            [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in read_lines(run / "metrics.jsonl")],
            read_lines(run / "alphas.jsonl"),
            Run(run).about["state"],
            (run / "genotype.json").read_text(),
        ]
        for run in (folder, alone)
    )
    return found == truth


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
