"""Pictures and data sets for tests, as Parquet and folders. `python tests/tools/pictures.py PATH` writes the digits."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ROOT
from PIL import Image
from sklearn.datasets import load_digits

from dasgm.data._base import DataConfig

CIFAR10 = Path(os.environ.get("DASGM_CIFAR10") or ROOT.parent / "shared" / "data" / "cifar10")
LICENCE = "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, doi:10.24432/C50P49, CC BY 4.0"


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write_parquet(
    path: Path, pictures: list[bytes | None], columns: dict[str, list], metadata: dict | None = None
) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": picture, "path": f"{row:04d}.png"} for row, picture in enumerate(pictures)]
    table = pa.table({"img": pa.array(rows, kind), **columns}).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def write_digits(path: Path) -> None:
    source = load_digits()
    pictures: list[bytes | None] = [png((image * (255 / 16)).round().astype(np.uint8)) for image in source.images]
    write_parquet(path, pictures, {"label": source.target.tolist()}, {"licence": LICENCE})


def random_pictures(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def cifar_like(root: Path, n: int = 40, columns: dict[str, list] | None = None) -> np.ndarray:
    """Random images as train.parquet (n) and test.parquet (20); returns the first."""
    pixels = random_pictures(n)
    write_parquet(root / "train.parquet", [png(p) for p in pixels], columns or {"label": [i % 10 for i in range(n)]})
    write_parquet(root / "test.parquet", [png(p) for p in pixels[:20]], {"label": [i % 10 for i in range(20)]})
    return pixels


def pictures(root: Path, counts: dict[str, int]) -> None:
    """`root`/class/*.png of 24x12 pixels."""
    for number, (name, n) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(random_pictures(n, 24, number)):
            Image.fromarray(pixels[:12]).save(root / name / f"{i:02d}.png")


def refused(config: DataConfig, path: Path | None, message: str) -> str:
    """Loading raises a ValueError of one line that has `message` in it."""
    with pytest.raises(ValueError) as error:
        config.load(str(path) if path else None)
    text = str(error.value)
    assert message in text and "\n" not in text
    return text


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
