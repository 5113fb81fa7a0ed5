"""Data sets, splits and batched tensor work. `python tests/test_data.py PATH` writes the digits' Parquet."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from dasgm.data import cifar10, cifar100, digits, folder
from dasgm.data._base import DataConfig
from dasgm.data._images import Data
from dasgm.data._pictures import fitted
from dasgm.data._split import share, split

CIFAR10 = Path(os.environ.get("DASGM_CIFAR10") or Path(__file__).parents[2] / "shared" / "data" / "cifar10")
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


@pytest.fixture(scope="module")
def data() -> Data:
    return digits.Config(holdout=0.1, cutout=6).load(None)


# ---- splits


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


# ---- digits


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


# ---- tensor work


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


def test_augmentation_repeats_and_is_differentiable(data: Data) -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def augmented(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return data.augment(x, cutout=True)

    assert torch.equal(augmented(x), augmented(x)) and augmented(x).dtype == torch.float64
    assert torch.autograd.gradcheck(augmented, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(augmented, (x,))


# ---- CIFAR


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
        ({"label": ["cat"] * 39 + ["wolf"]}, "train.parquet is not cifar10: its classes"),
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
    refused(cifar10.Config(), tmp_path / "nowhere", "nowhere is no folder")


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


# ---- folders


def test_folder_of_classes(tmp_path: Path) -> None:
    pictures(tmp_path, {"dog": 30, "cat": 12})
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    data = folder.Config(holdout=0.1).load(str(tmp_path))
    assert data.classes == ("cat", "dog") and data.images.shape == (35, 3, 32, 32) and len(data.test_labels) == 7
    assert sorted(data.test_labels.bincount().tolist()) == [2, 5] and len(data.Jval) == 4
    assert "cat 12, dog 30" in data.notes[0] and "sixth" in data.notes[1]
    source = np.asarray(Image.open(tmp_path / "cat" / "00.png").resize((64, 32), Image.Resampling.BILINEAR))[:, 16:48]
    images = torch.cat([data.images, data.test_images]).permute(0, 2, 3, 1).numpy()
    assert (images == source).all((1, 2, 3)).sum() == 1


def test_folder_with_train_val_and_test(tmp_path: Path) -> None:
    for part, n in (("train", 20), ("val", 3), ("test", 4)):
        pictures(tmp_path / part, {"a": n, "b": n})
    data = folder.Config(holdout=0.1).load(str(tmp_path))
    assert [len(data.J1), len(data.J2), len(data.Jval), len(data.test_labels)] == [20, 20, 6, 8]
    assert data.Jval.tolist() == list(range(40, 46))
    data = folder.Config().load(str(tmp_path))
    assert len(data.labels) == 40 and len(data.Jval) == 0 and "not used" in data.notes[-1]
    pictures(tmp_path / "test", {"c": 1})
    refused(folder.Config(), tmp_path, "has classes that train/ lacks: c")


def test_every_kind_of_picture_becomes_rgb(tmp_path: Path) -> None:
    pictures(tmp_path, {"a": 10, "b": 10})
    red = Image.new("RGB", (40, 60), (255, 0, 0))
    clear = Image.new("RGBA", (40, 60), (0, 0, 0, 0))
    grey16 = Image.fromarray(np.full((40, 60), 128 * 257, dtype=np.uint16))
    upright = Image.new("RGB", (64, 32), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 32, 32))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    palette = red.quantize(4)
    clear_palette = Image.new("P", (40, 60), 0)
    clear_palette.putpalette([0, 0, 0, 9, 9, 9])
    kinds: dict[str, tuple[Image.Image, dict, tuple[int, int, int]]] = {
        "cmyk.JPG": (red.convert("CMYK"), {}, (254, 0, 0)),
        "grey.Jpeg": (Image.new("L", (40, 60), 100), {}, (100, 100, 100)),
        "palette.PNG": (palette, {}, (255, 0, 0)),
        "clear.png": (clear, {}, (255, 255, 255)),
        "clear_palette.png": (clear_palette, {"transparency": 0}, (255, 255, 255)),
        "grey_alpha.png": (Image.new("LA", (40, 60), (7, 0)), {}, (255, 255, 255)),
        "grey16.png": (grey16, {}, (128, 128, 128)),
        "bit.png": (Image.new("1", (40, 60), 1), {}, (255, 255, 255)),
        "large.webp": (red.resize((400, 900)), {"lossless": True}, (255, 0, 0)),
        "large.jpg": (red.resize((900, 400)), {}, (254, 0, 0)),
        "moving.gif": (red, {"save_all": True, "append_images": [Image.new("RGB", (40, 60), "blue")]}, (255, 0, 0)),
        "tiny.png": (red.resize((1, 1)), {}, (255, 0, 0)),
    }
    for name, (image, options, colour) in kinds.items():
        image.save(tmp_path / "a" / name, **options)
        pixels = np.frombuffer(fitted(tmp_path / "a" / name, 16), dtype=np.uint8).reshape(16, 16, 3)
        assert np.abs(pixels.astype(int) - colour).max() <= 2, name
    upright.save(tmp_path / "a" / "turned.jpg", exif=turned)
    pixels = np.frombuffer(fitted(tmp_path / "a" / "turned.jpg", 16), dtype=np.uint8).reshape(16, 16, 3)
    assert pixels[2, 8, 0] > 200 and pixels[13, 8, 2] > 200  # red above, blue below
    assert len(folder.Config(image_size=16).load(str(tmp_path)).labels) == 27  # of 33, a sixth set aside


def test_bad_folders(tmp_path: Path) -> None:
    refused(folder.Config(), None, "needs --data-dir")
    refused(folder.Config(), tmp_path / "nowhere", "is no folder")
    refused(folder.Config(), tmp_path, "has no class folders")
    pictures(tmp_path, {"a": 12, "b": 9, "c": 0})
    refused(folder.Config(), tmp_path, "at least 10 pictures, but b has 9, c has 0")
    pictures(tmp_path, {"b": 12, "c": 12})
    (tmp_path / "a" / "notes.txt").write_text("x")
    refused(folder.Config(), tmp_path, "notes.txt; convert or remove")
    (tmp_path / "a" / "notes.txt").unlink()
    whole = (tmp_path / "a" / "00.png").read_bytes()
    Image.fromarray(random_pictures(1, 300)[0]).save(tmp_path / "a" / "photo.jpg")
    photo = (tmp_path / "a" / "photo.jpg").read_bytes()
    (tmp_path / "a" / "photo.jpg").write_bytes(photo[: len(photo) // 2])
    (tmp_path / "a" / "00.png").write_bytes(whole[:-100])
    (tmp_path / "a" / "01.png").write_bytes(b"")
    message = refused(folder.Config(), tmp_path, "3 of 37 pictures cannot be read")
    assert "00.png (" in message and "01.png (not a jpeg" in message and "photo.jpg (" in message
    data = folder.Config(skip_unreadable=True).load(str(tmp_path))
    assert "left out: 3 of 37" in data.notes[1] and len(data.labels) + len(data.test_labels) == 34


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, {"a": 10, "b": 10})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    refused(folder.Config(), tmp_path, "20 of 20 pictures cannot be read")


# ---- settings


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


def refused(config: DataConfig, path: Path | None, message: str) -> str:
    """Loading raises a ValueError of one line that has `message` in it."""
    with pytest.raises(ValueError) as error:
        config.load(str(path) if path else None)
    text = str(error.value)
    assert message in text and "\n" not in text
    return text


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
