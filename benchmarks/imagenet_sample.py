"""Two classes out of a photograph of each of ImageNet's classes, as class folders and as Parquet, to try the job on.

    python -m benchmarks.imagenet_sample --data-dir PHOTOGRAPHS --output FOLDER [--held-out 200]

PHOTOGRAPHS has one folder per WordNet id. The first 398 ids in order are animals, the rest is not. FOLDER/folder has
links to the photographs, FOLDER/parquet copies in Hugging Face's layout; both hold the same split.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dasgm.data._split import share

CLASSES, ANIMALS, SHARDS, ROW_GROUP = ("animal", "other"), 398, 4, 100


def two_classes(photographs: Path, output: Path, held_out: int = 200) -> tuple[Path, Path]:
    """Writes both layouts below `output`; at least `held_out` photographs, stratified, are in `val`. Returns where.

    Raises ValueError where `photographs` has no more than 398 class folders, or too few pictures, or output exists.
    """
    ids = sorted(folder.name for folder in photographs.iterdir() if folder.is_dir())
    if len(ids) <= ANIMALS:
        raise ValueError(f"{photographs} has {len(ids)} folders: expected one for each of ImageNet's 1000 WordNet ids")
    files = [
        (path, int(number >= ANIMALS)) for number, name in enumerate(ids) for path in _pictures(photographs / name)
    ]
    if not 0 < held_out < len(files):
        raise ValueError(f"--held-out {held_out} of {len(files)} photographs: choose fewer")
    labels = torch.tensor([label for _, label in files])
    val, train = share(labels, held_out / len(files), torch.Generator().manual_seed(0))
    layouts = output / "folder", output / "parquet"
    for part, indices in (("train", train.tolist()), ("validation", val.tolist())):
        some = [files[index] for index in indices]
        _link(layouts[0] / part.removesuffix("idation"), some)
        _write(layouts[1] / "data", part, some, SHARDS if part == "train" else 1)
    return layouts


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))


def _link(folder: Path, files: list[tuple[Path, int]]) -> None:
    for path, label in files:
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (folder / CLASSES[label] / path.name).symlink_to(path.absolute())


def _write(folder: Path, part: str, files: list[tuple[Path, int]], shards: int) -> None:
    """Rows in the order of the ids, dealt out to the shards."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for shard in range(shards):
        some = files[shard::shards]
        pictures = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path, _ in some], kind)
        table = pa.table({"image": pictures, "label": pa.array([label for _, label in some], pa.int64())})
        name = f"{part}-{shard:05d}-of-{shards:05d}.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), folder / name, row_group_size=ROW_GROUP)


def main() -> None:
    parser = argparse.ArgumentParser(description="Two classes out of a photograph of each of ImageNet's classes.")
    parser.add_argument("--data-dir", type=Path, required=True, help="a folder of photographs per WordNet id")
    parser.add_argument("--output", type=Path, required=True, help="where both layouts go")
    parser.add_argument("--held-out", type=int, default=200, help="photographs in val, stratified")
    asked = parser.parse_args()
    try:
        layouts = two_classes(asked.data_dir, asked.output, asked.held_out)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print("\n".join(map(str, layouts)))


if __name__ == "__main__":
    main()
