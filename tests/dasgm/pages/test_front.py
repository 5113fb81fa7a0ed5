"""The front of two objectives against Optuna's, its picture and table, and the best within a bound."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import optuna
import pytest
from pages import CONFIG, Page, put, write_run

from dasgm.pages import front
from dasgm.pages.report import report
from dasgm.pages.view import ranking, read_trials

OBJECTIVE = "best/proxy"


def with_cost(folder: Path, **more: float) -> None:
    path = folder / "metrics.jsonl"
    *rows, last = path.read_text().splitlines()
    path.write_text("\n".join([*rows, json.dumps(json.loads(last) | {f"best/{k}": v for k, v in more.items()})]) + "\n")


def swept(folder: Path, points: list[tuple[float, float]], **more: Any) -> Path:
    """A sweep with a finished search for each (proxy, parameters)."""
    info = {"format": 2, "name": folder.name, "state": "finished", "reason": "", "preset": "quickstart", "seed": 0}
    info |= {"dataset": "digits", "num_trials": len(points), "objective": OBJECTIVE, "machine": "", "config": CONFIG}
    put(folder / "sweep.json", info | {"command": "", "started": 1.79e9, "ended": 1.79e9 + 5} | more)
    for number, (proxy, parameters) in enumerate(points):
        write_run(folder / f"t{number:03d}", f"t{number:03d}", "finished", 1, proxy, gan=False, sweep=folder.name)
        with_cost(folder / f"t{number:03d}", parameters=parameters, multiply_adds=10 * parameters)
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_the_front_is_optunas(seed: int, tmp_path: Path) -> None:
    """With ties in one objective, in the other, and in both."""
    draw = random.Random(seed)
    points = [(draw.randint(1, 6) / 10, 1000.0 * draw.randint(1, 6)) for _ in range(12)]
    study = optuna.create_study(directions=["maximize", "minimize"])
    for values in points:
        study.add_trial(optuna.trial.create_trial(values=values))
    best = {f"t{trial.number:03d}" for trial in study.best_trials}
    found = front.placed(read_trials(swept(tmp_path / "s", points)), OBJECTIVE, "best/parameters")
    assert len(found) == 12 and {one.ranked.run.title for one in found if one.front} == best


def test_its_picture_and_table_are_there(tmp_path: Path) -> None:
    points = [(0.9, 4.2e6), (0.5, 1.1e6), (0.4, 2.0e6), (0.8, 1.5e6)]
    folder = swept(tmp_path / "s", points, and_minimise="parameters")
    write_run(folder / "t009", "t009", "failed", 1, gan=False, sweep="s")
    page = Page(report(folder))
    assert [row.split("|")[:2] for row in page.rows[-3:]] == [
        ["t001", "1,100,000"], ["t003", "1,500,000"], ["t000", "4,200,000"]
    ]  # fmt: skip
    front.write(folder, OBJECTIVE, "best/parameters")
    table = (folder / "front.md").read_text().splitlines()
    expected = ((1, "1,100,000", "0.5000"), (3, "1,500,000", "0.8000"), (0, "4,200,000", "0.9000"))
    assert table[2:] == [f"| t00{n} | {cost} | {value} ± 0.0200 |" for n, cost, value in expected]
    picture = ElementTree.fromstring((folder / "front.svg").read_text())
    names = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"t000", "t001", "t003", "parameters", "4 M"} <= set(names) and "t002" not in names
    dots = [dot for dot in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == 4
    (best,) = [dot for dot in dots if dot[0].text.startswith("t000")]
    (cheap,) = [dot for dot in dots if dot[0].text.startswith("t001")]
    assert float(best.get("cx")) > float(cheap.get("cx")) and float(best.get("cy")) < float(cheap.get("cy"))


def test_a_sweep_of_one_objective_shows_it_against_the_parameters(tmp_path: Path) -> None:
    page = Page(report(swept(tmp_path / "s", [(0.9, 4.2e6), (0.8, 1.1e6), (0.7, 2e6)])))
    assert [row.split("|")[:2] for row in page.rows[-2:]] == [["t001", "1,100,000"], ["t000", "4,200,000"]]
    assert 'id="front"' not in report(swept(tmp_path / "one", [(0.9, 4.2e6)])).read_text()


def test_the_best_within_bounds(tmp_path: Path) -> None:
    folder = swept(tmp_path / "s", [(0.9, 4.2e6), (0.5, 1.1e6), (0.4, 2.0e6), (0.8, 1.5e6)])
    done = [one for one in ranking(read_trials(folder)) if one.rank]

    def names(text: str) -> list[str]:
        return [one.run.title for one in front.within(done, front.bounds(text), "it")]

    assert names("") == ["t000", "t003", "t001", "t002"]
    assert names("params=2e6") == ["t003", "t001", "t002"]
    assert names("params=2e6,multiply-adds=1.1e7") == ["t001"]
    for text, says in (
        ("params=1e6", r"^at-most parameters=1e\+06: no finished search in it has so few; the least is 1.1e\+06$"),
        ("latency=3", r"^at-most latency=3: the searches in it have no best/latency .*--cost.kind latency measures it"),
    ):
        with pytest.raises(ValueError, match=says):
            names(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("parms=1e6", "expected params, parameters.*did you mean 'params'"),
        ("1e6", "expected params"),
        ("params=many", "expected a number above 0"),
        ("params=nan", "expected a number above 0"),
        ("params=-1", "expected a number above 0"),
        ("params", "expected a number above 0"),
        ("params=1e6,parameters=2e6", "bounded twice"),
    ],
)
def test_a_wrong_bound_is_one_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^at-most [^\n]*{says}[^\n]*$"):
        front.bounds(text)
