"""`dasgm runs --json`: what a program reads of the runs, against the files that were written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dasgm.cli import main as cli


def write(folder: Path, rows: list[dict[str, object]], **about: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"format": 2, **about}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def listed(storage: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    """By name. NaN and Infinity, which Python alone takes for JSON, are errors."""
    assert cli.main(["runs", "--json", "--storage", str(storage)]) == 0

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return {run["name"]: run for run in json.loads(capsys.readouterr().out, parse_constant=refuse)}


def test_each_run_is_an_object(tmp_path, capsys):
    epochs = [{"epoch": i, "phase": "search 1", "time": float(i), "val/accuracy": i / 10} for i in (1, 2)]
    best = {
        "epoch": 2,
        "phase": "best",
        "time": 3.0,
        "best/proxy": 0.75,
        "best/proxy_error": 0.03,
        "best/naswot": 612.5,
    }
    done = {"state": "finished", "started": 1.5, "ended": 3.0, "command": "dasgm search", "reason": ""}
    write(tmp_path / "mine", [*epochs, best], **done)
    trial = write(tmp_path / "sweep" / "t000", epochs[:1], state="stopped", reason="the worse half")
    (trial / "checkpoints").mkdir()
    (trial / "checkpoints" / "a.safetensors").write_bytes(bytes(12345))
    tested = {"epoch": 7, "phase": "train", "time": 1.0, "test/error": 0.125}
    write(tmp_path / "net", [tested], state="finished", kind="evaluation")
    trained = {"epoch": 3, "phase": "pretrain", "time": 1.0, "gan/fd_proxy": 1.0}
    write(tmp_path / "gan", [trained], state="running", kind="pretrain")
    found = listed(tmp_path, capsys)
    assert list(found) == ["gan", "mine", "net", "sweep/t000"]
    mine, trial_, net, gan = (found[name] for name in ("mine", "sweep/t000", "net", "gan"))
    assert mine | {"disk_bytes": 0} == {
        "name": "mine",
        "kind": "search",
        "sweep": None,
        "state": "finished",
        "reason": "",
        "folder": str(tmp_path / "mine"),
        "epoch": 2,
        "accuracy": 0.2,
        "proxy_accuracy": 0.75,
        "proxy_error": 0.03,
        "naswot": 612.5,
        "true_accuracy": None,
        "test_error": None,
        "disk_bytes": 0,
        "started": 1.5,
        "ended": 3.0,
        "command": "dasgm search",
    }
    assert (trial_["sweep"], trial_["state"], trial_["reason"]) == ("sweep", "stopped", "the worse half")
    assert trial_["disk_bytes"] == 12345 + sum((trial / name).stat().st_size for name in ("run.json", "metrics.jsonl"))
    assert (net["kind"], net["epoch"], net["test_error"]) == ("evaluation", 7, 0.125)
    assert (gan["kind"], gan["epoch"], gan["accuracy"], gan["state"]) == ("pretrain", 3, None, "interrupted")


def test_the_true_accuracy_of_the_latest_genotype_has_a_column_where_it_is_known(tmp_path, capsys):
    def said() -> tuple[str, str, str]:
        assert cli.main(["runs", "--storage", str(tmp_path)]) == 0
        return capsys.readouterr().out.partition("disk")  # the title, which has this test's name, comes before

    rows = [{"epoch": i, "phase": "search 1", "time": float(i), "val/accuracy": 0.5} for i in (1, 2)]
    write(tmp_path / "without", rows, state="finished")
    assert " true " not in said()[0]
    given = [row | {"truth/cifar10": accuracy} for row, accuracy in zip(rows, (0.9, 0.54297), strict=True)]
    write(tmp_path / "given", given, state="finished")
    found = listed(tmp_path, capsys)
    assert (found["given"]["true_accuracy"], found["without"]["true_accuracy"]) == (0.54297, None)
    assert " true " in said()[0] and "0.5430" in said()[2] and "0.9" not in said()[2]


def test_what_is_not_finite_is_null_and_no_run_is_an_empty_array(tmp_path, capsys):
    assert listed(tmp_path, capsys) == {}
    row = {"epoch": 1, "phase": "search 1", "time": 1.0, "val/accuracy": float("nan")}
    write(tmp_path / "a", [row], state="failed", started=float("inf"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "run.json").write_text('{"state": ')
    found = listed(tmp_path, capsys)
    assert (found["a"]["accuracy"], found["a"]["started"], found["a"]["state"]) == (None, None, "failed")
    assert found["torn"]["state"] == "unknown" and found["torn"]["epoch"] == 0


def test_names_of_any_bytes_survive(tmp_path, capsys):
    names = [b"a\xffb", b"new\nline", b"\x1b[31mred", "ünï".encode(), b'quo"te', b" "]
    for name in names:
        write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), [], state="finished")
    found = listed(tmp_path, capsys)
    assert {os.fsencode(name) for name in found} == set(names)
    assert all(os.path.isdir(str(run["folder"])) for run in found.values())
    assert cli.main(["runs", "--storage", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(escaped in said for escaped in ("a\\udcffb", "new\\nline", "\\x1b[31mred", "ünï"))


def test_following_as_json_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["runs", "--json", "--follow", "--storage", str(tmp_path)])
    assert end.value.code == 2 and "leave one of the two out" in capsys.readouterr().err
