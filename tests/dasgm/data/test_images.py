"""Data sets, splits and batched tensor work. `python tests/test_data.py PATH` writes the digits' Parquet."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from dasgm.data import digits
from dasgm.data._base import DataConfig
from dasgm.data._images import Data
from dasgm.data._split import share, split


@pytest.fixture(scope="module")
def data() -> Data:
    return digits.Config(holdout=0.1, cutout=6).load(None)


def test_splits_are_disjoint_stratified_and_seeded() -> None:
    labels = torch.arange(10).repeat_interleave(torch.arange(100, 200, 10))[torch.randperm(1450)]
    state = torch.get_rng_state()
    parts = split(labels, DataConfig(holdout=0.1, weight_portion=0.6))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(1450))
    assert [len(part) for part in parts] == [783, 522, 145]
    for part, portion in zip(parts, (0.54, 0.36, 0.1), strict=True):
        expected = portion * labels.bincount()
        assert (labels[part].bincount(minlength=10) - expected).abs().max() < 2
    again = split(labels, DataConfig(holdout=0.1, weight_portion=0.6))
    other = split(labels, DataConfig(holdout=0.1, weight_portion=0.7, split_seed=1))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(parts, other, strict=True))


@pytest.mark.parametrize("portion", [0.0, 0.1, 1 / 6, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_every_class_gives_its_share_to_within_one(portion: float) -> None:
    labels = torch.arange(7).repeat(60)[:411]
    chosen, rest = share(labels, portion, torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([chosen, rest]).sort().values, torch.arange(411))
    assert (labels[chosen].bincount(minlength=7) - portion * labels.bincount()).abs().max() < 1


def test_limit_draws_a_stratified_part() -> None:
    labels = torch.arange(1000) % 10
    parts = split(labels, DataConfig(limit=200, holdout=0.1))
    assert [len(p) for p in parts] == [90, 90, 20]
    together = torch.cat(parts)
    assert len(together.unique()) == 200 and (labels[together].bincount() == 20).all()
    assert not torch.equal(together.sort().values, torch.arange(200))


def test_contiguous_split_is_the_original_codes() -> None:
    first, second, val = split(torch.zeros(50_000, dtype=torch.int64), DataConfig(split="contiguous"))
    assert torch.equal(first, torch.arange(25_000)) and torch.equal(second, torch.arange(25_000, 50_000))
    assert not len(val)


def test_digits_are_scikit_learns() -> None:
    source = load_digits()
    table = pq.read_table(Path(digits.__file__).with_name("digits.parquet"))
    assert table["label"].to_pylist() == source.target.tolist()
    for row, levels in zip(table["img"].to_pylist(), source.images, strict=True):
        image = Image.open(io.BytesIO(row["bytes"]))
        assert image.size == (8, 8) and np.array_equal(np.round(np.asarray(image) / 255 * 16), levels)
    assert b"CC BY 4.0" in table.schema.metadata[b"licence"]


def test_digits_as_given(data: Data) -> None:
    assert data.images.shape == (1497, 3, 16, 16) and data.images.dtype == torch.uint8
    assert data.test_images.shape == (300, 3, 16, 16)
    assert torch.equal(data.images[:, 0], data.images[:, 2])
    assert (data.test_labels.bincount() - 30).abs().max() <= 1
    assert [len(data.J1), len(data.J2), len(data.Jval)] == [674, 673, 150]
    assert digits.Config().class_count() == len(data.classes) == 10
    assert data.describe() == "digits: 10 classes, 16x16 pixels; images in J_1 674, J_2 673, J_val 150, test 300"
    enlarged = digits.Config(image_size=32, split_seed=1).load(None)
    assert enlarged.images.shape == (1497, 3, 32, 32) and torch.equal(enlarged.test_labels, data.test_labels)
    assert data.digest == digits.Config().load(None).digest != enlarged.digest


def test_normalisation(data: Data) -> None:
    assert data.raw(slice(0, 1497)).min() == -1 and data.raw(slice(0, 1497)).max() == 1
    x = data.to_classifier(data.raw(torch.cat([data.J1, data.J2])))
    assert x.mean().abs() < 1e-5 and (x.std() - 1).abs() < 1e-5
    mean, std = np.reshape(data.mean, (3, 1, 1)), np.reshape(data.std, (3, 1, 1))
    reference = (data.test_images[:5].numpy() / 255 - mean) / std
    np.testing.assert_allclose(data.to_classifier(data.test_raw(slice(0, 5))).numpy(), reference, atol=1e-5)
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(data.to_classifier, (x,))


def test_crop_takes_every_window_of_the_image_padded_with_black(data: Data) -> None:
    x = torch.randn(1, 3, 32, 32)
    black = -torch.tensor(data.mean) / torch.tensor(data.std)
    padded = black.view(1, 3, 1, 1).expand(1, 3, 40, 40).clone()
    padded[:, :, 4:-4, 4:-4] = x
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1).permute(0, 2, 3, 1, 4, 5).reshape(81, -1)
    cropped = data.crop(x.expand(2000, 3, 32, 32)).reshape(2000, -1)
    matches = torch.stack([(cropped == window).all(1) for window in windows])
    assert (matches.sum(0) == 1).all() and matches.any(1).all()  # each a window, no window left out


def test_flip_and_cutout(data: Data) -> None:
    torch.manual_seed(0)  # of 1,000 holes none is in the one corner that leaves 3 x 3 in 2 % of draws
    x = torch.randn(1000, 3, 16, 16)
    assert data.flip(x) is x  # digits
    cut = data.cutout(x)
    holes = (cut == 0).all(1)
    assert torch.equal(cut, x * ~holes[:, None])
    assert all(hole.any(0).sum() * hole.any(1).sum() == hole.sum() for hole in holes)  # rectangles
    sizes = holes.sum((1, 2))
    assert sizes.min() == 9 and sizes.max() == 36 and (sizes == 36).float().mean().sub((11 / 16) ** 2).abs() < 0.06
    data.flips = True
    try:
        flipped = data.flip(x)
    finally:
        data.flips = False
    same = (flipped == x).flatten(1).all(1)
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all() and 400 < mirrored.sum() < 600


def test_cutout_of_some_images(data: Data) -> None:
    """A quarter of them has the hole that all had; the draws of where it is are the same."""
    x = torch.randn(1000, 3, 16, 16)
    torch.manual_seed(0)
    all_cut = data.cutout(x)
    torch.manual_seed(0)
    some = data.cutout(x, lambda: 0.25)
    cut, whole = ((some == other).flatten(1).all(1) for other in (all_cut, x))
    assert (cut ^ whole).all() and 200 < cut.sum() < 300
    assert torch.equal(data.cutout(x, lambda: 0.0), x)


def test_augmentation_repeats_and_is_differentiable(data: Data) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def augmented(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return data.augment(x, cutout=True)

    assert torch.equal(augmented(x), augmented(x)) and augmented(x).dtype == torch.float64
    assert torch.autograd.gradcheck(augmented, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(augmented, (x,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 30}, "data.image_size is 30"),
        ({"weight_portion": 1.0}, "data.weight_portion is 1.0"),
        ({"holdout": 1.5}, "data.holdout is 1.5"),
        ({"split": "random"}, "data.split is 'random'"),
        ({"cutout": -1}, "data.cutout is -1"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_settings_need_no_torch() -> None:
    names = "digits, cifar10, cifar100, folder"
    code = f"import sys; from dasgm.data import {names}; assert not {{'torch', 'PIL', 'pyarrow'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
