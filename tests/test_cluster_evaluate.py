"""Evaluations side by side: which genotypes, the table, what is refused, what MLflow gets; on a real Ray the numbers of
`dasgm evaluate`, a kill half-way, and ImageNet's layout on two workers of half a CPU."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY as SMALL_SEARCH
from commands import family, finish, left_over, start, wait_for
from mlflow import MlflowClient
from photographs import CLASSES, digit_pictures, encoded, write_folder
from PIL import Image
from scipy.stats import ttest_ind
from test_tracking import START, client_of, runs_of, write_run

import dasgm
from cluster import connection, evaluate, job, stores, tracking
from cluster.evaluations import Evaluation
from cluster.room import Workers
from cluster.winners import named, of_sweep
from dasgm.data import imagenet
from dasgm.data._loader import TorchLoader
from dasgm.genotype import KNOWN, Genotype
from dasgm.jobs.evaluate import _for_all, main
from dasgm.jobs.session import Hooks
from dasgm.pages.tables import errors
from dasgm.pages.view import read_run, read_trials
from dasgm.recipes import recipe
from dasgm.store.records import read_lines
from dasgm.store.run import Run
from tuning import sweep

SCRIPT, SWEEP = (str(Path(__file__).parents[1] / name) for name in ("cluster/evaluate.py", "tuning/sweep.py"))
TIMES = ("time", "speed/", "cost/")
TINY = ["--cells=3", "--channels=2", "--batch-size=16", "--threads=1"]
STREAMED = replace(
    recipe("imagenet-small").config,
    **{"data": imagenet.Config(image_size=32), "cells": 3, "channels": 2, "batch_size": 8, "threads": 1},
    **{"epochs": 3, "lr_schedule": "cosine"},
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "RAY_"))]:
        monkeypatch.delenv(name)
    for name, value in stores.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs of several sizes, so that all decoders give the same pixels."""
    root = tmp_path_factory.mktemp("photographs")
    for part, counts, first in (("train", (12, 13, 10), 0), ("val", (4, 5, 4), 100)):
        made = digit_pictures(counts, first)
        for pictures in made.values():
            pictures[:] = [(name, encoded(Image.open(io.BytesIO(data)), "PNG")) for name, data in pictures]
        write_folder(root, **{part: made})
    return root


def search_sweep(folder: Path, state: str = "finished") -> Path:
    """A sweep's folder: t001 is best, then t000; t002 was stopped early, t003 failed."""
    for name, best, ended, genotype in (
        ("t000", 0.90, "finished", "DARTS_V1"),
        ("t001", 0.95, "finished", "PDARTS"),
        ("t002", None, "stopped", "DARTS_V2"),
        ("t003", None, "failed", "DARTS_V2"),
    ):
        write_run(folder / name, 4, ended, gan="none", sweep=folder.name, **({"best": best} if best else {}))
        KNOWN[genotype].save(folder / name / "genotype.json")
        data = {"key": "digits", "image_size": 32, "holdout": 0.1, "limit": 500}
        (folder / name / "config.json").write_text(json.dumps({"data": data, "data_dir": None}))
    fields = {"format": 1, "name": folder.name, "state": state, "reason": "", "started": START, "ended": START + 9}
    fields |= {"preset": "quickstart", "dataset": "digits", "seed": 0, "command": "", "num_trials": 4}
    fields |= {"objective": "best/proxy", "config": {"seed": 0}, "machine": "2 CPUs"}
    (folder / "sweep.json").write_text(json.dumps(fields))
    return folder


# which genotypes


