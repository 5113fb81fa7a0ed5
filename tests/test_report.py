"""The result page, from folders written here file by file: what it says, what it survives, what it must not load."""

from __future__ import annotations

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from dasgm.pages import charts
from dasgm.pages.charts import Series, line_chart, ticks
from dasgm.pages.report import MOST_FRAMES, duration, embedded, percent, report
from dasgm.pages.view import Trials, flat, ranking, read_run, read_trials
from dasgm.store.run import Run

OPERATIONS = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
]
EDGES = [
    ["sep_conv_3x3", 0],
    ["sep_conv_3x3", 1],
    ["skip_connect", 0],
    ["dil_conv_5x5", 2],
    ["max_pool_3x3", 1],
    ["sep_conv_5x5", 3],
    ["sep_conv_3x3", 0],
    ["avg_pool_3x3", 4],
]
GENOTYPE = {"normal": EDGES, "normal_concat": [2, 3, 4, 5], "reduce": EDGES, "reduce_concat": [2, 3, 4, 5]}
CONFIG = {
    "method": {"key": "darts", "epochs": 12},
    "gan": {"key": "biggan", "channels": 16},
    "data": {"key": "digits", "image_size": 16, "holdout": 0.1},
    "val_portion": 0.5,
}


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def noise(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.frombytes("RGB", size, os.urandom(3 * size[0] * size[1])).save(path)


def alphas(epoch: int) -> dict[str, Any]:
    """Softmax weights that drift to another operation on each edge."""
    edges = []
    for edge in range(14):
        scores = [math.exp(0.15 * epoch * math.cos(edge + 2.1 * i)) for i in range(8)]
        edges.append([score / sum(scores) for score in scores])
    return {
        "epoch": epoch,
        "normal": edges,
        "reduce": edges[::-1],
        "operations": {"normal": [OPERATIONS] * 14, "reduce": [OPERATIONS] * 14},
    }


def write_run(
    folder: Path,
    title: str,
    state: str,
    epochs: int,
    proxy: float | None = None,
    error: float = 0.02,
    gan: bool = True,
    reason: str = "",
    sweep: str | None = None,
) -> None:
    parameters: dict[str, Any] = {"classifier_lr": 0.0213, "arch_lr": 0.003, "gan": "biggan" if gan else "none"}
    parameters |= {"generator_lr": 0.0005, "val_portion": 0.5} if gan else {}
    info = {
        "format": 1,
        "name": folder.name,
        "title": title,
        "sweep": sweep,
        "parameters": parameters,
        "state": state,
        "reason": reason,
    }
    put(
        folder / "run.json",
        info
        | {
            "command": "dasgm search quickstart",
            "started": 1.79e9,
            "ended": 1.79e9 + 95,
            "device": "cpu",
            "published": "",
        },
    )
    put(folder / "config.json", CONFIG if gan else CONFIG | {"gan": None})
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        accuracy = (proxy or 0.6) * (1 - 0.75**epoch)
        row = {
            "epoch": epoch,
            "phase": "search",
            "time": 1.79e9 + epoch,
            "loss/classifier": 2.3 - accuracy,
            "loss/architecture": 2.4 - accuracy,
            "val/accuracy": accuracy,
        }
        row |= {
            "arch/entropy_normal": 2.08 - 0.01 * epoch,
            "arch/entropy_reduce": 2.08 - 0.02 * epoch,
            "arch/skips_normal": epoch % 3,
            "arch/skips_reduce": 1,
            **({"arch/hessian_eigenvalue": 0.1 * epoch} if epoch % 2 == 0 else {}),
            "speed/images_per_s": 210.0,
        }
        rows.append(
            row
            | (
                {
                    "loss/generator": 0.3,
                    "loss/discriminator": 1.4,
                    "gan/synthetic_accuracy": 0.8 + epoch / 100,
                    "grad/B": 1e-3 / epoch,
                }
                if gan
                else {}
            )
        )
    if proxy is not None:
        rows.append(
            {
                "phase": "best",
                "epoch": epochs,
                "time": 1.79e9,
                "best/proxy": proxy,
                "best/proxy_error": error,
                "cost/gpu_hours": 0.012,
            }
        )
    put(folder / "metrics.jsonl", lines(rows))
    put(folder / "alphas.jsonl", lines([alphas(epoch) for epoch in range(epochs + 1)]))
    if epochs:
        put(folder / "genotype.json", GENOTYPE)
    if gan:
        for epoch in (0, *range(3, epochs + 1, 3)):
            noise(folder / f"pictures/samples-{epoch:03d}.png", (128, 160))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "quickstart-digits-s0"
    info = {"format": 1, "name": folder.name, "state": "finished", "reason": "", "preset": "quickstart", "seed": 0}
    info |= {"dataset": "digits", "num_trials": 6, "objective": "best/proxy", "machine": "2 CPUs", "config": CONFIG}
    info |= {"command": f"python tuning/sweep.py --name {folder.name}", "started": 1.79e9, "ended": 1.79e9 + 245}
    put(folder / "sweep.json", info)
    write_run(folder / "t000", "t000 biggan v50", "finished", 12, 0.931, sweep=folder.name)
    write_run(folder / "t001", "t001 none", "finished", 12, 0.948, 0.017, gan=False, sweep=folder.name)
    write_run(
        folder / "t002", "t002 biggan v30", "stopped", 4, reason="stopped at rung 2: 43.0 % < 51.0 %", sweep=folder.name
    )
    write_run(folder / "t003", "t003 biggan v70", "finished", 12, 0.871, sweep=folder.name)
    write_run(
        folder / "t004", "t004 none", "failed", 2, gan=False, reason="loss of W is NaN in epoch 3", sweep=folder.name
    )
    write_run(folder / "t005", "t005 biggan v50", "running", 7, sweep=folder.name)
    return folder


class Page(HTMLParser):
    """The rows of the ranking, every address that the page would load, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.rows: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href", "data")
        ]
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.rows and data.strip():
            self.rows[-1] += data.strip() + "|"


def test_sweep_page_ranks_ties_and_tells_why_the_others_ended(sweep: Path) -> None:
    with Run(sweep / "t005"):  # a run that says "running" runs while its lock is held
        page = Page(report(sweep))
    titles = [re.findall(r"t\d{3}", row)[0] for row in page.rows[1:]]
    assert titles == ["t001", "t000", "t003", "t005", "t002", "t004"]  # ranked, then running, stopped, failed
    assert page.rows[1].startswith("1|t001 none|finished|94.8 ± 1.7 %|") and page.rows[1].endswith(
        "|12|0.0213|0.003|none|–|–|"
    )
    assert "93.1 ± 2.0 %|tie|" in page.rows[2]  # 0.017 <= sqrt(0.017^2 + 0.020^2)
    assert "tie" not in page.rows[3] and "87.1 ± 2.0 %" in page.rows[3]  # 0.077 > 0.026
    assert "stopped at rung 2: 43.0 % < 51.0 %" in page.rows[5] and "loss of W is NaN in epoch 3" in page.rows[6]
    assert "3 finished, 1 running, 1 stopped, 1 failed" in page.text
    assert "python tuning/sweep.py --name quickstart-digits-s0" in page.text and "data.image_size" in page.text
    assert "Generated images of t000" in re.sub(r"\s+", " ", page.text)  # the best has no GAN: the best one that has


def test_page_is_self_contained(sweep: Path) -> None:
    path = report(sweep)
    page = Page(path)
    assert path == sweep / "report.html" and path.stat().st_size < 3_000_000
    assert page.addresses and all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "@import" not in page.text and "url(" not in page.text and "link" not in page.tags
    assert sorted(file.name for file in sweep.iterdir() if file.is_file()) == [
        "report.html",
        "sweep.json",
    ]  # nothing left half-written
    assert page.tags.count("svg") >= 8  # two cells, two charts of alphas, the curves
    assert "Dominant eigenvalue of A's Hessian" in page.text


def test_trial_pages_and_the_links_between_them(sweep: Path) -> None:
    page = Page(report(sweep / "t000"))
    assert "../report.html" in page.addresses and "93.1 ± 2.0 %" in page.text and "classifier_lr" in page.text
    assert page.tags.count("img") == 3  # first, middle, last
    assert "t000/report.html" in Page(report(sweep)).addresses


def test_mlflow_command_points_at_the_storage(sweep: Path) -> None:
    assert "python -m cluster.tracking" in Page(report(sweep)).text
    put(sweep.parent / "mlflow.db", "")
    for folder in (sweep, sweep / "t000"):
        assert (
            f"DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --port 5000 "
            f"--backend-store-uri sqlite:///{sweep.parent.resolve()}/mlflow.db" in Page(report(folder)).text
        )


def test_pages_name_the_command_that_trains_the_architecture(sweep: Path) -> None:
    assert f"dasgm evaluate {sweep.resolve() / 't000'}" in Page(report(sweep / "t000")).text
    assert f"dasgm evaluate {sweep.resolve() / 't001'}" in Page(report(sweep)).text  # the best


def test_an_empty_run_and_an_empty_sweep_say_not_yet(tmp_path: Path) -> None:
    put(tmp_path / "run/config.json", CONFIG)
    put(tmp_path / "sweep/sweep.json", {"format": 1, "name": "s", "state": "running", "num_trials": 4})
    assert "No epoch has ended yet" in Page(report(tmp_path / "run")).text
    page = Page(report(tmp_path / "sweep"))
    assert "No trial has started yet" in page.text and "4 waiting" in page.text
    with pytest.raises(ValueError, match="no results here"):
        report(tmp_path)


@pytest.mark.parametrize(
    "torn",
    [
        "",
        "{",
        "[]",
        "null",
        '{"epoch": 1, "val/acc',
        "\x00\xff",
        '{"config": 3, "parameters": [1], "started": "x", "num_trials": null, "data": 1}',
    ],
)
def test_torn_files_never_raise(sweep: Path, torn: str) -> None:
    for name in (
        "run.json",
        "config.json",
        "metrics.jsonl",
        "alphas.jsonl",
        "genotype.json",
        "pictures/samples-000.png",
    ):
        put(sweep / "t000" / name, torn)
    report(sweep / "t000")
    put(sweep / "sweep.json", torn)
    report(sweep)


def test_a_killed_run_is_interrupted(sweep: Path) -> None:
    assert read_run(sweep / "t005").state == "interrupted" and read_run(sweep / "t002").state == "stopped"


def test_torn_last_line_is_ignored_and_a_repeated_epoch_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "r", "running", 3)
    with (tmp_path / "r/metrics.jsonl").open("a") as file:
        for epoch, value in ((3, "0.5"), (4, "NaN")):
            file.write(f'{{"epoch": {epoch}, "phase": "search 1", "time": 5.0, "val/accuracy": {value}}}\n')
        file.write('{"epoch": 5, "val/accu')
    run = read_run(tmp_path / "r")
    assert [epoch for epoch, _ in run.curve("val/accuracy")] == [1, 2, 3, 4]
    assert run.last("val/accuracy") == 0.5 and run.last("best/proxy") is None


@pytest.mark.parametrize(
    "change",
    [
        {"normal": [[0.5, 0.5]] * 14},
        {"operations": None},
        {"normal": [["x"] * 8] * 14},
        {"normal": [[math.nan] * 8] * 14},
        {"epoch": None},
    ],
)
def test_malformed_alphas_are_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    write_run(tmp_path / "r", "r", "running", 3)
    put(tmp_path / "r/alphas.jsonl", lines([alphas(0) | change]))
    assert "normal cell: softmax" not in Page(report(tmp_path / "r")).text.lower()


def test_operations_may_differ_by_epoch_and_by_cell(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "r", "running", 3)
    narrow = {
        "epoch": 4,
        "normal": [[0.25, 0.75]] * 14,
        "reduce": [[1.0]] * 14,
        "operations": {"normal": [["skip_connect", "sep_conv_3x3"]] * 14, "reduce": [["none"]] * 14},
    }
    put(tmp_path / "r/alphas.jsonl", lines([alphas(0), narrow]))
    assert "sep_conv_3x3 75.0 %\nskip_connect 25.0 %" in Page(report(tmp_path / "r")).text


def test_names_of_users_are_escaped(sweep: Path) -> None:
    nasty = '<script>alert("x")</script>'
    write_run(sweep / "t006", nasty, nasty, 3, reason=nasty)
    put(sweep / "sweep.json", json.loads((sweep / "sweep.json").read_text()) | {"name": nasty, "machine": "\ud800"})
    text = report(sweep).read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text


def test_who_looks_again_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"epoch": 1, "phase": "search 1", "time": 1.0, "val/accuracy": 0.5}
    for name, state in (("t000", "finished"), ("t001", "stopped"), ("t002", "waiting"), ("t003", "failed")):
        put(tmp_path / name / "run.json", {"title": name, "state": state})
        put(tmp_path / name / "metrics.jsonl", lines([row]))
    read: list[str] = []
    monkeypatch.setitem(
        Trials.look.__globals__, "read_run", lambda folder: read.append(folder.name) or read_run(folder)
    )
    trials = Trials(tmp_path)
    assert trials.look() == read_trials(tmp_path)
    read.clear()
    first = trials.look()
    assert read == ["t002"]
    put(tmp_path / "t001" / "metrics.jsonl", lines([row, row | {"epoch": 2, "val/accuracy": 0.6}]))
    put(tmp_path / "t002" / "run.json", {"title": "t002", "state": "finished"})
    put(tmp_path / "t004" / "run.json", {"title": "t004", "state": "waiting"})
    read.clear()
    assert [(run.title, run.state, run.epochs) for run in trials.look()] == [
        ("t000", "finished", 1),
        ("t001", "stopped", 2),
        ("t002", "finished", 1),
        ("t003", "failed", 1),
        ("t004", "waiting", 0),
    ]
    assert read == ["t001", "t002", "t004"] and trials.look()[0] is first[0]


def test_large_sweep_and_large_pictures_stay_small(tmp_path: Path) -> None:
    put(tmp_path / "sweep.json", {"num_trials": 300})
    for i in range(300):
        folder = tmp_path / f"t{i:03d}"
        put(
            folder / "run.json",
            {"title": f"t{i:03d} biggan", "state": "finished", "parameters": {"classifier_lr": i / 1000}},
        )
        put(
            folder / "metrics.jsonl",
            lines(
                [{"epoch": e, "phase": "s", "time": 1.0, "val/accuracy": 0.5 + e / 200} for e in range(1, 51)]
                + [{"epoch": 50, "phase": "best", "time": 1.0, "best/proxy": 0.9 - i / 1000}]
            ),
        )
    put(tmp_path / "t000/alphas.jsonl", lines([alphas(epoch) for epoch in range(200)]))
    put(tmp_path / "t000/genotype.json", GENOTYPE)
    for epoch in (0, 20, 40):
        noise(tmp_path / f"t000/pictures/samples-{epoch:03d}.png", (640, 1280))
    path = report(tmp_path)
    assert path.stat().st_size < 3_000_000
    assert [one.rank for one in ranking(read_trials(tmp_path))] == list(range(1, 301))
    assert Page(path).tags.count("img") == 3


def test_embedded_pictures(tmp_path: Path) -> None:
    noise(tmp_path / "samples-012.png", (20, 10))
    small = embedded(tmp_path / "samples-012.png")
    assert (
        small
        and small["uri"].startswith("data:image/png;base64,")
        and (small["width"], small["height"], small["epoch"]) == (20, 10, "12")
    )
    whole = (tmp_path / "samples-012.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    assert embedded(tmp_path / "torn.png") is None and embedded(tmp_path / "none.png") is None


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
    svg = re.search(r"<svg.*</svg>", charts.edge_chart([0, 1], weights, {(0, 1): "skip_connect"}, "x"), re.DOTALL)
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
