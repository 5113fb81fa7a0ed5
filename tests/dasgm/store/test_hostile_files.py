"""Checkpoints, weights and other files of an attacker: nothing is run, and no memory is taken."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from hostile import command
from samples import archive, sealed

from dasgm.store.records import read_lines
from dasgm.store.run import Run
from dasgm.store.tensors import packed


class _Storage:
    """Written as torch writes the place of a tensor's numbers."""


class _Tensor:
    def __init__(self, numel: int, shape: tuple[int, ...], stride: tuple[int, ...]):
        self.numel, self.shape, self.stride = numel, shape, stride


class _Pickler(pickle.Pickler):
    numel = 0

    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", self.numel) if isinstance(value, _Storage) else None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _Tensor):
            return NotImplemented
        self.numel = value.numel
        rebuild = torch._utils._rebuild_tensor_v2
        return rebuild, (_Storage(), 0, value.shape, value.stride, False, OrderedDict())


def pickled(**state: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(state)
    return buffer.getvalue()


class _Runs:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


CALLS = b"\x80\x02}X\x01\x00\x00\x00xc%s\nJ\x00\x00\x00\x7f\x85Rs."  # {"x": name(2**31 - 2**24)}
CHECKPOINTS = {
    "runs code": lambda canary: archive(pickle.dumps({"format": _Runs(canary)}, 2)),
    "runs code, as older torch wrote": lambda canary: pickle.dumps({"format": _Runs(canary)}, 2),
    "runs code, newer pickle": lambda canary: archive(pickle.dumps({"format": _Runs(canary)}, 5)),
    "a large constructor": lambda _: archive(CALLS % b"__builtin__\nbytearray"),
    "a large tensor": lambda _: archive(CALLS % b"torch\nFloatTensor"),
    "more than its part": lambda _: archive(pickled(x=_Tensor(10**9, (10**9,), (1,))), **{"data/0": bytes(16)}),
    "a shape beyond": lambda _: archive(pickled(x=_Tensor(4, (10**10,), (1,))), **{"data/0": bytes(16)}),
    "one number, many times": lambda _: archive(pickled(x=_Tensor(4, (10**10,), (0,))), **{"data/0": bytes(16)}),
    "compressed": lambda _: archive(pickled(x=1), zipfile.ZIP_DEFLATED, **{"data/0": bytes(2**27)}),
    "a list": lambda _: archive(pickle.dumps([1], 2)),
    "no numbers": lambda _: archive(pickled(x=_Tensor(4, (4,), (1,)))),
    "one list, many times": lambda _: archive(
        b"\x80\x02}X\x01\x00\x00\x00x](]q\x00" + b"](h\x00h\x00eq\x00" * 24 + b"es."
    ),
    "one tuple, many times": lambda _: archive(b"\x80\x02}K\x00\x85q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s."),
    "a large tuple, again": lambda _: archive(
        b"\x80\x02}(" + b"N" * 100_000 + b"tq\x00" + b"h\x00\x86q\x00" * 14 + b"K\x01s."
    ),
    "nested lists": lambda _: archive(b"\x80\x02}X\x01\x00\x00\x00x" + b"]" * 5000 + b"a" * 4999 + b"s."),
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


def test_checkpoints_of_an_attacker_run_nothing_and_take_no_memory(tmp_path: Path) -> None:
    folders = []
    for i, make in enumerate(CHECKPOINTS.values()):
        folders.append(tmp_path / str(i))
        folders[-1].mkdir()
        sealed(folders[-1], make(tmp_path / "canary"))
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, folders)], capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and len(said) == len(CHECKPOINTS), (done.stdout, done.stderr)
    assert all(line.startswith("checkpoint /checkpoints/") for line in said), said
    reasons = dict(zip(CHECKPOINTS, said, strict=True))
    assert "more values than it has bytes" in reasons["one list, many times"]
    assert all("one tuple many" in reasons[name] for name in ("one tuple, many times", "a large tuple, again"))
    assert "nested more" in reasons["nested lists"]
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


def test_weights_of_an_attacker_run_nothing_and_take_no_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(2**40)
    paths = ["/dev/zero", tmp_path / "pipe", tmp_path / "sparse", tmp_path / "missing"]
    for i, make in enumerate(CHECKPOINTS.values()):
        paths.append(tmp_path / str(i))
        (tmp_path / str(i)).write_bytes(make(tmp_path / "canary"))
    done = subprocess.run([sys.executable, "-c", WEIGHTS, *map(str, paths)], capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr and len(said) == len(paths), (done.stdout, done.stderr)
    assert all(line.startswith("inception-weights : ") for line in said) and "No such file" in said[3], said
    assert not (tmp_path / "canary").exists()


def test_an_honest_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"format": 1, "t": torch.randn(3, 4)[:, 1], "i": torch.arange(5), "n": [1.5, (2, "x")], "b": True, 7: None}
    found = Run(sealed(tmp_path, packed(state))).load()
    assert (
        found is not None
        and torch.equal(found.pop("t"), state.pop("t"))
        and torch.equal(found.pop("i"), state.pop("i"))
    )
    assert found == state
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