def test_the_best_of_a_sweep_from_its_folder(tmp_path):
    search_sweep(tmp_path / "found")
    best = of_sweep("found", tmp_path, 2)
    assert [(one.name, one.genotype) for one in best] == [("t001", KNOWN["PDARTS"]), ("t000", KNOWN["DARTS_V1"])]
    key = f"found@{START:.3f}/t001"
    assert best[0].searched == {"sweep": "found", "trial": "t001", "run": key}
    assert best[0].source == str(tmp_path / "found" / "t001") and best[0].config["data"]["key"] == "digits"
    (again,) = named([str(tmp_path / "found" / "t001")])
    assert again.searched == best[0].searched and again.name == "found-t001"
    group = evaluate.asked(["--from-sweep=found", "--top=2", "--seeds=2", f"--storage={tmp_path}"])
    assert [one.name for one in group.evaluations] == ["t001-s0", "t000-s0", "t001-s1", "t000-s1"]
    assert group.folder.name == "found-top2-digits-small-digits" and group.config.data.image_size == 32
    for top, says in ((0, "at least 1"), (3, "2 searches with a genotype have finished")):
        with pytest.raises(ValueError, match=says):
            of_sweep("found", tmp_path, top)
    with Run(tmp_path / "found"), pytest.raises(ValueError, match="still running"):
        of_sweep("found", tmp_path, 1)


def test_the_best_of_a_sweep_from_mlflow_where_its_folder_is_not(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no sweep in"):
        of_sweep("found", tmp_path, 1)
    assert not (tmp_path / "mlflow.db").exists()
    tracking.sync(search_sweep(tmp_path / "found"))
    here = of_sweep("found", tmp_path, 2)
    shutil.rmtree(tmp_path / "found")
    there = of_sweep("found", tmp_path, 2)
    search = MlflowClient.search_runs
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *words, **more: search(*words, **more, max_results=1))
    assert of_sweep("found", tmp_path, 2) == there, "it gives so many at once"
    monkeypatch.undo()
    runs = runs_of(client_of(tmp_path))
    for one, other in zip(here, there, strict=True):
        assert (one.name, one.genotype, one.config) == (other.name, other.genotype, other.config)
        assert other.searched == one.searched | {"mlflow_run": runs[one.name].info.run_id}
    for name, top, says in (("other", 1, "none of that name in MLflow"), ("found", 3, "ask for fewer")):
        with pytest.raises(ValueError, match=says):
            of_sweep(name, tmp_path, top)


# the table


