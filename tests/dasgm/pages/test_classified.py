"""The page of a trained network: its charts against points computed by hand, and bad or large records."""

from __future__ import annotations

import base64
import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from dasgm.measures.classification import figures, reliability
from dasgm.pages.confusion import heat_map, reliability_chart, side_of
from dasgm.pages.report import report
from dasgm.pages.words import breakable, command, per_row


def drawing(chart: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", chart, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])


def test_heat_map_has_a_cell_for_each_pair_that_occurs_darker_the_larger_its_share_of_the_row():
    svg = drawing(heat_map([[8, 2, 0], [0, 5, 5], [1, 0, 0]], ["a", "b & c", "d"], "x"))
    groups = [g for g in svg.iter("g") if g.find("title") is not None]
    cells = {g.findtext("title"): (g.find("rect"), g.findtext("text")) for g in groups}
    assert list(cells) == [
        "a taken for a: 8 (80.0 %)",
        "a taken for b & c: 2 (20.0 %)",
        "b & c taken for b & c: 5 (50.0 %)",
        "b & c taken for d: 5 (50.0 %)",
        "d taken for a: 1 (100.0 %)",
    ]
    boxes = [box.attrib for box, _ in cells.values() if box is not None]
    side = float(boxes[0]["width"])
    assert [(float(b["x"]) / side, float(b["y"]) / side) for b in boxes] == [(0, 0), (1, 0), (1, 1), (2, 1), (0, 2)]
    assert [b["class"] for b in boxes] == ["right", "wrong", "right", "wrong", "wrong"]
    dark = [float(b["fill-opacity"]) for b in boxes]
    assert dark[1] < dark[2] == dark[3] < dark[0] < dark[4]
    assert [number for _, number in cells.values()] == ["8", "2", "5", "5", "1"]


def test_heat_map_of_a_hundred_classes_is_small():
    full = np.random.default_rng(0).integers(0, 9, (100, 100)).tolist()
    chart = heat_map(full, [f"class {i}" for i in range(100)], "x")
    drawn = drawing(chart)
    marks = sum(path.get("d", "").count("M") for path in drawn.iter("path"))
    assert marks == sum(n > 0 for row in full for n in row) and len(chart) < 400_000


def test_heat_map_of_more_classes_is_a_picture_with_a_point_for_each_pair():
    matrix = np.zeros((101, 101), int)
    matrix[3, 3], matrix[3, 5], matrix[7, 0] = 3, 1, 2
    chart = heat_map(matrix.tolist(), [*map(str, range(101))], "x")
    found = re.search(r"base64,([^\"]*)", chart)
    assert found
    data = base64.b64decode(found[1])
    seen = np.asarray(Image.open(BytesIO(data)).convert("RGBA")).astype(int)
    red, _, blue, dark = np.moveaxis(seen, 2, 0)
    assert np.array_equal(dark > 0, matrix > 0) and dark[3, 5] < dark[3, 3] < dark[7, 0] == 255
    assert (red > blue)[matrix > 0].tolist() == [False, True, True]


def test_matrices_of_2_to_1000_classes_have_a_size_to_look_at():
    assert all(200 <= n * side_of(n) <= 1000 for n in range(2, 1001))


def test_names_wrap_between_their_words_only():
    assert breakable("n037_medicine-chest/a.jpg") == Markup(
        "n037_<wbr>medicine-<wbr>chest/<wbr>a.<wbr>jpg"
    ) and breakable("<b>_") == Markup("&lt;b&gt;_")


def test_an_option_of_a_command_does_not_wrap():
    line = "dasgm fit a-b --image-size 32 --name <x>"
    flag = '<span class="flag">{}</span>'
    assert command(line) == f"dasgm fit a-b {flag.format('--image-size')} 32 {flag.format('--name')} &lt;x&gt;"


def test_no_row_of_tiles_ends_with_a_lone_one():
    for most in (4, 6):
        for count in range(2, 10):
            assert 1 < per_row(count, most) <= most and count % per_row(count, most) != 1


def test_reliability_chart_marks_the_accuracy_of_each_bin():
    bins = reliability(np.array([0.9, 0.9, 0.9, 0.9, 0.3]), np.array([True, True, True, False, True]))
    svg = drawing(reliability_chart(bins, "x"))
    hits = [path.get("d", "") for path in svg.iter("path") if path.get("class") == "hit"]
    marks = [float(d.split("h")[0].split()[1]) for d in hits]
    bar = next(rect for rect in svg.iter("rect") if rect.get("class") == "bar")
    height, top = float(bar.get("height", "")), marks[0]  # of the first bin all are right
    bottom = float(bar.get("y", "")) + height
    assert (bottom - marks[1]) / (bottom - top) == pytest.approx(0.75, abs=0.002)
    assert height / (bottom - top) == pytest.approx(0.3, abs=0.002)
    titles = [title.text for title in svg.iter("title")]
    assert titles == [
        "confidence 30.0 %, accuracy 100.0 %; pictures: 1",
        "confidence 90.0 %, accuracy 75.0 %; pictures: 4",
    ]


def evaluated(folder: Path, classes: int, pictures: int = 0, side: int = 32) -> dict[str, Any]:
    """A finished evaluation's folder with a record of made-up predictions."""
    random, names = np.random.default_rng(0), [f"n{i:08d} <class> {i}" for i in range(classes)]
    matrix = np.diag(random.integers(20, 40, classes)) + np.roll(np.diag(random.integers(1, 9, classes)), 1, 1)
    bins = reliability(random.uniform(0.2, 1, 500), random.uniform(size=500) > 0.3)
    value: dict[str, Any] = figures(names, matrix, bins, 0.7)
    for one in value["classes"]:
        one["train"] = 1300
    value["temperature"] = {"value": None, "why": "not set: no held-out pictures"}
    value["mistakes"] = []
    (folder / "pictures").mkdir(parents=True)
    for i in range(pictures):
        file, pixels = f"pictures/mistake-{i:02d}.png", random.integers(0, 256, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / file)
        one = {"picture": f"val/{i}.jpg", "true": names[0], "predicted": names[1], "probability": 0.9}
        value["mistakes"].append(one | {"file": file})
    (folder / "run.json").write_text(json.dumps({"kind": "evaluation", "state": "finished", "name": "run"}))
    (folder / "metrics.json").write_text(json.dumps(value))
    return value


def test_a_page_of_a_thousand_classes_has_at_most_three_megabytes(tmp_path):
    evaluated(tmp_path, 1000, 24, 224)  # noise, which compresses worst
    page = report(tmp_path).read_text()
    assert len(page) < 3_000_000 and page.count("<img") >= 24 and "n00000999 &lt;class&gt; 999" in page
    assert "Each of the 1,000 classes is a line of points" in page
    assert page.count("<table") == len(re.findall(r'<div class="scroll[^>]*><table', page)) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": None},
        {"confusion": [[1]]},
        {"accuracy": {}},
        {"temperature": {"value": "hot"}},
        {"mistakes": [{"file": "../../etc/passwd"}]},
        {"ece": {"value": 0.1, "protocol": "", "bins": [{}]}},
    ],
)
def test_a_record_that_is_not_as_it_should_be_leaves_the_page_without_it(tmp_path, wrong):
    value = evaluated(tmp_path, 3)
    assert "Classes</h2>" in report(tmp_path).read_text()
    (tmp_path / "metrics.json").write_text(json.dumps(value | wrong))
    page = report(tmp_path).read_text()
    assert "Learning curves" in page and ("Classes</h2>" not in page or "mistakes" in wrong)
