"""ImageNet as data: listings of both layouts, transforms, the order of batches, unreadable pictures, refusals."""

from __future__ import annotations

import colorsys
import importlib
import io
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from photographs import CLASSES, Pictures, both_parts, digit_pictures, encoded, write_folder, write_shards
from PIL import Image
from scipy import stats
from torch import Tensor

from dasgm.cli import main as cli
from dasgm.config import keys, override
from dasgm.data import _rows, imagenet
from dasgm.data._listing import listings
from dasgm.data._loader import Loader, Photographs, Recipe, TorchLoader
from dasgm.data._photographs import MEAN, STD, augmented, centred, crop_box, decoded, normalised
from dasgm.presets import preset, with_dataset


@pytest.fixture(scope="module")
def parts() -> dict[str, Pictures]:
    return both_parts()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Pictures]) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder"), **parts)


@pytest.fixture(scope="module")
def data(root: Path) -> Photographs:
    return imagenet.Config(image_size=32).photographs(str(root))


class Recorder(Loader):
    """Keeps the indices that a batch would be made of."""

    def _stream(self, recipe: Recipe, batches: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        for indices in batches:
            yield torch.zeros(len(indices), 3, 2, 2), torch.from_numpy(indices), []

    def indices(self, epoch: int) -> list[list[int]]:
        return [y.tolist() for _, y in self.training(epoch)]


# ---- listings


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


# ---- pictures


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


def test_augmentation_of_one_colour_by_its_formulas() -> None:
    def grey(c: np.ndarray) -> float:
        return float(c @ (0.2989, 0.587, 0.114))

    rng = np.random.default_rng(5)
    for index in range(60):
        colour = rng.integers(30, 226, 3).astype(float)
        image = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, 30, 40)
        found = augmented(image, 8, np.random.default_rng((0, 0, index)))
        assert found.shape == (3, 8, 8) and (found == found[:, :1, :1]).all()
        draws = np.random.default_rng((0, 0, index))
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
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 200
    mirrored = sum(
        bool(x[..., 0].float().mean() > x[..., -1].float().mean())
        for x in (augmented(image, 16, np.random.default_rng((1, i))) for i in range(300))
    )
    assert abs(mirrored - 150) < 4 * math.sqrt(300) / 2


# ---- order


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


# ---- loaders


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


@pytest.mark.slow
def test_processes_read_a_uri(root: Path, data: Photographs) -> None:
    there = imagenet.Config(image_size=32).photographs(root.as_uri())
    assert same(list(TorchLoader(there, 4, processes=1).testing()), list(TorchLoader(data, 4).testing()))


def test_an_images_draws_do_not_depend_on_its_company(data: Photographs) -> None:
    recipe = Recipe(data.train, 32, False, 3, 2)
    together, _, _ = recipe(np.arange(8))
    apart = torch.cat([recipe(np.array([i]))[0] for i in (5, 2)])
    assert torch.equal(together[[5, 2]], apart)
    assert not torch.equal(apart, torch.cat([replace(recipe, epoch=3)(np.array([i]))[0] for i in (5, 2)]))


def test_both_layouts_give_the_same_tensors(tmp_path: Path, parts: dict[str, Pictures], data: Photographs) -> None:
    shards = imagenet.Config(image_size=32).photographs(
        str(write_shards(tmp_path, 2, 4, train=parts["train"], validation=parts["val"]))
    )
    assert same(list(TorchLoader(data, 4).testing()), list(TorchLoader(shards, 4).testing()))
    pixels = [Recipe(d.train, 32, False, 0, 0)(np.arange(23))[0] for d in (data, shards)]
    assert torch.equal(*pixels)


# ---- unreadable pictures


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

    pixels, labels, wrong = Recipe(data.train, 16, True, 5, 6)(np.arange(23))
    assert [i for i, line in enumerate(wrong) if line] == [0, 1, 22]
    assert labels.tolist() == [0, 0, *data.train.labels[2:22], 0]  # the next readable; after the last comes the first
    replacement = decoded(data.train.source.read([2])[0])
    for index in (0, 1, 22):
        expected = augmented(replacement, 16, np.random.default_rng((5, 6, 1 + index)))
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


# ---- refusals


def without_val(root: Path) -> None:
    shutil.rmtree(root / "val")


def empty_class(root: Path) -> None:
    (root / "train" / "n99999999").mkdir()


def empty_in_val(root: Path) -> None:
    for file in (root / "val" / CLASSES[1]).iterdir():
        file.unlink()


def stranger(root: Path) -> None:
    (root / "val" / CLASSES[1]).rename(root / "val" / "n77777777")


def stray(root: Path) -> None:
    (root / "train" / CLASSES[1] / "notes.txt").write_text("-")


def loose(root: Path) -> None:
    (root / "train" / "a.JPEG").write_bytes(b"-")


