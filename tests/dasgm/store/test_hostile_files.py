"""Checkpoints, weights and other files of an attacker: nothing is run, and no memory is taken."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import torch
from commands import finish
from hostile import command
from samples import sealed, tensor_file
from warm import Warm

from dasgm.store.files import LARGEST
from dasgm.store.records import FORMAT, read_lines
from dasgm.store.run import Run
from dasgm.store.tensors import packed


class _Runs:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def pickled(canary: Path, protocol: int) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": _Runs(canary)}, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def checkpoint(state: Any, numbers: int = 0, **tensors: tuple[str, list[int], list[int]]) -> bytes:
    """A checkpoint with this as its data, so many bytes of numbers, and tensors of (kind, shape, [begin, end])."""
    told = {name: dict(zip(("dtype", "shape", "data_offsets"), about, strict=True)) for name, about in tensors.items()}
    text = state if isinstance(state, str) else json.dumps({"format": FORMAT, "state": state})
    return tensor_file({"__metadata__": {"dasgm": text}} | told, bytes(numbers))


def entries(**values: Any) -> dict[str, list[Any]]:
    return {"keys": list(values), "values": list(values.values())}


X = {"tensor": "x"}
FOUR = ("F32", [4], [0, 16])
CHECKPOINTS = {
    "runs code": lambda canary: pickled(canary, 2),
    "runs code, as older torch wrote": lambda canary: pickle.dumps({"format": _Runs(canary)}, 2),
    "runs code, newer pickle": lambda canary: pickled(canary, 5),
    "a large header": lambda _: (2**60).to_bytes(8, "little") + b"{}",
    "a header longer than the file": lambda _: (2**26).to_bytes(8, "little") + b"{}",
    "a large tensor": lambda _: checkpoint(entries(x=X), x=("F32", [10**9], [0, 4 * 10**9])),
    "more than its part": lambda _: checkpoint(entries(x=X), 16, x=("F32", [10**9], [0, 16])),
    "a shape beyond": lambda _: checkpoint(entries(x=X), 16, x=("F32", [2**40, 2**40], [0, 16])),
    "less than nothing": lambda _: checkpoint(entries(x=X), 16, x=("F32", [-4], [0, 16])),
    "the same numbers, many times": lambda _: checkpoint(
        entries(**{f"x{i}": {"tensor": f"x{i}"} for i in range(1000)}),
        2**20,
        **{f"x{i}": ("U8", [2**20], [0, 2**20]) for i in range(1000)},
    ),
    "one tensor, many times": lambda _: checkpoint(entries(x=[X] * 10**5), 2**12, x=("U8", [2**12], [0, 2**12])),
    "one tensor, twice": lambda _: checkpoint(entries(x=X, y=X), 16, x=FOUR),
    "no such tensor": lambda _: checkpoint(entries(x=X)),
    "a tensor too many": lambda _: checkpoint(entries(x=X), 32, x=FOUR, y=("F32", [4], [16, 32])),
    "no numbers": lambda _: checkpoint(entries(x=X), x=FOUR),
    "another kind of number": lambda _: checkpoint(entries(x=X), 16, x=("F99", [4], [0, 16])),
    "a list": lambda _: checkpoint([1]),
    "a tensor": lambda _: checkpoint(X, 16, x=FOUR),
    "an older format": lambda _: checkpoint(json.dumps({"format": 1, "state": entries()})),
    "of somebody else": lambda _: tensor_file({"__metadata__": {"format": "pt"}, "x": {"dtype": "U8"}}),
    "without data": lambda _: tensor_file({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"0"),
    "a key twice": lambda _: checkpoint({"keys": ["a", "a"], "values": [1, 2]}),
    "a key that is a list": lambda _: checkpoint({"keys": [[]], "values": [1]}),
    "a value too few": lambda _: checkpoint({"keys": ["a", "b"], "values": [1]}),
    "no dictionary of ours": lambda _: checkpoint({"a": 1}),
    "nested lists": lambda _: checkpoint(
        '{"format": 2, "state": {"keys": ["x"], "values": [' + "[" * 5000 + "]" * 5000 + "]}}"
    ),
    "a nested header": lambda _: tensor_file(b'{"__metadata__": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001),
    "more text than any has": lambda _: checkpoint(" " * (LARGEST + 1)),
    "zeros": lambda _: bytes(1000),
    "nothing": lambda _: b"",
}


LIMITED = """
import resource, sys
from pathlib import Path
from dasgm.store.run import Run
pages = int(open("/proc/self/statm").read().split()[0])
import torch
torch.zeros(1)
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for folder in sys.argv[1:]:
    try:
        print("read", Run(folder).load())
    except ValueError as error:
        print(str(error).replace(folder, ""))
