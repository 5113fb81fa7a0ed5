"""Pictures and Parquet files of an attacker: refused in one line, in little memory."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import TERMINAL, command
from PIL import Image
from samples import RUN, png, rows_of

from dasgm.data import _listing, _memory, _parquet, _pictures


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
        with pytest.raises(ValueError, match="declares"):
            _memory.load_file(tmp_path / "train.parquet", ("label",), 10, 32)
        with pytest.raises(ValueError, match="declares"):
            _listing.listings(str(tmp_path))
        assert pa.total_allocated_bytes() <= before


def test_equal_pictures_take_memory_once(tmp_path: Path) -> None:
    """What is read as a dictionary stays one: 200 rows of one noisy picture of 256 kB."""
    noise = os.urandom(2**18)
    (tmp_path / "train.parquet").write_bytes(rows_of([noise] * 200, [0] * 200, dictionary_pagesize_limit=2**30))
    before = pa.total_allocated_bytes()
    with open(tmp_path / "train.parquet", "rb") as file, _parquet.open_parquet(file, "x", 2**19) as parquet:
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
