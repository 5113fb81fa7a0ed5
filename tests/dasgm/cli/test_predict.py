"""`dasgm predict`: what names stand for, the three forms of the answer, and what cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import environment_with
from trained import CONFIG

import dasgm
from dasgm.cli import main as cli


@pytest.fixture
def here(digits_pictures, tmp_path, monkeypatch) -> Path:
    """A folder with `0.png` to `4.png`, `more/5.png`, a broken picture, a note and a hidden file, to work in."""
    pictures = sorted(digits_pictures.rglob("*.png"), key=lambda path: path.name)
    (tmp_path / "more").mkdir()
    for i in range(6):
        (tmp_path / ("more" if i == 5 else "") / f"{i}.png").write_bytes(pictures[i].read_bytes())
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "._0.png").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def expected(digits_run) -> list[list[tuple[str, float]]]:
    """Of the first six test pictures: (class, probability), by the network on the data set's own images."""
    data = CONFIG.data.load(None)
    with torch.no_grad():
        p = dasgm.load(digits_run)(data.to_classifier(data.test_raw(slice(6)))).softmax(1).sort(1, descending=True)
    return [
        [(str(c), q) for c, q in zip(*row, strict=True)]
        for row in zip(p.indices.tolist(), p.values.tolist(), strict=True)
    ]


def test_the_table_has_a_line_for_each_picture(here, digits_run, expected, capsys):
    assert cli.main(["predict", str(digits_run), "0.png", "broken.png", "absent.png", "1.png", "--top", "3"]) == 2
    said = capsys.readouterr()
    head, *lines = said.out.splitlines()
    assert head.split() == ["picture", "answer", "probability", "most", "probable"]
    for i, line in enumerate(lines):
        (answer, p), *_ = ranked = expected[i][:3]
        assert line.split()[:3] == [f"{i}.png", answer, f"{p:.1%}"]
        assert line.endswith("  " + ", ".join(f"{name} {q:.1%}" for name, q in ranked))
    assert len({len(line) for line in lines}) == 1
    assert [line.split(": ")[:2] for line in said.err.splitlines()] == [
        ["error", "broken.png"],
        ["error", "absent.png"],
    ]
    assert cli.main(["predict", str(digits_run), "0.png", "--top", "1"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["picture", "answer", "probability"] and len(line) == len(head)


@pytest.mark.parametrize("batch", ["1", "4", "64"])
def test_json_is_the_same_in_batches_of_any_size(batch, here, digits_run, expected, capsys):
    assert cli.main(["predict", str(digits_run), ".", "--format", "json", "--top", "99", "--batch-size", batch]) == 2
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [one["picture"] for one in found] == [*(f"{i}.png" for i in range(5)), "broken.png", "more/5.png"]
    assert found[5].keys() == {"picture", "error"} and said.err.count("error: broken.png: ") == 1
    assert ".: left out, as no pictures or as linked twice: 2" in said.err
    for one, ranked in zip(found[:5] + found[6:], expected, strict=True):
        assert one["answer"] == ranked[0][0] and one["probability"] == one["classes"][0]["probability"]
        assert [each["class"] for each in one["classes"]] == [name for name, _ in ranked]
        assert [each["probability"] for each in one["classes"]] == pytest.approx([p for _, p in ranked], abs=1e-5)


def test_csv_has_the_same_columns_for_all(here, digits_run, expected, capsys):
    (here / 'a,"b.png').write_bytes((here / "0.png").read_bytes())
    words = ['a,"b.png', "broken.png", "more/*.png", "--format", "csv", "--top", "2", "--threshold", "1"]
    assert cli.main(["predict", str(digits_run), *words]) == 2
    first, broken, third = csv.DictReader(io.StringIO(capsys.readouterr().out))
    ranks = ["class_1", "probability_1", "class_2", "probability_2"]
    assert list(first) == ["picture", "answer", "probability", *ranks, "error"] and first["picture"] == 'a,"b.png'
    for row, ranked in ((first, expected[0]), (third, expected[5])):
        assert row["answer"] == "none of these" and row["error"] == "" and row["class_2"] == ranked[1][0]
        assert float(row["probability"]) == float(row["probability_1"]) == pytest.approx(ranked[0][1], abs=1e-5)
    assert broken["error"] and not any(broken[name] for name in ["answer", "probability", *ranks])


def test_names_come_from_standard_input(here, digits_run, capsys, monkeypatch):
    def given(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(b"1.png\r\nmore\n\n*[34].png\n")
    assert cli.main(["predict", str(digits_run), "0.png", "-", "--format", "json"]) == 0
    names = [one["picture"] for one in json.loads(capsys.readouterr().out)]
    assert names == ["0.png", "1.png", "more/5.png", "3.png", "4.png"]
    for content, says in ((b"", "standard input is empty"), ((here / "0.png").read_bytes(), "is no list of files")):
        given(content)
        with pytest.raises(SystemExit):
            cli.main(["predict", str(digits_run), "-"])
        assert says in capsys.readouterr().err


def test_what_is_out_of_range_or_absent_is_one_line(here, digits_run, capsys):
    for words, says in (
        (["--top", "0"], "--top 0: expected at least 1"),
        (["--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--threshold", "1.5"], "--threshold 1.5: expected a probability from 0 to 1"),
        (["--threshold", "nan"], "--threshold nan: expected"),
        (["--format", "jsn"], "did you mean 'json'?"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["predict", str(digits_run), "0.png", *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and says in line
    (here / "none").mkdir()
    assert cli.main(["predict", str(digits_run), "none", "*.gif", "--format", "json"]) == 2
    said = capsys.readouterr()
    assert "no pictures in this folder" in said.err and "none that this pattern finds" in said.err
    assert [one["picture"] for one in json.loads(said.out)] == ["none", "*.gif"]


def test_an_odd_name_is_shown_escaped(here, digits_run, capsysbinary):
    for name in ("a\nb.png", "\x1b[31m.png", "\udcff.png", "*.png"):
        (here / name).write_bytes((here / "0.png").read_bytes())
    for form in ("table", "csv"):
        assert cli.main(["predict", str(digits_run), "a\nb.png", "\x1b[31m.png", "\udcff.png", "--format", form]) == 0
        said = capsysbinary.readouterr().out.decode()
        assert len(said.splitlines()) == 4 and all(line.isprintable() for line in said.splitlines())
    assert cli.main(["predict", str(digits_run), "*.png", "a\nb.png", "\udcff.png", "--format", "json"]) == 0
    found = json.loads(capsysbinary.readouterr().out)
    assert [one["picture"] for one in found] == ["*.png", "a\nb.png", "\udcff.png"]  # a file of that name is no pattern


def test_a_bar_is_shown_on_a_terminal_alone(here, digits_run):
    """On standard error, while the answers go to a file."""
    master, terminal = pty.openpty()
    words = [sys.executable, "-m", "dasgm", "predict", str(digits_run), ".", "--format", "csv", "--batch-size", "1"]
    with open("out.csv", "w") as out:
        run = subprocess.Popen(words, stdout=out, stderr=terminal, env=environment_with(TERM="xterm"))
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the other end is closed
            break
    assert run.wait() == 2
    os.close(master)
    said = shown.decode()
    assert "predict" in said and "100 %" in said and "error: broken.png" in said
    lines = Path("out.csv").read_text().splitlines()
    assert len(lines) == 8 and all(line.isprintable() for line in lines)
