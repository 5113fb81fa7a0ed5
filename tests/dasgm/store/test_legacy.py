"""Runs of dasgm 0.1.0 (tests/tools/legacy): what it finished is shown and used, what it did not finish is refused."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from commands import TOOLS
from hostile import command
from PIL import Image

import dasgm
from cluster import contents, winners
from cluster import evaluate as group
from dasgm.cli import main as cli
from dasgm.config import SearchConfig, from_json, override
from dasgm.jobs.warmup import warm_up
from dasgm.measures.judge import judge
from dasgm.pretrained import chosen
from dasgm.search import Search
from dasgm.store.records import amend, read_json, read_metrics
from tuning import sweep

MAINS = {"dasgm": cli.main, "tuning.sweep": sweep.main, "cluster.evaluate": group.main}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, where the same commands find it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TOOLS / "legacy", tmp_path / "runs")
    return tmp_path / "runs"


def again(folder: Path, *more: str) -> tuple[int, str]:
    """The command that made a folder, in this process: its exit code and what it said."""
    record = read_json(folder / "run.json") or read_json(folder / "sweep.json")
    _, _, program, *words = shlex.split(record["command"])
    return command(*words, *more, main=MAINS[program])


def held(folder: Path) -> dict[str, str]:
    """The files of a folder that hold what it came to."""
    kinds = (".json", ".jsonl", ".pt", ".safetensors")
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in kinds and path.name != "run.json" and not path.name.startswith(".")
    }


def refusal(folder: Path) -> str:
    return (
        f"error: run {folder}: written by dasgm 0.1.0: finish it with that version, or begin anew with --name OTHER\n"
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("search", "finished: proxy accuracy 0."),
        ("gan", "finished"),
        ("model", "finished: test error "),
    ],
)
def test_a_finished_run_shows_its_result(runs: Path, name: str, says: str) -> None:
    folder = runs / name
    before, record = held(folder), read_json(folder / "run.json")
    code, said = again(folder)
    assert code == 0 and says in said, said
    assert held(folder) == before and (folder / "report.html").is_file()
    kept = read_json(folder / "run.json")
    assert {k: v for k, v in kept.items() if k != "ended"} == {k: v for k, v in record.items() if k != "ended"}


@pytest.mark.parametrize("name", ["search", "gan", "model"])
def test_a_run_that_was_killed_after_its_last_row_shows_its_result(runs: Path, name: str) -> None:
    folder = runs / name
    amend(folder / "run.json", state="running", ended=None)
    before = held(folder)
    code, said = again(folder)
    assert code == 0 and "finished" in said and held(folder) == before, said
    kept = read_json(folder / "run.json")
    assert (kept["state"], kept["ended"]) == ("finished", read_metrics(folder)[-1]["time"])


@pytest.mark.parametrize("state", ["running", "finished"])
def test_a_run_without_its_last_row_is_refused(runs: Path, state: str) -> None:
    folder = runs / "search"
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:-1]))
    amend(folder / "run.json", state=state)
    code, said = again(folder)
    assert code == 2 and said.endswith(refusal(Path("runs") / "search")), said


@pytest.mark.parametrize(
    ("name", "more", "state"),
    [
        ("interrupted", (), "interrupted"),
        ("search", ("--method.epochs=3",), "finished"),
        ("gan", ("--gan.pretrain-iterations=4",), "finished"),
    ],
)
def test_a_run_that_is_to_go_on_is_refused_and_stays(runs: Path, name: str, more: tuple[str, ...], state: str) -> None:
    folder = runs / name
    amend(folder / "run.json", state=state)
    before, record = held(folder), (folder / "run.json").read_bytes()
    code, said = again(folder, *more)
    assert code == 2 and said.endswith(refusal(Path("runs") / name)), said
    assert held(folder) == before and (folder / "run.json").read_bytes() == record


def test_a_run_that_is_known_by_its_checkpoint_alone_is_refused(runs: Path) -> None:
    words = read_json(runs / "interrupted" / "run.json")["command"]
    (runs / "interrupted" / "run.json").unlink()
    code, said = command(*shlex.split(words)[3:])
    assert code == 2 and said.endswith(refusal(Path("runs") / "interrupted")), said
    assert len(list((runs / "interrupted" / "checkpoints").glob("*.pt"))) == 1


def test_other_settings_are_named_as_ever(runs: Path) -> None:
    code, said = again(runs / "search", "--arch-lr=0.5")
    assert code == 2 and "began with arch_lr = 0.02, but this command asks for 0.5; choose another --name" in said


@pytest.mark.parametrize(("name", "more"), [("sweep", "--num-trials=2"), ("group", "--seeds=2")])
def test_a_sweep_and_a_group_of_evaluations(runs: Path, name: str, more: str) -> None:
    folder = runs / name
    before = held(folder)
    code, said = again(folder, more)
    assert code == 2 and said.endswith(refusal(folder)), said
    assert held(folder) == before
    code, said = again(folder)
    assert code == 0 and "everything lies in" in said, said
    drawn = {name for name in held(folder) if name.startswith("pictures/")}  # from its study, as for a new sweep
    assert bool(drawn) == (name == "sweep")
    assert {k: v for k, v in held(folder).items() if k not in {"sweep.json", *drawn}} == {
        k: v for k, v in before.items() if k != "sweep.json"
    }
    assert read_json(folder / "sweep.json")["state"] == "finished"
    amend(folder / "sweep.json", state="interrupted")
    for trial in folder.glob("*/run.json"):
        amend(trial, state="interrupted")
    code, said = again(folder)
    assert code == 2 and said.endswith(refusal(folder)), said


def test_what_it_finished_is_read(runs: Path) -> None:
    for name in ("search", "gan", "model", "interrupted", "sweep"):
        assert command("report", runs / name)[0] == 0 and (runs / name / "report.html").stat().st_size > 5000
    code, said = command("runs", "--storage", runs)
    assert code == 0 and all(name in said for name in ("search", "gan", "model", "interrupted"))
    assert [row["phase"] for row in read_metrics(runs / "search")] == ["search 1", "search 1", "best"]
    for name in ("search", "gan", "model", "interrupted"):
        assert contents.content_of_run(runs / name).record["format"] == 1
    for name, trial in (("sweep", "t000"), ("group", "DARTS_V2-s0")):
        whole, trials = contents.content_of_sweep(runs / name)
        assert whole.ended and trials[trial].best
    (best,) = winners.of_sweep("sweep", runs, 1)
    assert best.name == "t000" and json.loads(best.design.to_json()) == read_json(runs / "sweep/t000/genotype.json")


def test_its_genotype_is_trained_and_its_network_predicts(runs: Path) -> None:
    tiny = ("--epochs=1", "--channels=2", "--cells=3", "--threads=1", "--data.limit=100")
    code, said = command("evaluate", runs / "search", "--name", "new", *tiny)
    assert code == 0 and "finished: test error" in said, said
    assert (runs / "new" / "genotype.json").read_bytes() == (runs / "search" / "genotype.json").read_bytes()
    network, images = dasgm.load(runs / "model"), torch.rand(2, 3, 16, 16)
    assert network(images).shape == (2, 10)
    Image.new("RGB", (16, 16)).save(runs / "picture.png")
    code, said = command("predict", runs / "model", runs / "picture.png")
    assert code == 0 and "%" in said, said


def test_its_gan_begins_a_search(runs: Path) -> None:
    config = from_json(read_json(runs / "search" / "config.json"), SearchConfig)
    config = override(config, {"gan_checkpoint": str(runs / "gan")})
    data = config.data.load(None)
    found = chosen(config, data)
    assert found is not None and found.digest == read_json(runs / "gan" / "gan.json")["sha256"]
    search = Search(config, data, found)
    assert all(torch.equal(t, found.part("G")[k]) for k, t in search.gan.G.params.items())
    assert torch.isfinite(search.iterate()["classifier"])


def test_its_caches_are_made_again_and_that_is_said(runs: Path) -> None:
    config = from_json(read_json(runs / "search" / "config.json"), SearchConfig)
    data, cache, said = config.data.load(None), runs / "cache", list[str]()
    old = {path.name: path.read_bytes() for path in cache.iterdir()}
    judge(data, cache, said.append)
    warm_up(Search(config, data), cache, said.append)
    again = "written by dasgm 0.1.0, which this version cannot read; it is made again"
    for what in ("judge", "GAN warm-up"):
        (line,) = (line for line in said if line.startswith(f"{what} ") and "0.1.0" in line)
        (path,) = (cache / name for name in old if name.startswith("judge" if what == "judge" else "gan"))
        assert line == f"{what} {path}: {again}"
        assert path.read_bytes() == old[path.name] and path.with_suffix(".safetensors").is_file()
    said.clear()
    judge(data, cache, said.append)
    warm_up(Search(config, data), cache, said.append)
    assert said == []
