"""The pictures of a sweep: values read back from Plotly's JSON against those of the study, and what is not defined."""

from __future__ import annotations

import base64
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from pages import Page, put

from dasgm.pages.plots import MOST_PACKED, paths, plots
from dasgm.pages.report import report
from tuning import pictures
from tuning.asking import open_study

RATES = [0.01, 0.1, 0.03, 0.3, 0.02, 0.2]
GANS = ["none", "biggan", "biggan", "none", "biggan", "none"]
SCORES = [0.5, 0.8, 0.6, 0.9, 0.55, 0.85]
CONTOURS = ("contours", "contours-2")
SIZES = [1e6, 3e6, 2e6, 2.5e6, 1.5e6, 4e6]


def trial(rate: float, gan: str, *values: float, portion: float | None = None, same: float = 1.0) -> Any:
    every = {
        "rate": (rate, FloatDistribution(1e-3, 1.0, log=True)),
        "gan": (gan, CategoricalDistribution(["none", "biggan"])),
        "same": (same, FloatDistribution(0.0, 2.0)),
    }
    if portion is not None:
        every["portion"] = (portion, CategoricalDistribution([0.0, 0.3, 0.5]))
    return create_trial(
        state=TrialState.COMPLETE if values else TrialState.PRUNED,
        values=list(values) or None,
        params={name: value for name, (value, _) in every.items()},
        distributions={name: distribution for name, (_, distribution) in every.items()},
        user_attrs={"overrides": {"secret": rate}},
    )


def swept(folder: Path, trials: list[Any], **more: Any) -> Path:
    folder.mkdir()
    study = open_study(folder, "best/parameters" if more else "")
    study.add_trials(trials)
    info = {"format": 2, "name": folder.name, "state": "running", "objective": "best/proxy", "num_trials": len(trials)}
    put(folder / "sweep.json", info | more)
    return folder


def drawn(folder: Path) -> dict[str, Any]:
    pictures.draw(folder)
    return {path.stem: json.loads(path.read_text()) for path in paths(folder)}


def numbers(value: Any) -> Any:
    """A list that Plotly may have written as base64."""
    if not isinstance(value, dict):
        return value
    found = np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
    return found.reshape([int(n) for n in str(value["shape"]).split(",")] if "shape" in value else -1).tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trials = [trial(*one) for one in zip(RATES, GANS, SCORES, strict=True)]
    return swept(tmp_path / "s", [*trials, trial(0.5, "none")])  # the last one was stopped early


