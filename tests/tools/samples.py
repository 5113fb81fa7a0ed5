"""Records, pictures and archives for tests, as a run's folder and a user's disk have them."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dasgm.data import digits
from dasgm.methods import darts
from dasgm.presets import preset

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


def sealed(folder: Path, content: bytes) -> Path:
    """A run's folder with this as its checkpoint, under the name that its content asks for."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"000000001-{hashlib.sha256(content).hexdigest()[:8]}.pt").write_bytes(content)
    return folder


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """A checkpoint as torch lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as out:
        out.writestr("archive/data.pkl", pickled)
        for name, content in ({"byteorder": b"little", "version": b"3\n"} | records).items():
            out.writestr(f"archive/{name}", content)
    return buffer.getvalue()
