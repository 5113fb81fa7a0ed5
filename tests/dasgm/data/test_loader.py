"""The order of ImageNet's batches, the loader's processes, and pictures that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from listed import Recorder
from photographs import CLASSES, Pictures, digit_pictures, write_folder, write_shards
from scipy import stats
from torch import Tensor

from dasgm.data import _rows, imagenet
from dasgm.data._listing import listings
from dasgm.data._loader import BatchReader, Loader, Photographs, TorchLoader
from dasgm.data._photographs import centred, cropped, decoded, normalised


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("limit", [0, 17])
def test_in_training_no_image_comes_twice_and_less_than_a_global_batch_is_left_out(
    root: Path, workers: int, limit: int
) -> None:
    data = imagenet.Config(limit=limit).photographs(str(root))
    ranks = [Recorder(data, 2, 7, rank, workers) for rank in range(workers)]
    for epoch in (0, 1):
        batches = [loader.indices(epoch) for loader in ranks]
        assert {len(b) for b in batches} == {ranks[0].iterations}
        seen = [i for worker in batches for batch in worker for i in batch]
        assert len(set(seen)) == len(seen) and set(seen) <= set(data.train.in_order())
        assert 0 <= len(data.train) - len(seen) < 2 * workers


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_in_evaluation_each_image_counts_once(data: Photographs, workers: int) -> None:
    ranks = [list(TorchLoader(data, 3, rank=rank, workers=workers).testing()) for rank in range(workers)]
    assert len({len(batches) for batches in ranks}) == 1
    flat = [batch for batches in ranks for batch in batches]
    assert all(len(x) == len(y) == len(mask) == 3 and mask.dtype == torch.bool for x, y, mask in flat)
    found = Counter(
        (int(label), image.numpy().tobytes())
        for x, y, mask in flat
        for image, label in zip(x[mask], y[mask], strict=True)
    )
    listing = data.test
    expected = Counter(
        (int(label), normalised(centred(decoded(picture), 32)[None])[0].numpy().tobytes())
        for label, picture in zip(listing.labels, listing.source.read(range(len(listing))), strict=True)
    )
    assert found == expected and max(expected.values()) == 1


def test_order_depends_on_seed_and_epoch_alone(data: Photographs) -> None:
    first = Recorder(data, 6, 1).indices(4)
    assert Recorder(data, 6, 1).indices(4) == first  # a resume
    assert Recorder(data, 6, 1).indices(5) != first and Recorder(data, 6, 2).indices(4) != first
    three = [Recorder(data, 2, 1, rank, 3).indices(4) for rank in range(3)]
    assert [sum(parts, []) for parts in zip(*three, strict=True)] == first


def test_order_is_uniform(data: Photographs) -> None:
    n, epochs = len(data.train), 400
    first = Counter(int(data.train.permuted(3, epoch)[0]) for epoch in range(epochs))
    assert stats.chisquare([first[i] for i in range(n)]).pvalue > 1e-3


def test_rows_are_mixed_within_four_row_groups(tmp_path: Path) -> None:
    write_shards(tmp_path, 2, 5, train=digit_pictures((20, 20, 20)), val=digit_pictures((1, 1, 1)))
    train, _ = listings(str(tmp_path))
    order = train.permuted(0, 0)
    assert sorted(order.tolist()) == list(range(60)) and not np.array_equal(order, train.permuted(0, 1))
    windows = [set((order[i : i + 20] // 5).tolist()) for i in range(0, 60, 20)]
    assert all(len(groups) == 4 for groups in windows) and len(set.union(*windows)) == 12
    assert len(set((order[:10] // 5).tolist())) > 2


def test_a_small_row_group_is_read_once_for_all_batches_that_it_is_mixed_into(tmp_path, monkeypatch) -> None:
    write_shards(tmp_path, 2, 5, train=digit_pictures((20, 20, 20)), val=digit_pictures((1, 1, 1)))
    train, _ = listings(str(tmp_path))
    read, groups = pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda file, group, **more: groups.append(group) or read(file, group, **more)
    )
    batches = train.permuted(0, 0).reshape(-1, 4)
    found = [train.source.read(batch.tolist()) for batch in batches]
    assert len(groups) == 12 and all(picture for batch in found for picture in batch)
    monkeypatch.setattr(_rows, "KEPT", 4)
    assert [train.source.read(batch.tolist()) for batch in batches] == found and len(groups) > 24


def taken(loader: Loader, epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(loader.training(epoch))


def same(one: Sequence[tuple[Tensor, ...]], other: Sequence[tuple[Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_processes_change_nothing(data: Photographs) -> None:
    alone, shared = TorchLoader(data, 5, 3), TorchLoader(data, 5, 3, processes=2)
    batches = taken(alone, 2)
    x, y = batches[0]
    assert x.shape == (5, 3, 32, 32) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert same(batches, taken(shared, 2)) and same(list(alone.testing()), list(shared.testing()))
    assert not same(batches, taken(alone, 3)) and not same(batches, taken(TorchLoader(data, 5, 4), 2))


def test_processes_are_kept_and_make_one_epoch_at_a_time(data: Photographs) -> None:
    before = set(psutil.Process().children())
    loader = TorchLoader(data, 4, 3, processes=2)
    broken_off = loader.training(0)
    next(broken_off)
    kept = set(psutil.Process().children()) - before
    for epoch in (1, 0):
        assert same(taken(loader, epoch), taken(TorchLoader(data, 4, 3), epoch))
    assert set(psutil.Process().children()) - before == kept and len(kept) == 2
    with pytest.raises(RuntimeError, match="one epoch at a time"):
        next(broken_off)


@pytest.mark.slow
def test_processes_read_a_uri(root: Path, data: Photographs) -> None:
    there = imagenet.Config(image_size=32).photographs(root.as_uri())
    assert same(list(TorchLoader(there, 4, processes=1).testing()), list(TorchLoader(data, 4).testing()))


def test_an_images_draws_do_not_depend_on_its_company(data: Photographs) -> None:
    reader = BatchReader(data.train, 32, False, 3, 2)
    together, later = reader(np.arange(8)), replace(reader, epoch=3)(np.arange(8))
    for i in (5, 2):
        apart = reader(np.array([i]))
        for field in ("pixels", "draws"):
            one, other, another = (getattr(batch, field) for batch in (apart, together, later))
            assert torch.equal(one[0], other[i]) and not torch.equal(one[0], another[i])


def test_both_layouts_give_the_same_tensors(tmp_path: Path, parts: dict[str, Pictures], data: Photographs) -> None:
    shards = imagenet.Config(image_size=32).photographs(
        str(write_shards(tmp_path, 2, 4, train=parts["train"], validation=parts["val"]))
    )
    assert same(list(TorchLoader(data, 4).testing()), list(TorchLoader(shards, 4).testing()))
    pixels = [BatchReader(d.train, 32, False, 0, 0)(np.arange(23))[0] for d in (data, shards)]
    assert torch.equal(*pixels)


@pytest.fixture(params=["truncated", "text", "empty"])
def broken(request: pytest.FixtureRequest, tmp_path: Path, parts: dict[str, Pictures]) -> Path:
    """The first of each class in both parts cannot be read; and of class 3 the last one."""
    write_folder(tmp_path, **parts)
    for part in ("train", "val"):
        for file in sorted((tmp_path / part / CLASSES[0]).iterdir())[:2]:
            whole = file.read_bytes()
            file.write_bytes(
                {"truncated": whole[: len(whole) // 2], "text": b"no picture", "empty": b""}[request.param]
            )
    last = sorted((tmp_path / "train" / CLASSES[2]).iterdir())[-1]
    last.write_bytes(b"")
    return tmp_path


def test_unreadable_picture_is_named_and_ends_it(broken: Path) -> None:
    data = imagenet.Config(image_size=16).photographs(str(broken))
    for take in (lambda: list(TorchLoader(data, 4).testing()), lambda: taken(TorchLoader(data, 23, processes=1))):
        with pytest.raises(ValueError, match=r"_(0000|0022|0001|0100)\.JPEG \(.+\) cannot be read") as error:
            take()
        assert len(str(error.value).splitlines()) == 1 and "--data.skip-unreadable" in str(error.value)
        assert ".cpp" not in str(error.value) and "If you know" not in str(error.value)


def test_skipped_pictures_are_replaced_in_training_and_masked_in_evaluation(broken: Path) -> None:
    data = imagenet.Config(image_size=16, skip_unreadable=True).photographs(str(broken))
    loader = TorchLoader(data, 4)
    tested = list(loader.testing())
    assert sum(int(mask.sum()) for _, _, mask in tested) == 11 - 2 and len(loader.unreadable) == 2
    assert not tested[0][2][:2].any() and tested[0][2][2:].all()

    pixels, labels, _, wrong = BatchReader(data.train, 16, True, 5, 6)(np.arange(23))
    assert [i for i, line in enumerate(wrong) if line] == [0, 1, 22]
    assert labels.tolist() == [0, 0, *data.train.labels[2:22], 0]  # the next readable; after the last comes the first
    replacement = data.train.source.read([2])[0]
    for index in (0, 1, 22):
        expected = cropped(replacement, 16, np.random.default_rng((5, 6, 1 + index)))
        assert torch.equal(pixels[index], expected)
    loader = TorchLoader(data, 23, processes=1)
    (x, y), *_ = taken(loader)
    assert len(loader.unreadable) == 3 and len(y) == 23 and x.isfinite().all()
    taken(loader)
    assert len(loader.unreadable) == 3


def test_a_file_that_went_away_is_named(tmp_path: Path, parts: dict[str, Pictures]) -> None:
    data = imagenet.Config().photographs(str(write_folder(tmp_path, **parts)))
    (tmp_path / "val" / CLASSES[1] / parts["val"][CLASSES[1]][0][0]).unlink()
    with pytest.raises(ValueError, match=parts["val"][CLASSES[1]][0][0]):
        list(TorchLoader(data, 4).testing())


def test_no_bytes_in_parquet_are_named_by_row(tmp_path: Path, parts: dict[str, Pictures]) -> None:
    parts = {"train": parts["train"], "val": {**parts["val"], CLASSES[1]: [("a.JPEG", None)]}}  # type: ignore[dict-item]
    data = imagenet.Config().photographs(str(write_shards(tmp_path, 2, 2, **parts)))
    with pytest.raises(ValueError, match=r"val-00000-of-00002\.parquet row 4 \(no bytes\)"):
        list(TorchLoader(data, 3).testing())
