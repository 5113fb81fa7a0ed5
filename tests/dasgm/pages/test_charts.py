"""Charts: ticks, lines and areas, against points computed by hand."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from dasgm.pages import charts
from dasgm.pages.charts import Series, line_chart, scatter_chart, ticks
from dasgm.pages.report import MOST_FRAMES, duration, percent
from dasgm.pages.view import flat
from dasgm.spaces.darts import SearchSpace

SPACE = SearchSpace()


def test_words_for_values() -> None:
    assert (percent(0.9314), percent(0.5, 0.0123), percent(None)) == ("93.1 %", "50.0 ± 1.2 %", "–")
    assert (duration(41.6), duration(185), duration(25_920)) == ("42 s", "3 min 05 s", "7 h 12 min")
    assert flat({"a": 1, "b": {"c": [1, 2], "d": "x", "e": {}}, "f": None}) == [
        ("a", "1"),
        ("b.c", "[1, 2]"),
        ("b.d", "x"),
        ("b.e", "{}"),
        ("f", "null"),
    ]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.113, 0.871), (-3, 1e6), (1, 1 + 1e-6), (1e-12, 3e-12), (-1e29, 1e29)]
)
def test_ticks_are_round_inside_and_few(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 7 and low - 1e-9 <= marks[0] and marks[-1] <= high + abs(high) * 1e-9
    assert all(
        float(f"{(b - a):.0e}") == pytest.approx(b - a, rel=1e-3) for a, b in zip(marks, marks[1:], strict=False)
    )
    assert all(mark == int(mark) for mark in ticks(1, 3, 10, whole=True))


def test_an_axis_tells_its_marks_apart() -> None:
    """Of the entropy of 8 operations in the first epochs, ln 8 less a little."""
    chart = line_chart([Series("a", [(i, math.log(8) - 1e-4 * i) for i in range(6)])], "x")
    marks = re.findall(r'<text class="end"[^>]*>([^<]*)<', chart)
    assert len(marks) > 2 and len(set(marks)) == len(marks)


def test_line_chart_leaves_out_what_is_not_finite_and_places_points() -> None:
    assert line_chart([Series("a", [(1, math.nan), (2, math.inf), (3, 1e40)])], "x") == ""
    for points in ([(1, 0.5)], [(1, 0.0), (2, 0.0)], [(1, 0.5), (2, math.nan), (3, 0.7)]):
        svg = re.search(r"<svg.*</svg>", line_chart([Series("a & b", points)], "x"), re.DOTALL)
        assert svg
        circles = [
            (float(one.get("cx", "")), float(one.get("cy", "")))
            for one in ElementTree.fromstring(svg[0]).iter("circle")
        ]
        assert len(circles) == sum(math.isfinite(y) for _, y in points)
        assert all(46 <= x <= 626 and 10 <= y <= 246 for x, y in circles)
    assert circles[0][1] > circles[1][1]  # larger is higher


def test_stacked_areas_fill_the_box_in_proportion() -> None:
    weights = [[{"none": 0.25, "skip_connect": 0.75}] * 14] * 2
    svg = re.search(
        r"<svg.*</svg>",
        charts.edge_chart([0, 1], weights, {(0, 1): "skip_connect"}, "x", SPACE.inputs, SPACE.states),
        re.DOTALL,
    )
    assert svg
    root = ElementTree.fromstring(svg[0])
    groups = [group for group in root.iter("g")]
    assert len(groups) == 14 and sum("chosen" in rect.get("class", "") for rect in root.iter("rect")) == 1
    for group in groups:
        box = next(iter(group.iter("rect")))
        top, height = float(box.get("y", "")), float(box.get("height", ""))
        spans = [[float(y) for y in re.findall(r"[\d.]+ ([\d.]+)", path.get("d", ""))] for path in group.iter("path")]
        assert [(max(ys) - min(ys)) / height for ys in spans] == pytest.approx([0.25, 0.75], abs=0.01)
        assert min(min(ys) for ys in spans) == pytest.approx(top, abs=0.1)
    assert MOST_FRAMES >= 50


def test_names_of_near_dots_on_a_front_do_not_lie_on_each_other() -> None:
    dots = [(1.50e6, 0.80, "t003", True), (1.52e6, 0.801, "t004", True), (4e6, 0.9, "t000", True)]
    svg = re.search(r"<svg.*</svg>", scatter_chart(dots, "parameters", "x"), re.DOTALL)
    assert svg
    texts = ElementTree.fromstring(svg[0]).iter("text")
    at = {one.text: (one.get("class"), float(one.get("x", "")), float(one.get("y", ""))) for one in texts}
    assert {"t000", "t003", "t004"} <= set(at)
    assert at["t003"][0] == "end" and at["t004"][0] is None and at["t004"][2] - at["t003"][2] > 11


def test_a_chart_is_drawn_for_a_wide_place_and_for_a_telephone() -> None:
    chart = charts.fitted(line_chart, [Series("a", [(1, 0.5), (2, 0.6)])], "x", percent=True)
    assert re.findall(r'<div class="(wide|narrow)">', chart) == ["wide", "narrow"]
    assert re.findall(r'viewBox="0 0 (\d+) ', chart) == ["820", "360"]
    assert charts.fitted(line_chart, [], "x") == ""
