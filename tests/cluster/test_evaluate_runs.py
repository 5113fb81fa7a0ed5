"""Evaluations on photographs: the same bits after a fault, unreadable pictures, MLflow, a real Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY as SMALL_SEARCH
from commands import family, finish, left_over, start, title, wait_for
from evaluations import (
    SCRIPT,
    STREAMED,
    SWEEP,
    TINY,
    environment,  # noqa: F401 (a fixture for every test)
    outcome,
    quiet,
    search_sweep,
)
from photographs import CLASSES
from tracked import client_of, runs_of

import dasgm
from cluster import evaluate, job, tracking
from cluster.evaluations import Evaluation
from cluster.winners import named
from dasgm.cpus import cpus
from dasgm.data._loader import TorchLoader
from dasgm.genotype import Genotype
from dasgm.jobs.evaluate import _for_all, main
from dasgm.jobs.session import Hooks
from dasgm.pages.view import read_run, read_trials
from dasgm.spaces.darts import KNOWN
from dasgm.store.records import read_json, read_lines
from dasgm.store.run import Run


def test_photographs_are_trained_on_and_go_on_to_the_same_bits(tmp_path, photographs):
    config = replace(STREAMED, data_dir=str(photographs))

    def end(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main(KNOWN["PDARTS"], config, tmp_path / "cut", quiet(report=end))
    main(KNOWN["PDARTS"], config, tmp_path / "cut", quiet())
    row = main(KNOWN["PDARTS"], config, tmp_path / "whole", quiet())
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    model = dasgm.load(tmp_path / "cut")
    data = config.data.open(config.data_dir)
    assert model.classes == data.classes and (model.image_size, model.resize) == (32, 37)
    (x, y, mask) = next(TorchLoader(data, 13).testing())
    assert mask.all()
    pictures = sorted((photographs / "val").rglob("*.JPEG"))
    shown = torch.stack([model.preprocess(picture) for picture in pictures])
    assert torch.allclose(shown, x, atol=1e-6)  # what predict sees is what was measured
    wrong = np.mean([model.predict([p])[0][0][0] != p.parent.name for p in pictures])
    assert row["result/error"] == pytest.approx(wrong)


def test_unreadable_pictures_end_a_run_that_goes_on_without_them_and_names_them(tmp_path, photographs):
    root = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    broken = [sorted((root / part).rglob("*.JPEG"))[2] for part in ("train", "val")]
    for file in broken:
        file.write_bytes(b"no picture")
    config = replace(STREAMED, batch_size=35, data_dir=str(root), epochs=2)
    with pytest.raises(ValueError, match=rf"{broken[0].name} \(.+\) cannot be read: .+ --data.skip-unreadable"):
        main(KNOWN["PDARTS"], config, tmp_path / "run", quiet())
    said: list[str] = []
    skipping = replace(config, data=replace(config.data, skip_unreadable=True))
    main(KNOWN["PDARTS"], skipping, tmp_path / "run", Hooks(say=said.append))
    (line,) = [line for line in said if line.startswith("left out, 2 unreadable: ")]
    assert all(file.name in line for file in broken)


def test_what_one_of_several_workers_cannot_read_is_not_tried_again(tmp_path, photographs, monkeypatch):
    monkeypatch.setattr("dasgm.jobs.evaluate.world_size", lambda: 2)
    config, one = replace(STREAMED, data_dir=str(photographs)), named(["PDARTS"])[0]
    group = evaluate.asked(["PDARTS", "--dataset=digits", "--name=g", f"--storage={tmp_path}"])
    asked = group._payload(Evaluation(one, config), 0)
    run = Run(asked["folder"])
    with pytest.raises(RuntimeError, match="a.JPEG cannot be read"), _for_all(run):
        raise ValueError("a.JPEG cannot be read")
    assert job.evaluate(asked) == "a.JPEG cannot be read" and not (run.folder / "metrics.jsonl").exists()
    group._payload(Evaluation(one, config), 0)  # the same command, once it is mended
    assert not run.about["fatal"]


def test_mlflow_gets_the_model_and_the_search_that_it_came_from(tmp_path, photographs):
    tracking.sync(search_sweep(tmp_path / "found"))
    words = ["--from-sweep=found", "--dataset=imagenet", f"--storage={tmp_path}", f"--data-dir={photographs}"]
    group = evaluate.asked([*words, "--name=g", "--recipe=imagenet-small", "--loader=torch"])
    (one,) = group.evaluations
    group.config = replace(STREAMED, data_dir=str(photographs))
    about = json.loads(group._payload(replace(one, config=group.config), 0)["about"])
    main(one.candidate.design, group.config, group.folder / one.name, quiet(about=about))
    group.begin()
    (group.folder / "table.md").write_text(group.table())
    group.note(state="finished")
    assert tracking.sync(group.folder) == tracking.sync(group.folder)
    client = client_of(tmp_path)
    runs = runs_of(client)
    run, search = runs["t001-s0"], runs["t001"]
    assert run.data.tags["searched.mlflow_run"] == search.info.run_id and run.data.tags["searched.sweep"] == "found"
    assert run.data.tags["kind"] == "evaluation" and runs["g"].data.tags["kind"] == "evaluations"
    assert run.data.tags["mlflow.parentRunId"] == runs["g"].info.run_id
    for key in ("result/error", "result/parameters", "result/multiply_adds", "speed/images_per_s", "cost/gpu_hours"):
        assert key in run.data.metrics, key
    copy = Path(client.download_artifacts(run.info.run_id, "model", str(tmp_path / "elsewhere_")[:-1]))
    assert dasgm.load(copy).classes == dasgm.load(group.folder / one.name).classes
    note = run.data.tags["mlflow.note.content"]
    assert f'dasgm.load(mlflow.artifacts.download_artifacts("runs:/{run.info.run_id}/model"))' in note
    assert Run(group.folder / one.name).about["searched"]["trial"] == "t001"
    assert {file.path for file in client.list_artifacts(runs["g"].info.run_id)} >= {"table.md", "config.json"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_seeds_side_by_side_killed_and_continued(tmp_path):
    words = ["DARTS_V2", "--dataset=digits", "--epochs=20", "--data.limit=200", "--drop-path=0.3", *TINY]
    words += ["--storage", str(tmp_path)]
    alone = start("-m", "dasgm", "evaluate", *words, "--name=alone")
    folder = tmp_path / "group"
    assert finish(alone)[0] == 0
    group = [SCRIPT, *words, "--seeds=2", "--name=group"]
    cut = start(*group)
    wait_for(cut, lambda: len(read_lines(folder / "DARTS_V2-s0" / "metrics.jsonl")) >= 2)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    cut = start(*group)
    wait_for(cut, lambda: "going on after" in (folder / "DARTS_V2-s0" / "log.txt").read_text())
    everyone = family(cut)
    unused = ("ray-dashboard-", "PlacementGroupCleaner", "TrainController")
    assert not [name for pid, _ in everyone if any(word in (name := title(int(pid))) for word in unused)]
    cut.send_signal(signal.SIGINT)
    code, out, err = finish(cut)
    assert (code, err) == (130, "") and f"To continue: {sys.executable} {SCRIPT} DARTS_V2" in out, (code, out, err)
    assert not left_over(everyone) and Run(folder / "DARTS_V2-s0").about["state"] == "interrupted"
    code, out, err = finish(start(*group))
    assert (code, err) == (0, ""), (code, out[-2000:], err)
    assert outcome(folder / "DARTS_V2-s0") == outcome(tmp_path / "alone")
    runs = [read_run(folder / f"DARTS_V2-s{seed}") for seed in range(2)]
    assert [run.state for run in runs] == ["finished"] * 2
    values = [run.last("result/error") for run in runs]
    expected = f"{100 * statistics.fmean(values):.2f} ± {100 * statistics.stdev(values):.2f} | 2 |"
    assert expected in (folder / "table.md").read_text() and expected in out
    before = [outcome(run.folder) for run in runs]
    code, out, err = finish(start(*group))
    assert (code, err) == (0, "") and "starting Ray" not in out and before == [outcome(run.folder) for run in runs]
    code, out, err = finish(start(*group, "--seeds=3", "--time-budget=1"))
    assert (code, err) == (0, "") and "not every evaluation came to its end" in out, (code, out[-2000:], err)
    assert "(2 of 3 finished)" in (folder / "table.md").read_text()
    assert before == [outcome(run.folder) for run in runs] and len(runs_of(client_of(tmp_path))) == 3


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_what_a_killed_driver_held_is_free_for_the_next(tmp_path):
    words = ["DARTS_V2", "--dataset=digits", "--epochs=20", "--data.limit=200", *TINY, "--storage", str(tmp_path)]
    words += ["--name=g", "--seeds=2", f"--cpus-per-worker={cpus()}"]  # one at a time
    process = start(SCRIPT, *words)
    wait_for(process, lambda: read_lines(tmp_path / "g" / "DARTS_V2-s0" / "metrics.jsonl"))
    (driver,) = [int(pid) for pid, _ in family(process) if "ray::Driver" in title(int(pid))]
    os.kill(driver, signal.SIGKILL)
    code, out, err = finish(process)
    states = [Run(tmp_path / "g" / f"DARTS_V2-s{seed}").about["state"] for seed in range(2)]
    assert code == 1 and states == ["interrupted", "finished"], (code, states, out[-2000:], err)
    code, out, err = finish(start(SCRIPT, *words))
    assert (code, err) == (0, "") and "going on after" in out, (code, out[-2000:], err)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_both_loaders_on_two_workers_of_half_a_cpu_give_the_same_numbers(tmp_path, photographs):
    words = ["PDARTS", "--dataset=imagenet", "--recipe=imagenet-small", "--data-dir", str(photographs)]
    words += ["--data.image-size=32", "--epochs=2", "--lr-schedule=cosine", "--workers=2", "--cpus-per-worker=0.5"]
    words += [*TINY, "--batch-size=4", "--storage", str(tmp_path)]
    for loader in ("ray", "torch"):
        code, out, err = finish(start(SCRIPT, *words, f"--loader={loader}", f"--name={loader}"))
        assert (code, err) == (0, ""), (code, out[-2000:], err)
    assert outcome(tmp_path / "ray" / "PDARTS-s0") == outcome(tmp_path / "torch" / "PDARTS-s0")
    assert Run(tmp_path / "ray" / "PDARTS-s0").about["workers"] == 2
    assert Genotype.load(tmp_path / "ray" / "PDARTS-s0" / "genotype.json") == KNOWN["PDARTS"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_ends_with_its_best_on_photographs(tmp_path, photographs):
    words = [*SMALL_SEARCH, "--gan=none", "--num-trials=2", "--storage", str(tmp_path), "--name=found"]
    stage = ["name=last", "recipe=imagenet-small", "workers=2", "cpus-per-worker=0.5", "prefetch=2", "batch-size=4"]
    stage += ["data.image-size=32", "epochs=2", "lr-schedule=cosine", *(word.removeprefix("--") for word in TINY[:2])]
    words += ["--then-imagenet", str(photographs), "--top=1", "--imagenet-set", *stage]
    code, out, err = finish(start(SWEEP, *words))
    assert (code, err) == (0, "") and "the last stage: python cluster/evaluate.py --from-sweep=found" in out, (out, err)
    objective = read_json(tmp_path / "found" / "sweep.json")["objective"]
    best = max(read_trials(tmp_path / "found"), key=lambda view: view.last(objective) or 0.0)
    (made,) = read_trials(tmp_path / "last")
    assert made.state == "finished" and made.info["searched"]["trial"] == best.folder.name
    assert made.genotype == best.genotype and dasgm.load(made.folder).classes == CLASSES
    client = client_of(tmp_path)
    (run,) = [run for run in runs_of(client).values() if run.data.metrics.get("result/error") is not None]
    assert run.data.metrics["result/error"] == made.last("result/error")
    code, out, err = finish(start(SWEEP, *words))
    assert (code, err) == (0, "") and "starting Ray" not in out, (out, err)
