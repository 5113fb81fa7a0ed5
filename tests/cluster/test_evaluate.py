"""Evaluations side by side: which genotypes, the table, what is refused, what MLflow gets; on a real Ray the numbers of
`dasgm evaluate`, a kill half-way, and ImageNet's layout on two workers of half a CPU."""

from __future__ import annotations

import base64
import json
import shutil
import statistics
import zlib

import pytest
from evaluations import (
    TINY,
    environment,  # noqa: F401 (a fixture for every test)
    evaluated,
    search_sweep,
)
from mlflow import MlflowClient
from pictures import pictures
from scipy.stats import ttest_ind
from tracked import START, client_of, experiment_of, runs_of

from cluster import connection, evaluate, tracking
from cluster.room import Workers
from cluster.winners import named, of_sweep
from dasgm.designs.design import read_design
from dasgm.genotype import space_of
from dasgm.pages.tables import errors
from dasgm.pages.view import read_trials
from dasgm.spaces.darts import KNOWN
from dasgm.store.records import read_lines
from dasgm.store.run import Run
from tuning import sweep


def test_the_best_of_a_sweep_from_its_folder(tmp_path):
    search_sweep(tmp_path / "found")
    best = of_sweep("found", tmp_path, 2)
    assert [(one.name, one.design) for one in best] == [("t001", KNOWN["PDARTS"]), ("t000", KNOWN["DARTS_V1"])]
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


def test_the_best_of_a_sweep_within_a_bound(tmp_path, monkeypatch):
    """From its folder, and from MLflow."""
    folder = search_sweep(tmp_path / "found")
    for name, size in (("t001", 3e6), ("t000", 1e6)):
        path = folder / name / "metrics.jsonl"
        *rows, last = read_lines(path)
        path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, last | {"best/parameters": size})))
    group = evaluate.asked(["--from-sweep=found", "--at-most=params=2e6", f"--storage={tmp_path}"])
    assert [one.name for one in group.candidates] == ["t000"]
    assert [one.name for one in of_sweep("found", tmp_path, 1)] == ["t001"]
    tracking.sync(folder)
    shutil.rmtree(folder)
    assert [one.name for one in of_sweep("found", tmp_path, 1, {"parameters": 2e6})] == ["t000"]
    with pytest.raises(ValueError, match="ask for fewer"):
        of_sweep("found", tmp_path, 1, {"parameters": 1e3})


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
        assert (one.name, one.design, one.config) == (other.name, other.design, other.config)
        assert other.searched == one.searched | {"mlflow_run": runs[one.name].info.run_id}
    for name, top, says in (("other", 1, "none of that name in MLflow"), ("found", 3, "ask for fewer")):
        with pytest.raises(ValueError, match=says):
            of_sweep(name, tmp_path, top)


@pytest.mark.parametrize(("objective", "order"), [("best/naswot", ["t000", "t001"]), ("best/proxy", ["t001", "t000"])])
def test_the_best_are_those_by_the_score_of_the_sweeps_record(tmp_path, objective, order):
    """From its folder, and from MLflow, whose note and view rank by it too."""
    link = tracking.sync(search_sweep(tmp_path / "found", objective=objective))
    assert [one.name for one in of_sweep("found", tmp_path, 2)] == order
    shutil.rmtree(tmp_path / "found")
    assert [one.name for one in of_sweep("found", tmp_path, 2)] == order
    client = client_of(tmp_path)
    tags = runs_of(client)["found"].data.tags
    note = tags["mlflow.note.content"]
    assert tags["objective"] == objective and f"| trial | {objective} |" in note
    assert note.index(order[0]) < note.index(order[1])
    blob = experiment_of(client).tags[f"mlflow.sharedViewState.{str(link).partition('viewStateShareKey=')[2]}"]
    view = json.loads(zlib.decompress(base64.b64decode(blob.partition(";")[2])))
    assert view["orderByKey"] == f"metrics.`{objective}`" and not view["orderByAsc"]
    assert {"metrics.`best/proxy`", "metrics.`best/naswot`"} < set(view["selectedColumns"])


def test_a_sweep_that_older_versions_sent_to_mlflow_is_ranked_by_the_proxy(tmp_path):
    tracking.sync(search_sweep(tmp_path / "found"))
    client = client_of(tmp_path)
    client.delete_tag(runs_of(client)["found"].info.run_id, "objective")
    shutil.rmtree(tmp_path / "found")
    assert [one.name for one in of_sweep("found", tmp_path, 1)] == ["t001"]


