"""Runs on the same pictures: McNemar's test and intervals against published numbers, the table by hand, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from dasgm.cli import main as cli
from dasgm.pages.comparison import compare, of_fit
from dasgm.pages.report import report
from dasgm.pages.tables import mcnemar


def test_mcnemar_is_the_published_mid_p():
    # 1 and 7 discordant pairs: exact p 0.070, mid-p 0.039 (Fagerland, Lydersen and Laake 2013, airways of 21 children)
    assert round(mcnemar(1, 7), 3) == round(mcnemar(7, 1), 3) == 0.039
    assert mcnemar(0, 0) == mcnemar(5, 5) == 1
    for one, other in ((0, 3), (2, 9), (40, 71), (1000, 1103)):
        n = one + other
        exact, seen = binomtest(one, n).pvalue, binomtest(one, n, alternative="less").pvalue
        less = binomtest(one - 1, n, alternative="less").pvalue if one else 0.0
        assert mcnemar(one, other) == pytest.approx(exact - (seen - less), rel=1e-9)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, said: str, true: str = "aaaaabbbbb", **mathematics: Any) -> Path:
        """A run that says `said`, a letter for each picture."""
        folder = tmp_path / name
        folder.mkdir()
        lines = [f'"pictures/{i}, seen.png",{t},{s},0.5,0.5' for i, (t, s) in enumerate(zip(true, said, strict=True))]
        (folder / "predictions.csv").write_text("picture,true,predicted,probability,p(a)\n" + "\n".join(lines) + "\n")
        (folder / "run.json").write_text(json.dumps({"kind": "evaluation", "mathematics": mathematics}))
        row = {"epoch": 1, "phase": "result", "time": 1.0, "result/parameters": 1000, "result/multiply_adds": 5000}
        (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return folder

    return write


def test_table_by_hand(write, tmp_path, capsys):
    base = write("base", "aaaaabbbba", epochs=3, cells=20)  # 9 of 10 right
    good = write("good", "aaaaabbbbb", epochs=3)  # all right: one picture more than the baseline
    bad = write("bad", "bbbbbbbbbb", epochs=5, data="other")  # 5 right: the last one, which base has wrong, and less 5
    found = compare([base, good, bad])
    first, second, third = found.rows
    assert (first.right, second.right, third.right) == (9, 10, 5) and first.p is None
    assert (second.won, second.lost, third.won, third.lost) == (1, 0, 1, 5)
    # one of one: 2 (1/2) - 1/2; one of six: 2 (1 + 6) / 64 - 6 / 64
    assert (second.p, third.p) == (pytest.approx(0.5), pytest.approx(8 / 64))
    assert (second.holm, third.holm) == (pytest.approx(0.5), pytest.approx(16 / 64))
    # Wilson's interval of 9 of 10: 0.596 to 0.982 (Newcombe 1998's method 3)
    assert (round(first.low, 3), round(first.high, 3)) == (0.596, 0.982)
    assert first.parameters == 1000 and first.multiply_adds == 5000
    assert found.notes == ("bad and base were not trained alike; they differ in: epochs, training or held-out images",)
    assert cli.main(["compare", str(base), str(good), str(bad), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["baseline"] == "base" and printed["runs"][2]["accuracy"] == 0.5
    assert cli.main(["compare", str(base), str(good)]) == 0
    said = capsys.readouterr().out
    assert "90.00 (59.58 to 98.21)" in said and "10 test pictures; the baseline is base" in said
    assert "| good | 100.00 (72.25 to 100.00) | 1,000 | 5,000 | 1 | 0 | 0.5 | 0.5 |" in found.markdown()


def test_runs_that_cannot_be_compared(write, tmp_path, capsys):
    base, wrong = write("base", "aaaaabbbbb"), write("wrong", "aaaaabbbbb", true="aaaabbbbbb")
    fewer, twice, empty = write("fewer", "aaa", true="aaa"), write("twice", "aaaaabbbbb"), write("empty", "", true="")
    lines = (twice / "predictions.csv").read_text().splitlines()
    (twice / "predictions.csv").write_text("\n".join([*lines, lines[-1]]))
    hostile = write("hostile", "aaaaabbbbb")
    (hostile / "predictions.csv").write_bytes(b'picture,true,predicted,probability\n"a' + b"\x00" * 10)
    for folders, says in (
        ([base], "at least two runs"),
        ([base, base], "named twice"),
        ([base, wrong], "is of class 'b', in .*base of 'a'"),
        ([base, fewer], "measured on other pictures"),
        ([base, twice], "11 lines on 10 pictures"),
        ([base, empty], "0 lines on 0 pictures"),
        ([base, hostile], "not the predictions of a run"),
        ([base, tmp_path], "there is no predictions.csv"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            compare(folders)
        assert "\n" not in str(caught.value)


def test_the_page_of_a_fit_compares_its_network_with_the_known_ones(write, tmp_path):
    found, other = write("training", "aaaaabbbbb"), write("against-other", "aaaaabbbba")
    assert of_fit(found) is None  # no fit
    (tmp_path / "fit.json").write_text("{}")
    assert [row.verdict for row in of_fit(other).rows] == ["", "not told apart"]
    write("against-wrong", "bbbbbaaaaa")  # 10 of 10: p is 2 / 2^10 - 1 / 2^10
    assert [row.verdict for row in of_fit(found).rows] == ["", "not told apart", "worse"]
    assert report(tmp_path) == found / "report.html"
    report(tmp_path)  # which pages there are is known now
    text = (found / "report.html").read_text()
    assert "Against known networks" in text and "worse" in text and "../against-wrong/report.html" in text
    (tmp_path / "against-wrong/predictions.csv").unlink()
    assert of_fit(found) is None