def evaluated(folder: Path, name: str, seed: int, error: float, state: str = "finished") -> None:
    where = folder / f"{name}-s{seed}"
    where.mkdir(parents=True)
    about = {"kind": "evaluation", "state": state, "parameters": {"row": name, "seed": seed}}
    (where / "run.json").write_text(json.dumps(about))
    every = {"phase": "evaluate", "time": 1.0}
    rows: list[dict[str, Any]] = [every | {"epoch": e, "speed/images_per_s": 100.0 * e} for e in (1, 2, 3)]
    if state == "finished":
        result = {"epoch": 3, "result/error": error, "cost/gpu_hours": 2.0, "result/parameters": 3_300_000}
        rows.append(every | {"phase": "result"} | result)
    (where / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_table_of_errors_and_welchs_test(tmp_path):
    values = {"A": [0.026, 0.028, 0.027], "B": [0.030, 0.033]}
    for name, found in values.items():
        for seed, error in enumerate(found):
            evaluated(tmp_path, name, seed, error)
    evaluated(tmp_path, "B", 2, 0.0, "interrupted")
    table = errors(read_trials(tmp_path), ["A", "B"], 3)
    spread = 100 * statistics.stdev(values["B"])
    assert "| A | 2.70 ± 0.10 | 3 | - | 3,300,000 | - | 200 | 2.0000 |" in table
    assert f"| B | 3.15 ± {spread:.2f} (2 of 3 finished) | 2 |" in table
    p = ttest_ind(values["A"], values["B"], equal_var=False).pvalue
    assert f"p = {p:.3g}" in table
    assert "Welch" not in errors(read_trials(tmp_path), ["A"], 3)
    assert "| C | not run | 0 |" in errors([], ["C"], 3)
    assert "not enough runs" in errors([], ["A", "C"], 1)


# what is asked


def test_imagenets_defaults_are_eight_gpus_where_they_are(monkeypatch):
    words = ["DARTS_V2", "--dataset=imagenet"]
    monkeypatch.setattr(connection, "visible_gpus", lambda: 8)
    monkeypatch.setattr(connection, "cpus", lambda: 96)
    group = evaluate.asked(words)
    assert group.workers() == Workers(8, gpus=1.0, cpus=1.0, private=True) and group.options.loader == "ray"
    config = group.config
    assert (config.batch_size, config.data.image_size, config.cells, config.channels) == (64, 224, 14, 48)
    assert group.at_once(group.workers(), 1, 96) == 1
    with pytest.raises(ValueError, match="decode pictures"):
        evaluate.asked([*words, "--cpus-per-worker=12"]).workers()
    assert evaluate.asked([*words, "--cpus-per-worker=12", "--loader=torch"]).workers().cpus == 12
    monkeypatch.setattr(connection, "visible_gpus", lambda: 0)
    assert evaluate.asked(words).workers() == Workers(1)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert evaluate.asked(words).workers() == Workers(8, gpus=1.0, cpus=1.0, private=False)


def test_side_by_side_leaves_ray_data_a_cpu(monkeypatch):
    monkeypatch.setattr(connection, "cpus", lambda: 4)
    monkeypatch.setattr(connection, "visible_gpus", lambda: 0)
    words = ["DARTS_V2", "--seeds=9", "--workers=2", "--cpus-per-worker=0.5"]
    streamed, held = evaluate.asked([*words, "--dataset=imagenet"]), evaluate.asked([*words, "--dataset=digits"])
    assert streamed.at_once(streamed.workers(), 4, 4) == 3 and held.at_once(held.workers(), 4, 4) == 4
    assert evaluate.asked([*words, "--max-concurrent=2"]).at_once(held.workers(), 4, 4) == 2


def test_workers_among_whom_the_recipes_batch_does_not_divide_are_given_their_own(monkeypatch):
    monkeypatch.setattr(connection, "cpus", lambda: 8)
    group = evaluate.asked(["DARTS_V2", "--dataset=cifar10", "--workers=5", "--batch-size=20"])
    assert group.workers().number == 5 and group.config.batch_size == 20


def test_a_time_budget_is_more_than_nothing_and_batches_ahead_are_two(capsys):
    settings = {f"--time-budget={budget}": "more than 0" for budget in ("0", "-5", "nan")}
    settings |= {f"--prefetch={n}": "at least 2 batches" for n in (1, -3)}
    for setting, says in (settings | {"--prefetch=4 --loader=torch": "only --loader ray"}).items():
        with pytest.raises(SystemExit):
            evaluate.asked(["DARTS_V2", "--dataset=digits", *setting.split()])
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name genotypes"),
        (["DARTS_V2", "--from-sweep=found"], "name genotypes"),
        (["DARTS_V2", "--top=2"], "--from-sweep"),
        (["--from-sweep=found", "--top=many"], "whole number"),
        (["--from-sweep=found"], "there is no sweep in"),
        (["DARTS_V3"], "did you mean DARTS_V"),
        (["DARTS_V2", "DARTS_V2"], "two genotypes are called DARTS_V2"),
        (["DARTS_V2", "--workers=0"], "at least 1"),
        (["DARTS_V2", "--workers=5"], "choose other --workers, or give each its --batch-size"),
        (["DARTS_V2", "--dataset=digits", "--cpus-per-worker=0"], "more than 0"),
        (["DARTS_V2", "--dataset=digits", "--gpus=99"], "99 GPUs"),
        (["DARTS_V2", "--dataset=digits", "--batch-size=2000"], "there are 1497"),
        (["DARTS_V2", "--dataset=imagenet", "--recipe=imagenet-small", "--loader=torch"], "needs --data-dir"),
        (["DARTS_V2", "--dataset=imagenet", "--recipe=imagenet-small", "--cpus-per-worker=1e3"], "asks for"),
    ],
)
def test_refused_in_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        evaluate.main(words)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and says in line and line.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_another_configuration_or_genotype_of_the_same_name_is_refused(tmp_path):
    def group(*more: str) -> evaluate.Evaluations:
        return evaluate.asked(["DARTS_V2", "--dataset=digits", "--name=g", f"--storage={tmp_path}", *TINY, *more])

    first = group()
    with Run(first.folder):
        first.begin()
        group("--seeds=3").begin()
        with pytest.raises(ValueError, match="began with channels = 2, asked is 4"):
            group("--channels=4").begin()
        with pytest.raises(ValueError, match="began with workers = 1"):
            group("--workers=2").begin()
        Run(first.folder / "DARTS_V2-s0").note(mathematics={"genotype": "another's"})
        with pytest.raises(ValueError, match="another genotype"):
            first.begin()
    first.note(kind="")
    with pytest.raises(ValueError, match="holds a sweep of searches, expected evaluations; use another --name"):
        first.begin()


