"""The page of the paper's results from MLflow is the one from the folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from predicted import predictions
from reproduced import record, searched, trained
from tracked import environment  # noqa: F401

from cluster import tracking
from dasgm.jobs.paper import paper


def test_it_is_the_page_of_the_folders(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, group = record(storage / "rows"), record(storage / "trained", "evaluations")
    for name, row, right in (("t000", "dasgm-darts", "1110"), ("t001", "darts-2nd", "1001")):
        for full in (False, True):
            searched(sweep / f"{name}{full:d}", row, 0, 0.5 + full / 4, full=full)
        where = trained(group / f"{name}1-s0", sweep / f"{name}1", 0, 0.03)
        predictions(where / "predictions.csv", right)
    for folder in (sweep, group):
        tracking.sync(folder, f"sqlite:///{storage}/mlflow.db")
    capsys.readouterr()
    words = ["--paper", "dasgm", "--uri", f"sqlite:///{storage}/mlflow.db", "--output", str(tmp_path)]
    assert tracking.main(words) == 0
    html, text = map(Path, capsys.readouterr().out.split())
    ours = paper(storage)[1].read_text()
    assert html.parent == tmp_path and html.read_text().count("<svg") == 2 and html.read_text().count("<img") == 4
    tables = [[line for line in page.splitlines() if line.startswith("|")] for page in (ours, text.read_text())]
    assert tables[0] == tables[1] and any("not the paper's budget" in line for line in tables[0])


def test_bad_input_is_one_line(storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{storage}/mlflow.db"
    for words, part in (
        (["--paper", "mine", "--uri", uri], "--paper mine: there is no such experiment in MLflow at sqlite:///"),
        (["--paper", "mine"], "--paper mine: there is no store at sqlite:///"),
        (["--paper", "mine", "--uri", uri, "--output", "nowhere"], "--output nowhere: no such folder"),
        (["--paper", "mine", "some"], "--paper sends nothing: leave runs"),
        ([], "name the runs to send, or with --paper"),
    ):
        assert tracking.main(words) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert part in line
