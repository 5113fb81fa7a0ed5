"""Files that somebody else wrote, damaged by a fuzzer: refused in one line, or read; nothing run, nothing vast."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hostile import TERMINAL, command, damaged, document, hunt, one_line
from hypothesis import strategies as st
from PIL import Image

from cluster import contents, writer
from dasgm import model, pretrained
from dasgm.cli.evaluate import choose_training
from dasgm.config import PretrainConfig, from_json, to_json
from dasgm.data import _listing, _memory, _parquet, _pictures, digits
from dasgm.genotype import KNOWN, Genotype
from dasgm.jobs import search as loop
from dasgm.jobs.session import Hooks
from dasgm.methods import darts
from dasgm.networks.network import Network
from dasgm.presets import preset
from dasgm.recipes import EvaluateConfig
from dasgm.search import Search
from dasgm.store.records import read_lines
from dasgm.store.run import Run
from dasgm.store.tensors import packed

TEXT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)], normal_concat=range(2, 3), "
    "reduce=[('max_pool_3x3', 0), ('skip_connect', 1)], reduce_concat=[2])"
)
TOKENS = ("(", "[" * 300, "range(0, 99)", "range", "list(", "'\\d'", "0xF" + "F" * 5000, "9" * 5000, "*", "\0", "None")
RUN = {"format": 1, "name": "r", "title": "a run", "state": "finished", "reason": "", "command": "dasgm search"}
RUN |= {"kind": "search", "started": 1.79e9, "ended": 1.79e9 + 9, "parameters": {"gan": "biggan"}, "device": "cpu"}
RUN |= {"published": "", "sweep": None, "workers": 1, "protocols": {"gan/fid": "by x"}, "searched": {"trial": "t"}}
SWEEP = {"format": 1, "name": "s", "state": "finished", "reason": "", "command": "x", "preset": "quickstart"}
SWEEP |= {"dataset": "digits", "seed": 0, "num_trials": 4, "objective": "best/proxy", "config": {}, "machine": "cpu"}
SWEEP |= {"started": 1.79e9, "ended": None, "kind": "sweep", "mathematics": {"seed": 0}}
ROW = {"epoch": 1, "phase": "search 1", "time": 1.79e9, "val/accuracy": 0.5, "gan/fid": 9.0, "speed/images_per_s": 1.0}
BEST = {"epoch": 1, "phase": "best", "time": 1.79e9, "best/proxy": 0.5, "best/proxy_error": 0.1, "cost/gpu_hours": 1.0}
SEARCH = replace(
    preset("quickstart").config,
    method=darts.Config(epochs=1, cells=3, channels=2),
    gan=None,
    data=digits.Config(limit=100),
    proxy=preset("quickstart").config.proxy.__class__(),
)


def edges(epoch: int) -> dict[str, Any]:
    weights = [[0.5, 0.5]] * 14
    names = dict.fromkeys(("normal", "reduce"), [["none", "skip_connect"]] * 14)
    return {"epoch": epoch, "normal": weights, "reduce": weights, "operations": names}


def png(width: int = 8, height: int = 8, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def rows_of(pictures: list[Any], labels: list[Any], column: str = "img", **options: Any) -> bytes:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = pa.table({column: pa.array([{"bytes": p, "path": "x"} for p in pictures], kind), "label": labels})
    buffer = io.BytesIO()
    pq.write_table(found, buffer, **options)
    return buffer.getvalue()


class Hunts:
    """By name: what is damaged, and what has to hold of it. Each has a folder of its own."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "file.json"

    def genotype(self) -> tuple[Any, Any]:
        valid = json.loads(KNOWN["DARTS_V2"].to_json())

        def check(text: str) -> None:
            self.file.write_text(text, "utf-8", "surrogatepass")
            one_line(lambda: Genotype.load(self.file))

        return document(valid), check

    def genotype_text(self) -> tuple[Any, Any]:
        @st.composite
        def spliced(draw: Any) -> bytes:
            at, to = sorted(draw(st.integers(0, len(TEXT))) for _ in range(2))
            text = TEXT[:at] + draw(st.sampled_from(TOKENS)) + TEXT[to if draw(st.booleans()) else at :]
            return draw(damaged(text.encode())) if draw(st.booleans()) else text.encode()

        def check(content: bytes) -> None:
            self.file.write_bytes(content)
            one_line(lambda: Genotype.load(self.file))

        return spliced(), check

    def preset(self) -> tuple[Any, Any]:
        overrides = {"gan": "biggan", "gan.channels": 4, "method": "darts", "method.cells": 3, "val_portion": 0.3}
        overrides |= {"data.image_size": 32, "proxy.cells": 3, "device": "cpu", "threads": 1, "data_dir": "x"}
        overrides |= {"batch_size": 8, "order": "first", "gan.z_dim": 64, "seed": 1}

        def check(text: str) -> None:
            self.file.write_text(text)
            command("presets", self.file)

        return document({"parent": "quickstart", "overrides": overrides}), check

    def configuration(self) -> tuple[Any, Any]:
        """config.json of a run whose genotype is evaluated."""
        KNOWN["DARTS_V2"].save(self.folder / "genotype.json")

        def check(text: str) -> None:
            (self.folder / "config.json").write_text(text)
            one_line(lambda: choose_training([str(self.folder)]))
            one_line(lambda: from_json(json.loads(text)) if len(text) < 10_000 else None)

        return document(to_json(preset("quickstart").config)), check

    def run_folder(self) -> tuple[Any, Any]:
        """Listed, shown as a page, read for MLflow."""
        run, rows = (
            self.folder / "runs" / "r",
            st.lists(document(ROW) | document(BEST) | document(edges(1)), max_size=3),
        )
        run.mkdir(parents=True)
        (run / "pictures").mkdir()
        (run / "pictures" / "samples-\u00b2.png").write_bytes(png())

        def check(drawn: tuple[str, str, list[str]]) -> None:
            about, config, lines = drawn
            (run / "run.json").write_text(about)
            (run / "config.json").write_text(config)
            for name in ("metrics", "alphas"):
                (run / f"{name}.jsonl").write_text("\n".join([json.dumps(ROW), *lines, json.dumps(edges(1))]))
            assert command("runs", "--storage", run.parent)[0] == 0
            assert command("report", run)[0] == 0
            one_line(lambda: [list(writer._points(line)) for line in contents.content_of_run(run).lines])
            Run(run).cut(1)

        return st.tuples(document(RUN), document({"method": {"key": "darts"}, "gan": None}), rows), check

    def sweep_folder(self) -> tuple[Any, Any]:
        trial = self.folder / "s" / "t000"
        trial.mkdir(parents=True)

        def check(drawn: tuple[str, str, str]) -> None:
            (trial.parent / "sweep.json").write_text(drawn[0])
            (trial / "run.json").write_text(drawn[1])
            (trial / "metrics.jsonl").write_text(f"{json.dumps(ROW)}\n{drawn[2]}\n{json.dumps(BEST)}\n")
            command("report", trial.parent)
            one_line(lambda: contents.content_of_sweep(trial.parent))
            one_line(lambda: contents.identity(trial))

        return st.tuples(document(SWEEP), document(RUN), document(BEST)), check

    def model(self) -> tuple[Any, Any]:
        config = EvaluateConfig(data=digits.Config(), cells=3, channels=2)
        genotype = Genotype.parse(TEXT)
        network = Network(genotype, 2, 3, 10)
        data = type(
            "Data", (), {"classes": "0123456789", "image_size": 16, "resize": 16, "mean": [0] * 3, "std": [1] * 3}
        )
        model.save(self.folder, network, genotype, config, data, {"result/error": 0.1})
        valid = json.loads((self.folder / "model.json").read_text())
        weights = (self.folder / "model.safetensors").read_bytes()
        (self.folder / "picture.png").write_bytes(png(20, 16))

        def check(drawn: tuple[str, bytes]) -> None:
            about, content = drawn
            about = about.replace(valid["sha256"], hashlib.sha256(content).hexdigest())
            (self.folder / "model.json").write_text(about)
            (self.folder / "model.safetensors").write_bytes(content)
            command("predict", self.folder, self.folder / "picture.png")

        about = st.just(json.dumps(valid))
        return st.tuples(document(valid), st.just(weights)) | st.tuples(about, damaged(weights)), check

    def pretrained_gan(self) -> tuple[Any, Any]:
        config = PretrainConfig.of(preset("quickstart").config)
        data = digits.Config(limit=100, holdout=0.1).load(None)
        pretrained.write(self.folder, config, data, {"G.x": torch.zeros(3)}, iterations=5)
        valid = json.loads((self.folder / "gan.json").read_text())
        weights = (self.folder / "gan.safetensors").read_bytes()
        asked = replace(preset("quickstart").config, gan_checkpoint=str(self.folder))

        def check(drawn: tuple[str, bytes]) -> None:
            sha256 = hashlib.sha256(drawn[1]).hexdigest()  # whoever damages one file can mend the other
            (self.folder / "gan.json").write_text(drawn[0].replace(valid["sha256"], sha256))
            (self.folder / "gan.safetensors").write_bytes(drawn[1])
            assert one_line(lambda: pretrained.chosen(asked, data))

        about = st.just(json.dumps(valid))
        return st.tuples(document(valid), st.just(weights)) | st.tuples(about, damaged(weights)), check

    def checkpoint_bytes(self) -> tuple[Any, Any]:
        content = packed({"format": 1, "W": {"a": torch.randn(3, 4)}, "rows": [1.0, 2], "name": "x", "none": None})

        def check(found: bytes) -> None:
            one_line(Run(sealed(self.folder, found)).load)

        return damaged(content), check

    def checkpoint_pickle(self) -> tuple[Any, Any]:
        """The same within the archive, whose checksums are made again: what reads the pickle itself."""
        tensors = {"w": torch.ones(2, 3), "n": torch.arange(4)}
        with zipfile.ZipFile(io.BytesIO(packed({"format": 1, "a": [1, {"b": (2.5, "x")}], "t": tensors}))) as whole:
            records = {one.partition("/")[2]: whole.read(one) for one in whole.namelist()}
        content = records.pop("data.pkl")

        def check(found: bytes) -> None:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                one_line(lambda: Run(sealed(self.folder, archive(found, **records))).load())
            assert not told, told[0].message

        return damaged(content), check

    def checkpoint(self) -> tuple[Any, Any]:
        """Sound, but of other shapes and kinds."""
        data = SEARCH.data.load(None)
        search = Search(SEARCH, data)
        search.iterate()
        state = {"format": 1, "search": search.state_dict(), "epoch": 0, "best": 0.1, "means": {"classifier": [1.0]}}
        state |= {"warmup_seconds": 0.0, "spent": 1.0, "hours": 1.0, "workers": 1}

        def check(changes: list[tuple[int, Any]]) -> None:
            changed, places = _copied(state)
            for place, value in changes:
                holder, key = places[place % len(places)]
                holder[key] = value
            again = loop.Loop(SEARCH, data)
            again.run, again.search = Run(sealed(self.folder, packed(changed))), search
            again.hooks = Hooks(say=lambda line: None)
            found = again.run.load()
            if found and not one_line(lambda: again._restore(found)):
                again.search.iterate()

        other = st.sampled_from(
            [torch.zeros(()), torch.zeros(2), torch.zeros(3, 3, 3), torch.zeros(4, dtype=torch.int64)]
        )
        values = other | st.sampled_from([None, -1, 10**9, "x", [], {}, [1], {"step": 1}, float("nan"), 2.5])
        return st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=2), check

    def cifar_parquet(self) -> tuple[Any, Any]:
        content = rows_of([png(32, 32)] * 3 + [None], [0, 1, 2, 3])

        def check(found: bytes) -> None:
            path = self.folder / "train.parquet"
            path.write_bytes(found)
            one_line(lambda: _memory.load_file(path, ("label",), 10, 32, skip_unreadable=True))

        return damaged(content), check

    def imagenet_parquet(self) -> tuple[Any, Any]:
        content = rows_of([png(), png(), png()], [0, 1, 1], "image", row_group_size=2)
        (self.folder / "val.parquet").write_bytes(content)

        def check(found: bytes) -> None:
            (self.folder / "train.parquet").write_bytes(found)

            def read() -> None:
                train, _ = _listing.listings(str(self.folder))
                train.source.read(train.permuted(0, 0).tolist())

            one_line(read)

        return damaged(content), check

    def picture(self) -> tuple[Any, Any]:
        def check(drawn: tuple[str, bytes]) -> None:
            pixels, good, notes = _pictures.read([drawn[1]], ["x"], lambda s: _pictures.fitted(s, 16), True)
            assert len(pixels) == 768 * len(good) and (bool(good) or notes)

        kinds = ("PNG", "JPEG", "GIF", "WEBP")
        return st.one_of(*(st.tuples(st.just(kind), damaged(png(20, 16, kind))) for kind in kinds)), check

    def study(self) -> tuple[Any, Any]:
        from tuning.asking import open_study

        trial = open_study(self.folder).ask()
        trial.set_user_attr("overrides", {"classifier_lr": 0.1})
        content = (self.folder / "study.db").read_bytes()

        def check(found: bytes) -> None:
            (self.folder / "study.db").write_bytes(found)
            one_line(lambda: open_study(self.folder))

        return damaged(content), check