def one_class(root: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(root / "train" / name)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_val, "no val/"),
        (empty_class, "n99999999"),
        (empty_in_val, CLASSES[1]),
        (stranger, "n77777777"),
        (stray, "notes.txt"),
        (loose, "a.JPEG"),
        (one_class, "one class folder"),
        (shutil.rmtree, "is no folder"),
    ],
)
def test_wrong_folders_are_refused_in_one_line(
    tmp_path: Path, parts: dict[str, Pictures], spoil: Callable[[Path], None], says: str
) -> None:
    spoil(write_folder(tmp_path / "there", **parts))
    refused(tmp_path / "there", says)


def test_hidden_files_are_ignored(tmp_path: Path, root: Path, data: Photographs) -> None:
    there = Path(shutil.copytree(root, tmp_path / "there"))
    (there / "train" / ".DS_Store").write_text("-")
    (there / "train" / CLASSES[0] / "Thumbs.db").write_text("-")
    (there / "val" / ".cache").mkdir()
    assert imagenet.Config().photographs(str(there)).digest == data.digest


def refused(root: Path | str | None, says: str) -> None:
    with pytest.raises(ValueError) as error:
        imagenet.Config().photographs(None if root is None else str(root))
    assert says in str(error.value) and len(str(error.value).splitlines()) == 1, error.value


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def relabelled(labels: Callable[[list[int]], list[int | str | None]]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(1, "label", pa.array(labels(table["label"].to_pylist())))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (relabelled(lambda labels: [*labels[:-1], 3]), "row 10: label is 3, not 0 to 2"),
        (relabelled(lambda labels: [-1] * len(labels)), "label is -1"),
        (relabelled(lambda labels: [1 if label == 2 else label for label in labels]), CLASSES[2]),
        (relabelled(lambda labels: [None, *labels[1:]]), "1 nulls"),
        (relabelled(lambda labels: [str(label) for label in labels]), "the training files lack: 0, 1, 2;"),
        (lambda table: table.rename_columns(["image", "klass"]), "'label'"),
        (lambda table: table.rename_columns(["picture", "label"]), "'image' or 'img'"),
        (lambda table: pa.table({"image": pa.array([[1]] * len(table)), "label": table["label"]}), "{bytes, path}"),
        (lambda table: pa.table({"image": pa.array([b"x"] * len(table)), "label": table["label"]}), "no picture"),
    ],
)
def test_wrong_parquet_is_refused_in_one_line(
    tmp_path: Path, parts: dict[str, Pictures], change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    write_shards(tmp_path, **parts)
    rewrite(tmp_path / "val.parquet", change)
    refused(tmp_path, says)


def test_missing_and_broken_shards_are_refused(tmp_path: Path, parts: dict[str, Pictures]) -> None:
    write_shards(tmp_path, 3, train=parts["train"], validation=parts["val"])
    (tmp_path / "validation-00001-of-00003.parquet").rename(tmp_path / "elsewhere")
    refused(tmp_path, "2 of 3 shards")
    (tmp_path / "validation-00001-of-00003.parquet").write_bytes(b"PAR1")
    refused(tmp_path, "no whole Parquet file")
    for shard in tmp_path.glob("validation-*"):
        shard.unlink()
    refused(tmp_path, "no validation*.parquet")


def test_large_row_groups_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: dict[str, Pictures]
) -> None:
    monkeypatch.setattr("dasgm.data._listing.LARGE", 10)
    *_, note = imagenet.Config().photographs(str(write_shards(tmp_path, **parts))).train.notes
    assert "row groups of up to 23 rows" in note


def test_no_place_is_refused() -> None:
    refused(None, "--data-dir")
    refused("nowhere", "nowhere")
    refused("nothing://bucket/prefix", "nothing://bucket/prefix")


@pytest.mark.parametrize(
    "wrong",
    [{"image_size": 8}, {"image_size": 2000}, {"limit": -1}, {"cutout": 16}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"data.{next(iter(wrong))}"):
        imagenet.Config(**wrong)


def test_too_large_a_batch_is_refused(data: Photographs) -> None:
    with pytest.raises(ValueError, match="lower --batch-size"):
        TorchLoader(data, 12, workers=2)
    with pytest.raises(ValueError, match="processes"):
        TorchLoader(data, 2, processes=-1)


def test_a_search_on_it_is_refused_in_one_line(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "imagenet" in keys("data") and imagenet.Config().class_count() is None
    config = with_dataset(preset("quickstart").config, "imagenet")
    assert override(config, {"data.image_size": 224}).data.image_size == 224
    monkeypatch.chdir(tmp_path)
    words = ["search", "--dataset", "imagenet", "--data-dir", str(root), "--storage", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "search on cifar10" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# ---- benchmarks, and the two classes of the demonstration


@pytest.mark.parametrize("name", [path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py")])
def test_benchmarks_find_what_they_measure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    assert callable(importlib.import_module(name).main)


def test_two_classes_out_of_a_photograph_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from imagenet_sample import two_classes

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
