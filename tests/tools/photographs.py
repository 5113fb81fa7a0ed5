"""Photographs for tests, in ImageNet's two layouts, made of the packaged digits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dasgm.data import digits

CLASSES = ("n00000001", "n00000002", "n00000003")
Pictures = dict[str, list[tuple[str, bytes]]]  # class -> [(file's name, encoded)]


def encoded(image: Image.Image, kind: str = "JPEG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def digit_pictures(counts: tuple[int, ...], first: int = 0) -> Pictures:
    """So many coloured digits of each class, every one of another size; those after the `first` of the file."""
    rows = pq.read_table(Path(digits.__file__).with_name("digits.parquet"))["img"].to_pylist()[first:]
    made: Pictures = {}
    for name, n in zip(CLASSES, counts, strict=True):
        made[name] = []
        for _ in range(n):
            number = first + sum(map(len, made.values()))
            grey = Image.open(io.BytesIO(rows.pop(0)["bytes"])).resize((40 + number % 7, 36 + number % 5))
            levels = np.asarray(grey, dtype=float)[..., None] * (0.3 + 0.7 * np.random.default_rng(number).random(3))
            image = Image.fromarray(levels.astype(np.uint8))
            made[name].append((f"{name}_{number:04d}.JPEG", encoded(image, quality=95)))
    return made


def write_folder(root: Path, **parts: Pictures) -> Path:
    for part, classes in parts.items():
        for name, pictures in classes.items():
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for file, picture in pictures:
                (root / part / name / file).write_bytes(picture)
    return root


def write_shards(
    root: Path, shards: int = 1, group: int = 1000, column: str = "image", named: bool = True, **parts: Pictures
) -> Path:
    """Hugging Face's layout, the pictures in the folder layout's order; `group` rows a row group."""
    root.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {column: {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if named else None
    for part, classes in parts.items():
        rows = [
            ({"bytes": picture, "path": file}, label)
            for label, pictures in enumerate(classes.values())
            for file, picture in pictures
        ]
        size = -(-len(rows) // shards)
        for shard in range(shards):
            some = rows[shard * size : (shard + 1) * size]
            table = pa.table({column: pa.array([row for row, _ in some], kind), "label": [label for _, label in some]})
            name = f"{part}-{shard:05d}-of-{shards:05d}.parquet" if shards > 1 else f"{part}.parquet"
            pq.write_table(table.replace_schema_metadata(metadata), root / name, row_group_size=group)
    return root


def both_parts(train: tuple[int, ...] = (9, 8, 6), val: tuple[int, ...] = (4, 3, 4)) -> dict[str, Pictures]:
    return {"train": digit_pictures(train), "val": digit_pictures(val, 100)}
