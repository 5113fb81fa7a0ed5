"""A folder with a folder for each class: the parts, kinds of pictures, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import pictures, random_pictures, refused
from PIL import Image

from dasgm.data import folder
from dasgm.data._pictures import fitted


def test_folder_of_classes(tmp_path: Path) -> None:
    pictures(tmp_path, {"dog": 30, "cat": 12})
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    data = folder.Config(holdout=0.1).load(str(tmp_path))
    assert data.classes == ("cat", "dog") and data.images.shape == (35, 3, 32, 32) and len(data.test_labels) == 7
    assert sorted(data.test_labels.bincount().tolist()) == [2, 5] and len(data.Jval) == 4
    assert "cat 12, dog 30" in data.notes[0] and "ignored" in data.notes[1] and "sixth" in data.notes[2]
    notes = data.fold(1, 3, 0).notes  # where no such set is held out, and all else stays true
    assert notes == tuple(note for note in data.notes if "sixth" not in note) and len(notes) == len(data.notes) - 1
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
    refused(
        folder.Config(),
        tmp_path / "nowhere",
        "nowhere: no such folder; expected a folder with one subfolder of pictures per class",
    )
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