"""


def test_checkpoints_of_an_attacker_run_nothing_and_take_no_memory(tmp_path: Path, warm: Warm) -> None:
    folders = []
    for i, make in enumerate(CHECKPOINTS.values()):
        folders.append(tmp_path / str(i))
        folders[-1].mkdir()
        sealed(folders[-1], make(tmp_path / "canary"))
    code, out, err = finish(warm.start("-c", LIMITED, *map(str, folders)))
    said = out.splitlines()
    assert (code, err) == (0, "") and len(said) == len(CHECKPOINTS), (out, err)
    assert all(line.startswith("checkpoint /checkpoints/") for line in said), said
    reasons = dict(zip(CHECKPOINTS, said, strict=True))
    for says, names in {
        "is missing, or referred to twice": ("one tensor, many times", "one tensor, twice", "no such tensor"),
        "nothing refers to its tensor 'y'": ("a tensor too many",),
        "it is a safetensors file, but none of dasgm's": ("without data",),
        "format 1, expected 2": ("an older format",),
        "it holds a list": ("a list",),
        "a dictionary has a key twice": ("a key twice",),
        "a key is neither a text nor a whole number": ("a key that is a list",),
        "neither a tensor nor a dictionary": ("a value too few", "no dictionary of ours"),
        "nested more": ("nested lists",),
        "larger than 16 MiB": ("more text than any has",),
    }.items():
        assert all(says in reasons[name] for name in names), (says, [reasons[name] for name in names])
    assert not (tmp_path / "canary").exists()


WEIGHTS = """
import resource, sys
from pathlib import Path
import torch_fidelity.feature_extractor_inceptionv3
from dasgm.measures.fidelity import inception
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    try:
        print("read", inception(path))
    except ValueError as error:
        print(str(error).replace(path, ""))
"""


def test_weights_of_an_attacker_run_nothing_and_take_no_memory(tmp_path: Path, warm: Warm) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    paths = ["/dev/zero", tmp_path / "pipe", tmp_path / "sparse", tmp_path / "missing"]
    for i, make in enumerate(CHECKPOINTS.values()):
        paths.append(tmp_path / str(i))
        (tmp_path / str(i)).write_bytes(make(tmp_path / "canary"))
    code, out, err = finish(warm.start("-c", WEIGHTS, *map(str, paths)))
    said = out.splitlines()
    assert (code, err) == (0, "") and len(said) == len(paths), (out, err)
    assert all(line.startswith("inception-weights : ") for line in said) and "No such file" in said[3], said
    assert not (tmp_path / "canary").exists()


def test_an_honest_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"z": 1, "t": torch.randn(3, 4)[:, 1], "i": torch.arange(5), "n": [1.5, [2, "x"]], "b": True, 7: None}
    state |= {"a": {"1": 0.1 + 0.2, 1: -0.0, "": math.inf, "\ud800": [{}, [], ""]}, "nan": math.nan, "x": 1e-320}
    found = Run(sealed(tmp_path, packed(state))).load()
    assert found is not None and repr(found) == repr(state)
    assert torch.equal(found["t"], state["t"]) and math.copysign(1, found["a"][1]) == -1
    shutil.rmtree(tmp_path / "checkpoints")  # it stands on its own


def test_files_that_are_none_are_not_waited_for(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    for name in ("run.json", "config.json", "metrics.jsonl", "alphas.jsonl", "genotype.json"):
        os.mkfifo(run / name)
    assert command("runs", "--storage", run.parent)[0] == command("report", run)[0] == 0
    for words in (("draw", run / "genotype.json"), ("presets", run / "config.json")):
        assert "not a regular file" in command(*words)[1]
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    assert "not a regular file" in command("presets", tmp_path / "endless.json")[1]
    with open(tmp_path / "sparse.json", "wb") as file:
        file.truncate(2**40)
    assert "larger than" in command("presets", tmp_path / "sparse.json")[1]
    assert "larger than" in command("draw", tmp_path / "sparse.json")[1]


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """However large it might have been: a report reads some while memory is short, a table those of all its trials."""
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n' * 100)
    tracemalloc.start()
    try:
        assert len(read_lines(tmp_path / "metrics.jsonl")) == 100
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20
