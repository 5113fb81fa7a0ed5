"""The result page, from folders written here file by file: what it says, what it survives, what it must not load."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from pages import CONFIG, GENOTYPE, Page, alphas, lines, noise, put, write_run

from dasgm.pages.report import embedded, report
from dasgm.pages.view import Trials, ranking, read_run, read_trials
from dasgm.store.run import Run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "quickstart-digits-s0"
    info = {"format": 2, "name": folder.name, "state": "finished", "reason": "", "preset": "quickstart", "seed": 0}
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


def test_a_sweep_that_naswot_ranks_says_so_and_shows_the_proxy_beside_it(sweep: Path) -> None:
    """A tie has the same score, whatever the proxy's error is."""
    put(sweep / "sweep.json", json.loads((sweep / "sweep.json").read_text()) | {"objective": "best/naswot"})
    for name, score in (("t000", 1843.75), ("t001", 900.5), ("t003", 1843.75)):
        write_run(sweep / name, name, "finished", 12, 0.5 if name == "t000" else 0.9, naswot=score, sweep=sweep.name)
    page = Page(report(sweep))
    assert "Ranked by best/naswot." in page.text and "has the same score as the best" in page.text
    head = page.rows[0].split("|")
    assert head[3:5] == ["best/naswot", "best/proxy"]
    assert page.rows[1].startswith("1|t000|finished|1,843.8|50.0 ± 2.0 %|")
    assert page.rows[2].startswith("2|t003|finished|1,843.8|tie|90.0 ± 2.0 %|")
    assert page.rows[3].startswith("3|t001|finished|900.5|90.0 ± 2.0 %|")


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
    put(tmp_path / "sweep/sweep.json", {"format": 2, "name": "s", "state": "running", "num_trials": 4})
    assert "No epoch has ended yet" in Page(report(tmp_path / "run")).text
    page = Page(report(tmp_path / "sweep"))
    assert "No trial has started yet" in page.text and "4 waiting" in page.text
    with pytest.raises(ValueError, match="no results found"):
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