def test_dry_run_counts_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["DARTS_V2", "PDARTS", "--seeds=2", "--dataset=digits", *TINY, "--dry-run"]) == 0
    assert "4 evaluations, " in capsys.readouterr().out and not list(tmp_path.iterdir())


# a streamed evaluation, in this process


def quiet(**more: Any) -> Hooks:
    return Hooks(say=lambda line: None, **more)


def outcome(folder: Path) -> Any:
    rows = [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in read_lines(folder / "metrics.jsonl")]
    return rows, (folder / "model.safetensors").read_bytes()


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
    main(one.candidate.genotype, group.config, group.folder / one.name, quiet(about=about))
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


# the last stage of a sweep


def test_a_sweeps_last_stage_is_that_command(tmp_path, photographs, monkeypatch, capsys):
    asked: list[list[str]] = []
    search_sweep(tmp_path / "found")
    monkeypatch.setattr(sweep, "carry_out", lambda sweep: 0)
    monkeypatch.setattr(evaluate, "main", lambda words: asked.append(words) or 0)
    monkeypatch.setattr(connection, "cpus", lambda: 2)
    words = ["--gan=none", f"--storage={tmp_path}", "--name=found", "--top=2", "--then-imagenet"]
    settings = ["--imagenet-set", "recipe=imagenet-small", "workers=2", "cpus-per-worker=0.5", "batch-size=8"]
    assert sweep.main([*words, str(photographs), *settings]) == 0
    (found,) = asked
    assert [one.name for one in evaluate.asked(found).candidates] == ["t001", "t000"]
    assert evaluate.asked(found).workers() == Workers(2, cpus=0.5)
    capsys.readouterr()
    for place, more, says in (
        (tmp_path / "nowhere", settings, "nowhere"),
        (photographs, ["--imagenet-set", "workers"], "workers=2"),
        (photographs, [*settings[:-2], "cpus-per-worker=1"], "decode pictures"),
    ):
        with pytest.raises(SystemExit):
            sweep.main([*words, str(place), *more])
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line, line
    assert len(asked) == 1


# on a real Ray


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
    best = max(read_trials(tmp_path / "found"), key=lambda view: view.last("best/proxy") or 0.0)
    (made,) = read_trials(tmp_path / "last")
    assert made.state == "finished" and made.info["searched"]["trial"] == best.folder.name
    assert made.genotype == best.genotype and dasgm.load(made.folder).classes == CLASSES
    client = client_of(tmp_path)
    (run,) = [run for run in runs_of(client).values() if run.data.metrics.get("result/error") is not None]
    assert run.data.metrics["result/error"] == made.last("result/error")
    code, out, err = finish(start(SWEEP, *words))
    assert (code, err) == (0, "") and "starting Ray" not in out, (out, err)
