"""`--compile`: a compiled network learns what the plain one does, and where none can be compiled a line says so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from commands import finish, start
from safetensors.torch import load_file

from dasgm.data import digits
from dasgm.jobs.compiled import ensure_compiler
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import SearchSpace
from dasgm.store.records import read_lines

SMALL = ["--recipe=digits-small", "--cells=3", "--data.limit=96", "--epochs=2", "--drop-path=0.2", "--lr=0.001"]
"""At the recipe's own rate six steps make 4 % of a difference of 1e-7 in the weights."""
NORMAL = ("skip_connect", 0), ("sep_conv_5x5", 1), ("dil_conv_5x5", 0), *((("skip_connect", 2),) * 5)
REDUCE = ("max_pool_3x3", 0), ("skip_connect", 1), ("dil_conv_3x3", 0), *((("skip_connect", 2),) * 5)


def evaluated(folder: Path, name: str, *words: str) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
    """The rows, the tensors of the model, and what was said."""
    genotype = folder / "genotype.json"
    SearchSpace().genotype([NORMAL, REDUCE]).save(genotype)
    ours = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    words = ("-m", "dasgm", "evaluate", str(genotype), *SMALL, "--storage", str(folder), "--name", name, *words)
    code, said, error = finish(start(*words, **ours))
    assert code == 0, error
    return read_lines(folder / name / "metrics.jsonl"), load_file(folder / name / "model.safetensors"), said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_compiled_training_is_the_plain_one_up_to_rounding(tmp_path: Path) -> None:
    """All that the CPU computes in a form of its own: separable and dilated convolutions of maps of its whole size."""
    (rows, plain, _), (others, compiled, said) = (
        evaluated(tmp_path, name, *words) for name, words in (("plain", ()), ("compiled", ("--compile",)))
    )
    (seconds,) = re.findall(r"compiled the network in (\d+) s, which do not count as training time", said)
    assert [row.keys() for row in rows] == [row.keys() for row in others]
    for row, other in zip(rows[:2], others[:2], strict=True):
        assert other["loss/train"] == pytest.approx(row["loss/train"], rel=1e-5)
    assert others[-1]["cost/gpu_hours"] * 3600 < float(seconds)
    assert plain.keys() == compiled.keys()
    for name, t in plain.items():  # six steps move the weights by about 0.1
        assert (compiled[name].double() - t.double()).norm() < 3e-4, name


def test_where_nothing_can_be_compiled_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^compile: expected a CPU or a GPU with CUDA, the device is mps; [^\n]*$"):
        ensure_compiler("mps")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^compile: torch.compile needs Triton on a GPU: [^\n]*$"):
        ensure_compiler("cuda:1")
    with pytest.raises(ValueError, match=r"^compile: [^\n]*; choose --cuda-graph off$"):
        EvaluateConfig(data=digits.Config(), compile=True, cuda_graph="auto")
    words = ("-m", "dasgm", "evaluate", "DARTS_V2", *SMALL, "--compile", "--device=cpu", "--storage", str(tmp_path))
    code, _, error = finish(start(*words, PATH=str(tmp_path), CXX="absent"))
    assert (code, error) == (
        2,
        "error: compile: torch.compile finds no C++ compiler; install g++, or leave it out\n",
    )
