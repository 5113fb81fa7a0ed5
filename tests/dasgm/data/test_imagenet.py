"""ImageNet as data: listings of both layouts, transforms, the order of batches, unreadable pictures, refusals."""

from __future__ import annotations

import colorsys
import io
import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT
from photographs import CLASSES, Pictures, encoded, write_shards
from PIL import Image
from scipy import stats
from torchvision.transforms.v2 import functional as F

from dasgm.data import imagenet
from dasgm.data._listing import listings
from dasgm.data._loader import Photographs
from dasgm.data._photographs import (
    MEAN,
    STD,
    centred,
    coloured,
    crop_box,
    cropped,
    decoded,
    jitter,
    normalised,
)


def test_folder_is_listed_by_class_and_name(root: Path, parts: dict[str, Pictures]) -> None:
    train, val = listings(str(root))
    for listing, part in ((train, "train"), (val, "val")):
        expected = [(c, file, picture) for c in CLASSES for file, picture in sorted(parts[part][c])]
        assert listing.classes == CLASSES and len(listing) == len(expected)
        assert [CLASSES[label] for label in listing.labels] == [c for c, _, _ in expected]
        assert [listing.source.name(i) for i in range(len(expected))] == [
            f"{root}/{part}/{c}/{file}" for c, file, _ in expected
        ]
        assert listing.source.read(range(len(expected))) == [picture for _, _, picture in expected]


@pytest.mark.parametrize(("shards", "group", "column"), [(1, 1000, "image"), (3, 4, "img"), (2, 1, "image")])
@pytest.mark.parametrize("below", ["", "data"])
def test_rows_of_parquet_are_the_folders_pictures(
    tmp_path: Path, parts: dict[str, Pictures], shards: int, group: int, column: str, below: str
) -> None:
    write_shards(tmp_path / below, shards, group, column, train=parts["train"], validation=parts["val"])
    for place in (str(tmp_path), tmp_path.as_uri()):  # a path, and what any pyarrow filesystem takes
        for listing, part in zip(listings(place), ("train", "val"), strict=True):
            expected = [picture for c in CLASSES for _, picture in parts[part][c]]
            assert listing.classes == CLASSES
            assert listing.labels.tolist() == [i for i, c in enumerate(CLASSES) for _ in parts[part][c]]
            backwards = list(range(len(expected)))[::-1]
            assert listing.source.read(backwards) == expected[::-1]
            names = [listing.source.name(i) for i in range(len(expected))]
            assert len(set(names)) == len(names) and names[0].endswith(".parquet row 0")
            size = -(-len(names) // shards)
            assert [int(name.rpartition(" row ")[2]) for name in names] == [i % size for i in range(len(names))]


def test_classes_without_metadata_are_numbers(tmp_path: Path, parts: dict[str, Pictures]) -> None:
    write_shards(tmp_path, named=False, **parts)
    assert listings(str(tmp_path))[0].classes == ("0", "1", "2")


def test_digest_is_of_what_is_listed_not_of_where(tmp_path: Path, root: Path, data: Photographs) -> None:
    there = Path(shutil.copytree(root, tmp_path / "elsewhere"))

    def digest() -> str:
        return imagenet.Config().photographs(str(there)).digest

    assert digest() == data.digest
    picture = there / "val" / CLASSES[0] / "zzz.png"
    picture.write_bytes(encoded(Image.new("RGB", (9, 9)), "PNG"))
    one = digest()
    picture.write_bytes(encoded(Image.new("RGB", (90, 90), "red"), "PNG"))
    assert len({data.digest, one, digest()}) == 3
    assert imagenet.Config(limit=12).photographs(str(root)).digest != data.digest


def test_limit_is_stratified(root: Path) -> None:
    train = imagenet.Config(limit=12).photographs(str(root)).train
    counts = np.bincount(train.labels[train.in_order()])
    assert len(train) == 12 and np.abs(counts - 12 / 23 * np.array([9, 8, 6])).max() < 1
    assert sorted(train.permuted(0, 0).tolist()) == train.in_order().tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_decoded_as_by_pillow(mode: str) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    picture = encoded(Image.fromarray(levels).resize((70, 50)).convert(mode))
    expected = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=int)
    assert np.abs(decoded(picture).permute(1, 2, 0).numpy() - expected).max() <= 1


