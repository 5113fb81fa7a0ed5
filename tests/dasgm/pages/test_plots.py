"""Figures of Plotly in a sweep's folder: what of them a page shows, and what it refuses from a stranger's folder."""

from __future__ import annotations

import base64
import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pages import Page, put

from dasgm.pages import plots
from dasgm.pages.report import report


def figure(**more: Any) -> dict[str, Any]:
    return {
        "data": [{"type": "scatter", "x": [1, 2], "y": [0.5, 0.25]}],
        "layout": {"meta": {"title": "History", "note": "two searches"}, "xaxis": {"title": {"text": "Trial"}}} | more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "s" / "sweep.json", {"format": 2, "name": "s", "state": "finished", "num_trials": 2})
    return tmp_path / "s"


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_what_is_packed_is_the_figure_and_plotlys_own_script(folder: Path) -> None:
    put(folder / "pictures/history.json", figure(height=320, width=500))
    (one,) = plots.plots(folder)
    assert (one.name, one.title, one.note, one.least) == ("history", "History", "two searches", 500)
    assert unpacked(one.figure) == {
        "data": figure()["data"],
        "layout": {"xaxis": {"title": {"text": "Trial"}}, "height": 320},
    }
    page = report(folder).read_text()
    script = page.partition('<script type="text/plain" id="plotly">')[2].partition("</script>")[0]
    assert gzip.decompress(base64.b64decode(script)) == (files("plotly") / "package_data/plotly.min.js").read_bytes()
    assert page.count(script) == 1 and len(page) < 3_000_000
    assert f'data-figure="{one.figure}"' in page and "This picture needs JavaScript" in page


def test_a_page_without_pictures_has_no_script_of_plotly_and_names_the_command(folder: Path) -> None:
    page = report(folder)
    assert page.stat().st_size < 100_000 and f"python -m tuning.pictures {folder.resolve()}" in Page(page).text


NASTY = '</script></figure><script>alert(1)</script>"><img src=x onerror=alert(1)>'


def test_no_text_of_a_figure_becomes_markup(folder: Path) -> None:
    nasty = figure(meta={"title": NASTY, "note": NASTY}, xaxis={"title": {"text": NASTY}})
    nasty["data"][0]["text"] = [NASTY]
    put(folder / "pictures/history.json", nasty)
    page = report(folder)
    assert "<script>alert" not in page.read_text() and "onerror=alert(1)>" not in page.read_text()
    assert "img" not in Page(page).tags and NASTY in Page(page).text
    (one,) = plots.plots(folder)
    assert unpacked(one.figure)["data"][0]["text"] == [NASTY]  # Plotly writes it as text


def test_what_would_load_something_or_act_is_left_out(folder: Path) -> None:
    loads = {"images": [{"source": "https://example.org/x.png"}], "updatemenus": [{"buttons": []}], "sliders": []}
    put(folder / "pictures/history.json", figure(template={"layout": loads}, mapbox={"style": "x"}, **loads))
    (one,) = plots.plots(folder)
    assert list(unpacked(one.figure)["layout"]) == ["xaxis", "height"]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("{", "cannot be shown"),
        ("[1]", "no figure of Plotly"),
        ({"data": {}, "layout": {}}, "no figure of Plotly"),
        ({"data": [1], "layout": {}}, "expected traces of bar, contour, scatter only"),
        ({"data": [{"type": "scattergeo"}], "layout": {}}, "expected traces of bar, contour, scatter only"),
        ({"data": [{}] * 6000, "layout": {}}, "no figure of Plotly"),
        ('{"data": [{"type": "bar", "x": [NaN]}], "layout": {}}', "cannot be shown"),
        ('{"data": ' + "[" * 60 + "]" * 60 + ', "layout": {}}', "nested more than"),
    ],
)
def test_what_is_no_figure_is_named(folder: Path, found: Any, says: str) -> None:
    put(folder / "pictures/history.json", found)
    put(folder / "pictures/slices.json", figure())
    torn, sound = plots.plots(folder)
    assert torn.figure == "" and "pictures/history.json" in torn.note and says in torn.note and sound.figure
    assert says in Page(report(folder)).text


def test_pictures_too_large_for_a_page_name_their_file(folder: Path) -> None:
    digits = [int.from_bytes(base64.b64encode(str(i).encode()), "big") % 10**9 / 1e9 for i in range(90_000)]
    large = figure() | {"data": [{"type": "scatter", "x": digits, "y": digits[::-1]}]}
    put(folder / "pictures/parallel.json", large)
    put(folder / "pictures/slices.json", figure())
    first, second = plots.plots(folder)
    assert first.figure == "" and first.note.endswith("its figure is in pictures/parallel.json.") and second.figure


def test_without_plotly_the_page_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "library", lambda: "")
    put(folder / "pictures/history.json", figure())
    text = Page(report(folder)).text
    assert "Plotly is not installed (pip install plotly)" in text and "pictures/history.json" in text