EXAMPLES = {  # in the normal run: some two seconds each
    "genotype": 200,
    "genotype_text": 150,
    "preset": 80,
    "configuration": 80,
    "run_folder": 30,
    "sweep_folder": 30,
    "model": 60,
    "pretrained_gan": 40,
    "checkpoint_bytes": 80,
    "checkpoint_pickle": 300,
    "checkpoint": 25,
    "cifar_parquet": 80,
    "imagenet_parquet": 60,
    "picture": 150,
    "study": 8,
}


def sealed(folder: Path, content: bytes) -> Path:
    """A run's folder with this as its checkpoint, under the name that its content asks for."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"000000001-{hashlib.sha256(content).hexdigest()[:8]}.pt").write_bytes(content)
    return folder


def _copied(value: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """A copy of nested data, and every place in it."""
    places: list[tuple[Any, Any]] = []

    def walk(one: Any) -> Any:
        if not isinstance(one, dict | list | tuple):
            return one
        found = {k: walk(v) for k, v in one.items()} if isinstance(one, dict) else [walk(v) for v in one]
        places.extend((found, key) for key in (found if isinstance(found, dict) else range(len(found))))
        return found

    return walk(value), places


@pytest.mark.parametrize("name", EXAMPLES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    strategy, check = getattr(Hunts(tmp_path), name)()
    hunt(check, strategy, EXAMPLES[name])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EXAMPLES)
def test_many_damaged_files(name: str, tmp_path: Path) -> None:
    strategy, check = getattr(Hunts(tmp_path), name)()
    hunt(check, strategy, 20 * EXAMPLES[name], fixed=False)


# ---- made on purpose


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A checkpoint as torch lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        out.writestr("archive/data.pkl", pickled)
        for name, content in ({"byteorder": b"little", "version": b"3\n"} | records).items():
            out.writestr(f"archive/{name}", content)
    return buffer.getvalue()


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


def bomb(side: int) -> bytes:
    """A PNG of side x side white pixels, one bit each, whole: 30,000 are 500 kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = zlib.compress((b"\0" + b"\xff" * (side // 8)) * side, 1)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def test_parquet_that_swells_is_refused_before_it_is_read(tmp_path: Path) -> None:
    large, options = bytes(2**20), {"compression": "zstd", "dictionary_pagesize_limit": 2**30}
    for content in (rows_of([large] * 100, [0] * 100, **options), rows_of([b"x"] * 10**5, [0] * 10**5, **options)):
        assert len(content) < 20_000
        (tmp_path / "train.parquet").write_bytes(content)
        (tmp_path / "val.parquet").write_bytes(content)
        before = pa.total_allocated_bytes()
        with pytest.raises(ValueError, match="says that it holds"):
            _memory.load_file(tmp_path / "train.parquet", ("label",), 10, 32)
        with pytest.raises(ValueError, match="says that it holds"):
            _listing.listings(str(tmp_path))
        assert pa.total_allocated_bytes() <= before


def test_equal_pictures_take_memory_once(tmp_path: Path) -> None:
    """What is read as a dictionary stays one: 200 rows of one noisy picture of 256 kB."""
    noise = os.urandom(2**18)
    (tmp_path / "train.parquet").write_bytes(rows_of([noise] * 200, [0] * 200, dictionary_pagesize_limit=2**30))
    before = pa.total_allocated_bytes()
    with open(tmp_path / "train.parquet", "rb") as file, _parquet.opened(file, "x", 2**19) as parquet:
        column = parquet.read(columns=["img.bytes"])["img"]
        assert pa.total_allocated_bytes() - before < 2**21
    found = _parquet.encoded(column)
    assert len(found) == 200 and found[0] == noise and len(set(map(id, found))) == 1


@pytest.mark.parametrize("kind", [pa.string(), pa.int32(), pa.list_(pa.binary())])
def test_pictures_of_another_type_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    """A text would be taken for the name of a file."""
    value: Any = {pa.string(): "/etc/passwd", pa.int32(): 7}.get(kind, [b"x"])
    column = pa.array([{"bytes": value}], pa.struct([("bytes", kind)]))
    pq.write_table(pa.table({"img": column, "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="not Hugging Face's"):
        _memory.load_file(tmp_path / "train.parquet", ("label",), 10, 32)


def test_a_label_does_not_make_as_many_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / f"{part}.parquet").write_bytes(rows_of([png()] * 2, [0, 2**62], "image"))
    with pytest.raises(ValueError, match="a label is 4611686018427387904, with 2 pictures"):
        _listing.listings(str(tmp_path))


def test_a_bomb_of_a_picture_is_refused_everywhere(tmp_path: Path) -> None:
    from dasgm.data._photographs import decoded

    content = bomb(30_000)
    assert len(content) < 2**20
    with pytest.raises(Image.DecompressionBombError):
        decoded(content)
    with pytest.raises(ValueError, match="900000000 pixels"):
        _pictures.read([content], ["x"], lambda s: _pictures.fitted(s, 16), skip_unreadable=False)
    run = tmp_path / "r"
    (run / "pictures").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(RUN))
    for side, epoch in ((30_000, 0), (9_000, 1)):  # Pillow itself refuses the first only
        (run / "pictures" / f"samples-{epoch:03d}.png").write_bytes(bomb(side))
    (run / "pictures" / "samples-002.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert command("report", run)[0] == 0
    assert "data:image" not in (run / "report.html").read_text()


def test_folders_of_pictures_with_loops_pipes_and_odd_names(tmp_path: Path) -> None:
    odd = [f"cat\n{TERMINAL}", os.fsdecode(b"dog\xff")]
    for name in odd:
        (tmp_path / name).mkdir()
        for i in range(12):
            (tmp_path / name / f"{i}{TERMINAL}.png").write_bytes(png())
    (tmp_path / odd[0] / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / odd[0] / "itself").symlink_to(tmp_path / odd[0] / "itself")
    os.mkfifo(tmp_path / odd[0] / "pipe.png")
    (tmp_path / odd[0] / "endless.png").symlink_to("/dev/zero")
    words = ("search", "--dataset", "folder", "--data-dir", tmp_path, "--gan", "none", "--dry-run")
    words += ("--batch-size", "4", "--proxy.batch-size", "4", "--storage", tmp_path / "runs")
    code, said = command(*words)
    assert code == 2 and "2 files are no jpg" in said and "pipe.png" in said and "endless.png" in said, said
    for name in ("pipe.png", "endless.png"):
        (tmp_path / odd[0] / name).unlink()
    code, said = command(*words)
    assert code == 2 and "itself" in said, said
    assert command(*words, "--data.skip-unreadable")[0] == 0
    for name in ("loop", "itself"):
        (tmp_path / odd[0] / name).unlink()
    (tmp_path / odd[0] / "empty.png").write_bytes(b"")
    (tmp_path / odd[1] / f"{TERMINAL}.jpg").write_bytes(b"no picture")
    code, said = command(*words)
    assert code == 2 and "2 of 26 pictures cannot be read" in said
    (tmp_path / odd[1] / f"{TERMINAL}.txt").write_bytes(b"x")
    assert "1 files are no jpg" in command(*words)[1]


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


def test_a_preset_that_is_its_own_parent(tmp_path: Path) -> None:
    path = tmp_path / "me.json"
    path.write_text(json.dumps({"parent": str(path)}))
    assert "it is its own ancestor" in command("presets", path)[1]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"method.cells": 10**9}, "expected at most 100"),
        ({"method": "pdarts", "method.added_cells": [0, 10**9, 0]}, "100 cells"),
        ({"method": "pdarts", "method.operations": [8] + [3] * 10**5}, "at most 8"),
        ({"gan.channels": 10**9}, "expected 1 to 65536"),
        ({"gan.channels": 60_000}, "choose fewer channels"),
        ({"method.channels": 4096, "method.cells": 30}, "choose fewer channels"),
        ({"proxy.cells": 10**9}, "expected a number between 3 and 100"),
        ({"threads": 10**9}, "expected a number between 1 and 1024"),
        ({"device": "cuda:\n"}, "expected auto, cpu, cuda, cuda:N or mps"),
        ({"classifier_lr": 10**400}, "expected a number"),
    ],
)
def test_sizes_that_no_machine_has_are_refused(tmp_path: Path, overrides: dict[str, Any], says: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"parent": "quickstart", "overrides": overrides}))
    code, said = command("search", path, "--storage", tmp_path / "runs")
    assert code == 2 and says in said, said