def test_known_networks_stand_beside_genotypes(tmp_path):
    words = ["--dataset=digits", f"--storage={tmp_path}", "--cells=3"]
    group = evaluate.asked(["DARTS_V2", "torchvision:resnet18", *words])
    assert [one.name for one in group.evaluations] == ["DARTS_V2-s0", "torchvision-resnet18-s0"]
    sent = group._payload(group.evaluations[1], 0)
    assert read_design(sent["design"]) == group.candidates[1].design
    about = Run(group.folder / "torchvision-resnet18-s0").about
    assert about["network"] == "torchvision:resnet18" and "genotype" not in about
    with pytest.raises(ValueError, match="--cells is given, but a known network has no such setting"):
        evaluate.asked(["torchvision:resnet18", *words])


def test_table_of_errors_and_welchs_test(tmp_path):
    values = {"A": [0.026, 0.028, 0.027], "B": [0.030, 0.033], "C": [0.027, 0.029]}
    for name, found in values.items():
        for seed, error in enumerate(found):
            evaluated(tmp_path, name, seed, error)
    evaluated(tmp_path, "B", 2, 0.0, "interrupted")
    table = errors(read_trials(tmp_path), ["A", "B"], 3)
    spread = 100 * statistics.stdev(values["B"])
    assert "| A | 2.70 ± 0.10 | 3 | - | 3,300,000 | - | 200 | 2.0000 | - | - | - |" in table
    assert f"| B | 3.15 ± {spread:.2f} (2 of 3 finished) | 2 |" in table
    p = ttest_ind(values["A"], values["B"], equal_var=False).pvalue
    assert f"| 2.0000 | A | {p:.3g} | {p:.3g} |" in table and "of which there is 1." in table
    table = errors(read_trials(tmp_path), ["A", "B", "D", "C"], 3)
    q = ttest_ind(values["A"], values["C"], equal_var=False).pvalue
    assert p < q < 1
    assert f"| A | {p:.3g} | {2 * p:.3g} |" in table and f"| A | {q:.3g} | {max(2 * p, q):.3g} |" in table
    assert "of which there are 2." in table and "| D | not run | 0 | - | - | - | - | - | A | - | - |" in table
    assert "Welch" not in (alone := errors(read_trials(tmp_path), ["A"], 3)) and "Holm" not in alone
    assert "Welch" not in errors([], ["A", "C"], 1)


def test_imagenets_defaults_are_eight_gpus_where_they_are(monkeypatch):
    words = ["DARTS_V2", "--dataset=imagenet"]
    monkeypatch.setattr(connection, "visible_gpus", lambda: 8)
    monkeypatch.setattr(connection, "cpus", lambda: 96)
    monkeypatch.setattr("cluster.evaluations.cpus", lambda: 96)
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
    monkeypatch.setattr("cluster.evaluations.cpus", lambda: 4)
    monkeypatch.setattr(connection, "visible_gpus", lambda: 0)
    words = ["DARTS_V2", "--seeds=9", "--workers=2", "--cpus-per-worker=0.5"]
    streamed, held = evaluate.asked([*words, "--dataset=imagenet"]), evaluate.asked([*words, "--dataset=digits"])
    assert streamed.at_once(streamed.workers(), 4, 4) == 3 and held.at_once(held.workers(), 4, 4) == 4
    assert evaluate.asked([*words, "--max-concurrent=2"]).at_once(held.workers(), 4, 4) == 2


def test_workers_among_whom_the_recipes_batch_does_not_divide_are_given_their_own(monkeypatch):
    monkeypatch.setattr(connection, "cpus", lambda: 8)
    monkeypatch.setattr("cluster.evaluations.cpus", lambda: 8)
    group = evaluate.asked(["DARTS_V2", "--dataset=cifar10", "--workers=5", "--batch-size=20"])
    assert group.workers().number == 5 and group.config.batch_size == 20


