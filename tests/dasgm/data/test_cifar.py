"""CIFAR's Parquet files, and Parquet that is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pictures import CIFAR10, cifar_like, png, random_pictures, refused, write_parquet

from dasgm.data import cifar10, cifar100, folder


def test_cifar_from_parquet_whole_in_shards_and_below_a_folder(tmp_path: Path) -> None:
    pixels = cifar_like(tmp_path / "whole")
    data = cifar10.Config(holdout=0.1).load(str(tmp_path / "whole"))
    assert torch.equal(data.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert data.labels.tolist() == [i % 10 for i in range(40)] and data.flips and data.name == "cifar10"
    small = cifar10.Config(image_size=16).load(str(tmp_path / "whole"))
    assert small.images.shape == (40, 3, 16, 16)
    for shard in range(2):
        half = slice(20 * shard, 20 * shard + 20)
        path = tmp_path / "shards" / "data" / f"train-0000{shard}-of-00002.parquet"
        write_parquet(path, [png(p) for p in pixels[half]], {"label": [i % 10 for i in range(20)]})
    (tmp_path / "whole" / "test.parquet").rename(tmp_path / "shards" / "data" / "test-00000-of-00001.parquet")
    assert cifar10.Config(holdout=0.1).load(str(tmp_path / "shards")).digest == data.digest


def test_cifar100_reads_fine_labels(tmp_path: Path) -> None:
    fine = [(7 * i) % 100 for i in range(100)]
    cifar_like(tmp_path, 100, {"fine_label": fine, "coarse_label": [0] * 100})
    write_parquet(tmp_path / "test.parquet", [png(random_pictures(1)[0])], {"fine_label": [99]})
    data = cifar100.Config().load(str(tmp_path))
    assert cifar100.Config().class_count() == len(set(data.classes)) == 100 and folder.Config().class_count() is None
    assert data.labels.tolist() == fine and list(data.classes) == sorted(data.classes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [10] + [0] * 39}, "train.parquet row 0: label is 10, not 0 to 9"),
        ({"label": [0, None] + [0] * 38}, "row 1: label is None"),
        ({"label": ["cat"] * 39 + ["wolf"]}, "train.parquet is not cifar10: its column "),
        ({"label": [0.0] * 40}, "column 'label' is double"),
        ({"coarse": [0] * 40}, "has no column 'label', only"),
    ],
)
def test_bad_labels(tmp_path: Path, columns: dict[str, list], message: str) -> None:
    cifar_like(tmp_path, columns=columns)
    refused(cifar10.Config(), tmp_path, message)


def test_bad_parquet(tmp_path: Path) -> None:
    cifar_like(tmp_path)
    whole = (tmp_path / "train.parquet").read_bytes()
    for kept in (0, 100, len(whole) // 2, len(whole) - 3):
        (tmp_path / "train.parquet").write_bytes(whole[:kept])
        refused(cifar10.Config(), tmp_path, "train.parquet is no whole Parquet file")
    (tmp_path / "train.parquet").write_bytes(whole[:1000] + bytes(3000) + whole[4000:])
    refused(cifar10.Config(), tmp_path, "train.parquet")
    (tmp_path / "train.parquet").rename(tmp_path / "train-00000-of-00002.parquet")
    refused(cifar10.Config(), tmp_path, "has 1 of 2 shards")
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    refused(cifar10.Config(), tmp_path, "has no train.parquet")
    refused(cifar10.Config(), tmp_path / "nowhere", "nowhere: no such folder; expected a folder with train.parquet")


def test_bad_pictures_in_parquet(tmp_path: Path) -> None:
    good = [png(p) for p in random_pictures(40)]
    cifar_like(tmp_path)
    bad = [None, b"", good[0][:200], png(random_pictures(1, 28)[0]), *good[4:]]
    write_parquet(tmp_path / "train.parquet", bad, {"label": [i % 10 for i in range(40)]})
    message = refused(cifar10.Config(), tmp_path, "4 of 40 pictures cannot be read: train.parquet row 0 (no bytes)")
    assert "row 1 (not a jpeg" in message and "row 2 (" in message and "row 3 (28x28 pixels, not 32x32)" in message
    data = cifar10.Config(skip_unreadable=True).load(str(tmp_path))
    assert data.labels.tolist() == [i % 10 for i in range(4, 40)] and data.notes[1].startswith("left out: 4 of 40")


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="no CIFAR-10 here: name its folder in DASGM_CIFAR10")
def test_the_real_cifar10() -> None:
    data = cifar10.Config(holdout=0.1).load(str(CIFAR10))
    assert [len(data.J1), len(data.J2), len(data.Jval), len(data.test_labels)] == [22_500, 22_500, 5_000, 10_000]
    for part in (data.J1, data.J2, data.Jval):
        assert data.labels[part].bincount().unique().numel() == 1
    x = data.images[:, :, ::2, ::2].float() / 255
    assert (x.mean((0, 2, 3)) - torch.tensor(data.mean)).abs().max() < 5e-3
    assert (x.std((0, 2, 3)) - torch.tensor(data.std)).abs().max() < 5e-3