def test_other_formats_whatever_the_name_and_turned_pictures() -> None:
    levels = np.random.default_rng(2).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    assert np.array_equal(decoded(encoded(image, "PNG")).permute(1, 2, 0), levels)
    assert np.array_equal(decoded(encoded(image, "WEBP", lossless=True)).permute(1, 2, 0), levels)
    moving = encoded(image.convert("P"), "GIF", save_all=True, append_images=[Image.new("P", (9, 7))])
    assert decoded(moving).shape == (3, 7, 9)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    assert decoded(encoded(image, exif=exif)).shape == (3, 9, 7)


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (112, 128), (32, 37)])
def test_evaluation_is_resize_and_centre_crop(size: int, shorter: int) -> None:
    levels = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(levels).resize((400, 300), Image.Resampling.BICUBIC)
    width = int(shorter * 400 / 300)
    left, top = round((width - size) / 2), round((shorter - size) / 2)
    expected = image.resize((width, shorter), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    found = centred(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), size)
    assert found.shape == (3, size, size) and found.dtype == torch.uint8
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected, dtype=int)).max() <= 2


@pytest.mark.parametrize("length", [15, 16, 40, 41, 20_000])
@pytest.mark.parametrize("upright", [False, True])
def test_a_line_is_resized_about_its_centre_in_little_memory(length: int, upright: bool) -> None:
    """1 x `length` pixels, black and then white from the middle on, of which 256 x 5,120,000 would take 4 GB."""
    line = torch.arange(length).ge(length // 2).byte().mul(255).expand(3, 1, length)
    found = centred(line.transpose(1, 2) if upright else line, 224).int()
    found = (found.transpose(1, 2) if upright else found)[0, 0]
    from_centre = (torch.arange(224) + 0.5 - 112) / 256  # white begins there, or 1/2 before
    expected = (255 * (from_centre + (1 if length % 2 else 0.5)).clamp(0, 1)).int()
    assert (found - expected).abs().max() <= 3


def test_normalisation() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    expected = (np.arange(256).reshape(16, 16) / 255 - np.array(MEAN).reshape(3, 1, 1)) / np.array(STD).reshape(3, 1, 1)
    assert MEAN == (0.485, 0.456, 0.406) and STD == (0.229, 0.224, 0.225)
    assert np.abs(normalised(pixels)[0].numpy() - expected).max() < 1e-6


def test_crops_are_those_of_inception() -> None:
    random, side = np.random.default_rng(4), 4000
    boxes = np.array([crop_box(side, side, random) for _ in range(4000)])
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all() and (top + height <= side).all() and (left + width <= side).all()
    share, ratio = height * width / side**2, np.log(width / height)
    assert share.min() > 0.0799 and np.abs(ratio).max() < math.log(4 / 3) + 1e-2
    # in a square every crop of at most 3/4 of the area fits, so among those nothing is rejected
    small = share < 0.75
    assert stats.kstest(share[small], stats.uniform(0.08, 0.67).cdf).pvalue > 1e-3
    assert stats.kstest(ratio[small], stats.uniform(-math.log(4 / 3), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    assert stats.kstest(top[small] / (side - height[small]), "uniform").pvalue > 1e-3
    assert crop_box(10, 5000, random) == (0, 2493, 10, 13)
    assert crop_box(5000, 10, random) == (2493, 0, 13, 10)


@pytest.mark.parametrize("length", [64, 65, 71])
@pytest.mark.parametrize("grey", [False, True])
def test_a_crop_is_that_of_the_whole_picture_though_it_is_decoded_at_less(length: int, grey: bool) -> None:
    """Of waves that are longer than what is left out."""
    y, x = np.mgrid[:length, : length + 30] / 20
    levels = 127 + 90 * np.stack([np.sin(x), np.cos(y), np.sin(x + y)], 2)
    whole = Image.fromarray(levels.astype(np.uint8)).convert("L" if grey else "RGB")
    picture, reduced = encoded(whole, quality=98, subsampling=0), Counter[int]()
    for seed in range(40):
        found = cropped(picture, 8, np.random.default_rng(seed)).permute(1, 2, 0).numpy()
        random = np.random.default_rng(seed)
        top, left, height, width = crop_box(whole.height, whole.width, random)
        crop = whole.convert("RGB").crop((left, top, left + width, top + height))
        expected = np.asarray(crop.resize((8, 8), Image.Resampling.BILINEAR), dtype=int)
        if random.random() < 0.5:
            expected = expected[:, ::-1]
        off = np.abs(found - expected)
        assert off.max() <= 12 and off.mean() < 3, (seed, off.max(), off.mean())
        reduced[int(math.log2(min(height, width) / 8))] += 1
    assert {1, 2} <= set(reduced)


def test_colours_are_changed_as_by_torchvision_whatever_the_batch() -> None:
    random = np.random.default_rng(8)
    levels = torch.from_numpy(random.integers(0, 256, (40, 3, 9, 8), dtype=np.uint8))
    levels[:, :, 0] = levels[:, :1, 0]  # greys
    draws = torch.stack([jitter(random) for _ in levels])
    found = coloured(levels.float(), draws)
    assert len(draws[:, 4:].unique(dim=0)) > 12
    steps = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    off = 0
    for image, some, one in zip(levels, draws, found, strict=True):
        assert torch.equal(coloured(image[None].float(), some[None])[0], one)
        for step in some[4:].int().tolist():
            image = steps[step](image, some[step].item())
        differs = (image - one).abs()
        off += int((differs > 0).sum())
        assert differs.max() <= 3  # a level of rounding, that later steps enlarge
    assert off < 0.01 * levels.numel()


def test_augmentation_of_one_colour_by_its_formulas() -> None:
    def grey(c: np.ndarray) -> float:
        return float(c @ (0.2989, 0.587, 0.114))

    rng = np.random.default_rng(5)
    for index in range(60):
        colour = rng.integers(30, 226, 3).astype(float)
        picture = encoded(Image.new("RGB", (40, 30), tuple(colour.astype(int))), "PNG")
        random, draws = np.random.default_rng((0, 0, index)), np.random.default_rng((0, 0, index))
        crop = cropped(picture, 8, random)
        (found,) = coloured(crop[None].float(), jitter(random)[None])
        assert found.shape == (3, 8, 8) and (found == found[:, :1, :1]).all()
        crop_box(30, 40, draws)
        draws.random()
        brightness, contrast, saturation = draws.uniform(0.6, 1.4, 3)
        hue = draws.uniform(-0.2, 0.2)
        for step in draws.permutation(4):
            if step == 0:
                colour = colour * brightness
            elif step == 1:
                colour = contrast * colour + (1 - contrast) * math.floor(grey(colour))
            elif step == 2:
                colour = saturation * colour + (1 - saturation) * grey(colour)
            else:
                h, s, v = colorsys.rgb_to_hsv(*(colour / 255))
                colour = 255 * np.array(colorsys.hsv_to_rgb((h + hue) % 1, s, v))
            colour = colour.clip(0, 255)
        assert np.abs(found[:, 0, 0].numpy() - colour).max() < 6, index  # rounded down up to four times


def test_half_are_mirrored() -> None:
    levels = np.zeros((32, 32, 3), dtype=np.uint8)
    levels[:, 16:] = 200
    picture = encoded(Image.fromarray(levels), "PNG")
    mirrored = sum(
        bool(x[..., 0].float().mean() > x[..., -1].float().mean())
        for x in (cropped(picture, 16, np.random.default_rng((1, i))) for i in range(300))
    )
    assert abs(mirrored - 150) < 4 * math.sqrt(300) / 2


def test_two_classes_out_of_a_photograph_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.imagenet_sample import two_classes

    for number in range(500):
        (tmp_path / "all" / f"n{number:08d}").mkdir(parents=True)
        picture = encoded(Image.new("RGB", (8, 8), (number % 256, number // 256, 9)), "JPEG")
        (tmp_path / "all" / f"n{number:08d}" / f"n{number:08d}_x.JPEG").write_bytes(picture)
    layouts = [listings(str(place)) for place in two_classes(tmp_path / "all", tmp_path / "out", 100)]
    for train, val in layouts:
        assert train.classes == ("animal", "other")
        assert np.bincount(train.labels).tolist() == [318, 82] and np.bincount(val.labels).tolist() == [80, 20]
    (folder, _), (shards, _) = layouts
    assert sorted(folder.source.read(range(400))) == sorted(shards.source.read(range(400)))  # type: ignore[type-var]
    assert {Path(folder.source.name(i)).name for i in range(318)} <= {f"n{n:08d}_x.JPEG" for n in range(398)}
    with pytest.raises(ValueError, match="WordNet"):
        two_classes(tmp_path / "out", tmp_path / "again")