def test_a_time_budget_is_more_than_nothing_and_batches_ahead_are_two(capsys):
    settings = {f"--time-budget={budget}": "more than 0" for budget in ("0", "-5", "nan")}
    settings |= {f"--prefetch={n}": "at least 2 batches" for n in (1, -3)}
    settings |= {"--prefetch=4 --loader=torch": "only --loader ray"}
    settings |= {"--prefetch=4 --dataset=folder --data.image-size=96": "always streamed, such as imagenet, not folder"}
    for setting, says in settings.items():
        data = [] if "--dataset" in setting else ["--dataset=digits"]
        with pytest.raises(SystemExit):
            evaluate.asked(["DARTS_V2", *data, *setting.split()])
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name genotypes"),
        (["DARTS_V2", "--from-sweep=found"], "name genotypes"),
        (["DARTS_V2", "--top=2"], "--from-sweep"),
        (["--from-sweep=found", "--top=many"], "whole number"),
        (["DARTS_V2", "--at-most=params=1e6"], "--at-most params=1e6: there is no sweep"),
        (["--from-sweep=found", "--at-most=1e6"], "as in params=1e6"),
        (["--from-sweep=found"], "there is no sweep in"),
        (["DARTS_V3"], "did you mean 'DARTS_V"),
        (["DARTS_V2", "DARTS_V2"], "two genotypes are called DARTS_V2"),
        (["DARTS_V2", "--workers=0"], "at least 1"),
        (["DARTS_V2", "--workers=5"], "choose another number of --workers, or set the --batch-size of each"),
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
        with pytest.raises(ValueError, match="began with channels = 2, but this command asks for 4"):
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


@pytest.fixture
def last_stages(tmp_path, monkeypatch):
    """The command lines that the sweep `found`, whose searches have ended, passes on."""
    asked: list[list[str]] = []
    search_sweep(tmp_path / "found")
    monkeypatch.setattr(sweep, "carry_out", lambda sweep: 0)
    monkeypatch.setattr(evaluate, "main", lambda words: asked.append(words) or 0)
    monkeypatch.setattr(connection, "cpus", lambda: 2)
    monkeypatch.setattr("cluster.evaluations.cpus", lambda: 2)
    return asked


def test_a_sweeps_last_stage_is_that_command(tmp_path, photographs, last_stages, capsys):
    words = ["--gan=none", f"--storage={tmp_path}", "--name=found", "--top=2", "--then-imagenet"]
    settings = ["--imagenet-set", "recipe=imagenet-small", "workers=2", "cpus-per-worker=0.5", "batch-size=8"]
    assert sweep.main([*words, str(photographs), *settings]) == 0
    (found,) = last_stages
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
    assert len(last_stages) == 1


def test_a_sweeps_last_stage_on_its_own_pictures(tmp_path, photographs, last_stages, capsys):
    words = ["--gan=none", f"--storage={tmp_path}", "--name=found", "--dataset=folder", f"--data-dir={photographs}"]
    assert sweep.main([*words, "--then-train", "--train-set", "data.image-size=96", "batch-size=8"]) == 0
    (found,) = last_stages
    made = evaluate.asked(found)
    assert [one.name for one in made.candidates] == ["t001"] and made.recipe == "photographs"
    assert made.config.data.image_size == 96 and made.config.form == "imagenet"
    assert made.config.data_dir == str(photographs)
    for more, says in (
        (["--train-set", "epochs=3"], "add --then-train"),
        (["--then-train", "--then-imagenet=x"], "one"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            sweep.main([*words, *more])
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line, line


@pytest.mark.parametrize(("space", "recipe"), [("darts", "cifar"), ("nasbench201", "nasbench201")])
def test_a_last_stage_is_looked_at_with_the_sweeps_data_and_space(tmp_path, monkeypatch, space, recipe):
    made: list[evaluate.Evaluations] = []
    pictures(tmp_path / "pictures", {"a": 30, "b": 30})
    (tmp_path / "pictures" / "a" / "03.png").write_bytes(b"x")
    look = evaluate.Evaluations.look_at_data
    monkeypatch.setattr(evaluate.Evaluations, "look_at_data", lambda self, w: (made.append(self), look(self, w)))
    words = [f"--search-space={space}", "--method=random", "--gan=none", "--dataset=folder", "--data.skip-unreadable"]
    words += [f"--data-dir={tmp_path / 'pictures'}", f"--storage={tmp_path}", "--name=new"]
    monkeypatch.setattr(sweep, "carry_out", lambda sweep: 3)  # nothing is swept
    assert sweep.main([*words, "--then-train", "--train-set", "cells=5", "channels=4", "batch-size=8"]) == 3
    (found,) = made
    assert found.config.data.skip_unreadable and found.recipe == recipe
    assert type(found.candidates[0].design.space) is type(space_of(space))
