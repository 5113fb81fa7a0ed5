"""How long a batch takes: what is timed, what is told, and what is refused."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch

from dasgm.cli import main as cli
from dasgm.measures import latency
from dasgm.measures.latency import Latency


def test_quartiles_are_of_the_calls_after_the_warm_up(monkeypatch):
    monkeypatch.setattr(latency, "WARM_UP", (5, 0.0))
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    calls = []

    def call():
        calls.append(len(calls))
        time.sleep(0.05 if len(calls) <= 5 else 0.002)  # as a first call, which compiles and allocates

    times = latency.timed(call)
    assert len(calls) == 35 and len(times) == 30 and min(times) >= 2 and sorted(times)[15] < 50
    monkeypatch.setattr(latency, "LONGEST", 0.0)
    assert len(latency.timed(lambda: time.sleep(0.001))) == 5
    found = Latency("x", (4.0, 1.0, 2.0, 3.0, 10.0), batch_size=2, threads=1)
    assert found.quartiles == (2.0, 3.0, 4.0)
    assert found.to_json()["picture_ms"] == {"lower_quartile": 1.0, "median": 1.5, "upper_quartile": 2.0}


def pooling(path):
    """An ONNX file of that shape: batches of images in, logits out."""
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    values = [make("images", kind, ["n", 3, 16, 16])], [make("logits", kind, ["n", 3, 1, 1])]
    graph = onnx.helper.make_graph([onnx.helper.make_node("GlobalAveragePool", ["images"], ["logits"])], "m", *values)
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def test_a_model_and_its_exports_are_timed(digits_run, tmp_path, capsys):
    pooling(tmp_path / "m.onnx")
    threads = torch.get_num_threads()
    words = ["measure", str(digits_run), "--latency", "--batch-size", "4", "--threads", "1", "--onnx"]
    assert cli.main([*words, str(tmp_path / "m.onnx"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    processors = {line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")}
    assert found["processor"] in processors and found["batch_size"] == 4 and found["threads"] == 1
    assert [row["program"].split()[0] for row in found["latency"]] == ["PyTorch", "onnxruntime"]
    for row in found["latency"]:
        batch, picture = row["batch_ms"], row["picture_ms"]
        assert 0 < batch["lower_quartile"] <= batch["median"] <= batch["upper_quartile"] and row["calls"] >= 30
        assert picture["median"] == batch["median"] / 4
    assert torch.get_num_threads() == threads


def test_the_table_names_processor_threads_and_batch(digits_run, monkeypatch, capsys):
    monkeypatch.setattr(latency, "SECONDS", 0.0)
    assert cli.main(["measure", str(digits_run), "--latency", "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 thread, 1 picture a batch" in said and f"PyTorch {torch.__version__}" in said and "median" in said


def test_what_lies_beside_the_model_is_timed_with_as_many_threads_as_torch(digits_run, tmp_path, monkeypatch, capsys):
    for name in ("WARM_UP", "LEAST", "SECONDS"):
        monkeypatch.setattr(latency, name, {"WARM_UP": (1, 0.0), "LEAST": 2, "SECONDS": 0.0}[name])
    run = shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx"))
    words, before = ["measure", str(run), "--latency", "--json"], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            cli.main(words)
            out, err = capsys.readouterr()
            assert json.loads(out)["threads"] == threads and f"`dasgm export {run} --format onnx` writes" in err
    finally:
        torch.set_num_threads(before)
    pooling(run / "model.onnx")
    (run / "model.int8.onnx").write_bytes(b"none")
    cli.main(words)
    out, err = capsys.readouterr()
    assert [row["program"].partition(", ")[2] for row in json.loads(out)["latency"]] == ["", "model.onnx"]
    (line,) = err.splitlines()
    assert line.startswith("model.int8.onnx is not measured: --onnx ")


def test_refusals(digits_run, tmp_path, capsys):
    (tmp_path / "x.onnx").write_bytes(b"none")
    run = str(digits_run)
    for words, says in (
        (["DARTS_V2", "--threads", "1"], "--threads: only a measurement of time has it; give --latency too"),
        ([run, "--latency", "--cells", "3"], "--cells with --latency: leave one of the two out"),
        ([run, "--latency", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["--latency"], "name the folder of a trained model"),
        (["DARTS_V2", "--latency"], "model DARTS_V2: expected a run's folder"),
        ([run, "--latency", "--onnx", str(tmp_path / "absent.onnx")], "no such file"),
        ([run, "--latency", "--onnx", str(tmp_path / "x.onnx")], "cannot be run on 1 images"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["measure", *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 2 and says in line