def test_the_values_are_those_of_the_study(folder: Path) -> None:
    found = drawn(folder)
    assert list(found) == ["parallel", "importances", "history", "slices", "contours"]
    scores, best = found["history"]["data"][:2]
    assert (numbers(scores["x"]), numbers(scores["y"])) == (list(range(6)), SCORES)
    assert numbers(best["y"])[:6] == [0.5, 0.8, 0.8, 0.9, 0.9, 0.9]
    assert found["history"]["layout"]["meta"]["note"] == "The best is t003 with 0.9."

    lines = [trace for trace in found["parallel"]["data"] if trace["mode"] == "lines"]
    axes = [dict(trace["customdata"]) for trace in lines]
    assert [(float(a["best/proxy"]), float(a["rate"]), a["gan"]) for a in axes] == sorted(
        zip(SCORES, RATES, GANS, strict=True)
    )

    (bars,) = found["importances"]["data"]
    weights = dict(zip(bars["y"], numbers(bars["x"]), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")
        expected = optuna.importance.get_param_importances(known, params=["rate", "gan"])
    assert weights == pytest.approx(expected) and math.isclose(sum(weights.values()), 1)

    dots = {trace["xaxis"]: trace for trace in found["slices"]["data"]}
    names = {
        key.replace("axis", ""): axis["title"]["text"]
        for key, axis in found["slices"]["layout"].items()
        if key.startswith("xaxis")
    }
    (rate,) = [trace for axis, trace in dots.items() if names[axis] == "rate"]
    assert (numbers(rate["x"]), numbers(rate["y"])) == (RATES, SCORES)

    (surface,) = [trace for trace in found["contours"]["data"] if trace["type"] == "contour"]
    axes_of = [found["contours"]["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    assert axes_of == ["gan", "rate"]
    cells = {
        (surface["x"][i], numbers(surface["y"])[j]): z
        for j, row in enumerate(numbers(surface["z"]))
        for i, z in enumerate(row)
        if z is not None and math.isfinite(z)
    }
    assert cells == {(gan, rate): score for rate, gan, score in zip(RATES, GANS, SCORES, strict=True)}


def test_the_page_shows_them_and_says_what_it_leaves_out(folder: Path) -> None:
    for name, figure in drawn(folder).items():
        assert "secret" not in json.dumps(figure) and "template" not in figure["layout"], name
    text = Page(report(folder)).text
    assert text.count("Left out, as all searches have the same: same.") == 3
    assert text.count("This picture needs JavaScript.") == 5 and "from 6 searches" in text
    assert report(folder).stat().st_size < 3_000_000
    assert not list(folder.glob("pictures/.*"))


def test_each_of_two_objectives_has_its_pictures(tmp_path: Path) -> None:
    trials = [trial(*one) for one in zip(RATES, GANS, SCORES, SIZES, strict=True)]
    found = drawn(swept(tmp_path / "s", trials, and_minimise="parameters"))
    assert len(found) == 9 and "parallel-2" not in found
    assert numbers(found["history"]["data"][0]["y"]) == SCORES
    assert numbers(found["history-2"]["data"][0]["y"]) == SIZES
    reversed_ = {n: [t["reversescale"] for t in found[n]["data"] if t["type"] == "contour"] for n in CONTOURS}
    assert reversed_ == {"contours": [False], "contours-2": [True]}  # dark is much of the one, little of the other
    about = found["history-2"]["layout"]["meta"]
    assert about == {"title": "History: parameters", "note": "The best is t000 with 1e+06."}
    lines = [dict(trace["customdata"]) for trace in found["parallel"]["data"] if trace["mode"] == "lines"]
    assert {(float(line["best/proxy"]), float(line["parameters"])) for line in lines} == set(
        zip(SCORES, SIZES, strict=True)
    )


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        ([], dict.fromkeys(pictures.DRAWN, "it takes two searches with a score, so far there are 0")),
        ([trial(0.1, "none", 0.5)], dict.fromkeys(pictures.DRAWN, "it takes two searches with a score")),
        (
            [trial(0.1, "none", 0.5), trial(0.1, "none", 0.6)],
            dict.fromkeys(("parallel", "importances", "slices", "contours"), "no parameter differs"),
        ),
        (
            [trial(0.1, "none", 0.5), trial(0.2, "none", 0.6)],
            {"contours": "it takes two parameters that differ between the searches, and only rate does"},
        ),
        (
            [trial(0.1, "none", 0.5), trial(0.2, "biggan", 0.5)],
            {"importances": "no parameter tells the good searches from the others by best/proxy"},
        ),
    ],
)
def test_what_is_not_defined_says_why(tmp_path: Path, trials: list[Any], says: dict[str, str]) -> None:
    folder = swept(tmp_path / "s", trials)
    found = drawn(folder)
    notes = {name: one["layout"]["meta"]["note"] for name, one in found.items() if not one["data"]}
    assert set(notes) == set(says) and all(notes[name].startswith(f"Not drawn: {says[name]}") for name in says), notes
    text = Page(report(folder)).text
    assert all(note in text for note in notes.values())


def test_a_large_sweep_with_parameters_of_some_searches_fits_the_page(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    trials = [
        trial(
            10 ** draw.uniform(-3, 0),
            str(draw.choice(["none", "biggan"])),
            draw.uniform(),
            portion=float(draw.choice([0.0, 0.3, 0.5])) if i % 2 else None,
            same=draw.uniform(0, 2),
        )
        for i in range(300)
    ]
    folder = swept(tmp_path / "s", trials)
    found = drawn(folder)
    assert sum(trace["mode"] == "lines" for trace in found["parallel"]["data"]) == pictures.MOST_TRIALS
    assert "Only the 100 searches with the best best/proxy are drawn." in found["contours"]["layout"]["meta"]["note"]
    shown = plots(folder)
    assert all(one.figure for one in shown) and sum(len(one.figure) for one in shown) < MOST_PACKED


def test_the_command_draws_and_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pictures.main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html") and (folder / "report.html").is_file()
    (tmp_path / "empty").mkdir()
    put(tmp_path / "torn/sweep.json", {"format": 2, "name": "torn"})
    put(tmp_path / "torn/study.db", "no database")
    for place, says in (("empty", "expected a folder with sweep.json and study.db"), ("torn", "it cannot be read")):
        with pytest.raises(SystemExit) as end:
            pictures.main([str(tmp_path / place)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1 and says in said
