"""A sweep from outside, for real: Ray, Optuna, MLflow, processes; stopped, failed, killed, continued."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import TINY, TOOLS, another_ray, family, finish, left_over, probes, start, wait_for
from optuna.trial import TrialState
from patience import now
from sweeps import MIXED, SWEEP, epochs_of, sweep, trials_of

from dasgm.store.records import read_json, read_lines
from dasgm.store.run import Run


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two at a time on a 2-CPU Ray beside an unrelated one: good, broken, hopeless."""
    storage = tmp_path_factory.mktemp("swept")
    temporary, elsewhere = Path(tempfile.mkdtemp(prefix="t-")), Path(tempfile.mkdtemp(prefix="r-"))
    other = another_ray(elsewhere)
    process = start(
        *(str(TOOLS / "probed.py"), str(storage / "probes"), "sweep"),
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
    assert "ranked by proxy (--rank-by): " in swept.out and " (by proxy): " in swept.out
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
            assert trial.value == rows[-1][read_json(swept.folder / "sweep.json")["objective"]]
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


def test_no_process_is_started_without_use(swept):
    """A trial is its driver, its worker, and what synchronises its workers."""
    titles = {title for probe in swept.probes for title in probe["titles"]}
    assert all(any(name in title for title in titles) for name in ("ImplicitFunc", "RayTrainWorker", "Synchronization"))
    unused = ("Queue", "TrainController", "DatasetManager", "PlacementGroupCleaner", "Coordinator", "ray-dashboard-")
    assert not [title for title in titles if any(name in title for name in unused)]


def test_nothing_listens_beyond_loopback(swept):
    listening = {ip for probe in swept.probes for ip in probe["listening"]}
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_nothing_is_left(swept):
    assert not left_over(process for probe in swept.probes for process in probe["processes"])
    assert swept.left == [] and not (swept.folder / ".ray").exists()
    assert not Run(swept.folder).busy


def test_finished_sweep_called_again_prints_its_ranking(swept, warm):
    before = (swept.folder / "t000" / "metrics.jsonl").read_bytes()
    begun = now()
    code, out, err = finish(sweep(swept.storage, *MIXED, begin=warm.start))
    assert (code, err) == (0, "") and "best genotype" in out and "starting Ray" not in out
    assert (swept.folder / "t000" / "metrics.jsonl").read_bytes() == before
    assert now() - begun < 60


REFUSED: list[tuple[list[str], str]] = [
    ([*MIXED, "--arch-lr=0.5"], "arch_lr"),
    ([*MIXED, "--method.epochs=6"], "method.epochs"),
    ([*MIXED, "--grace=1"], "grace"),
    ([*MIXED, "--rank-by=naswot"], "rank-by"),
    (["--name=new", "--rank-by=naswot", "--space=toy_spaces:sizes"], "proxy.cells is 4, elsewhere in this sweep 3"),
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
def test_refused_in_one_line_and_nothing_written(swept, warm, words, says):
    before = (swept.folder / "sweep.json").read_bytes()
    code, out, err = finish(sweep(swept.storage, *words, begin=warm.start))
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1, (code, err)
    assert err.startswith("error: ") and "Ray" not in out
    assert not (swept.storage / "new").exists() and (swept.folder / "sweep.json").read_bytes() == before


def test_second_sweep_of_a_name_is_refused(swept, warm):
    with Run(swept.folder):
        code, out, err = finish(sweep(swept.storage, *MIXED, begin=warm.start))
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
