"""Small pictures of every kind that people have, with the pixels that each must show.

`python tests/tools/gallery.py OUTPUT.png` draws them all as a search, training, the test and predict see them.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from formats import chunk, exif, gif, jpeg, moving_webp, png, raw_profile, saved, segment, xmp
from PIL import Image, ImageCms, ImageDraw

from dasgm.data import folder, imagenet
from dasgm.data._loader import BatchReader
from dasgm.data._pictures import shorter_side
from dasgm.model import Model
from dasgm.spaces.darts import KNOWN

SIZE = 32  # to which all ways bring a picture
BLOCK = 16  # pixels: a JPEG's 8x8 blocks are then of one colour, and rounding is all that it loses
COLOURS = [[(220, 40, 40), (40, 180, 60), (50, 70, 210)], [(240, 200, 50), (120, 60, 150), (30, 30, 40)]]
SIXTEEN = [[0, 85, 170], [255, 51, 204]]  # levels of grey that 4 bits hold
JPEG_ROUNDING = 3  # levels: of the DCT's constant term, of YCbCr and back
ALPHA_ROUNDING = 1


@dataclass(frozen=True)
class Piece:
    """A file, and what it shows: uint8 [H, W, 3], to within `rounding` levels."""

    name: str
    content: bytes
    shows: np.ndarray
    rounding: int = 0


def blocks(values: object, size: int = BLOCK) -> np.ndarray:
    """uint8 [rows * size, columns * size, ...]: a square for each value."""
    return np.asarray(values, dtype=np.uint8).repeat(size, 0).repeat(size, 1)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, -1)


def whitened(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`picture` on white, by the definition of alpha."""
    share = alpha[..., None] / 255
    return (picture * share + 255 * (1 - share)).round().astype(np.uint8)


def stored(shown: np.ndarray, orientation: int) -> np.ndarray:
    """What a file of this orientation holds, by EXIF's table of where its first row and first column belong."""
    if orientation in (2, 3, 6, 7):  # a first row or column at the right
        shown = shown[:, ::-1]
    if orientation in (3, 4, 7, 8):  # at the bottom
        shown = shown[::-1]
    return shown.swapaxes(0, 1) if orientation >= 5 else shown


# ---- what there is


def pieces() -> list[Piece]:
    return [*photographs(), *turned(), *transparent(), *depths(), *profiles(), *animated(), *odd()]


def photographs() -> Iterator[Piece]:
    shown, grey = blocks(COLOURS), blocks(SIXTEEN)
    yield Piece("plain.jpg", jpeg(shown), shown, JPEG_ROUNDING)
    yield Piece("progressive.jpg", jpeg(shown, progressive=True), shown, JPEG_ROUNDING)
    yield Piece("grey.jpg", jpeg(grey), rgb(grey), JPEG_ROUNDING)
    yield Piece("subsampled.jpg", jpeg(rgb(grey), subsampling=2), rgb(grey), JPEG_ROUNDING)
    large = blocks(COLOURS, 320)  # a search reads it reduced
    yield Piece("large.jpg", jpeg(large), large, JPEG_ROUNDING)
    yield Piece("large_turned.jpg", segment(jpeg(stored(large, 6)), 0xE1, b"Exif\0\0" + exif(6)), large, JPEG_ROUNDING)
    inks = np.concatenate([255 - shown, np.zeros_like(shown[..., :1])], -1)
    adobe = jpeg(Image.frombytes("CMYK", (48, 32), inks.tobytes()))
    yield Piece("cmyk_adobe.jpg", adobe, shown, JPEG_ROUNDING)
    at = adobe.index(b"\xff\xee\0\x0eAdobe")  # without its name it is read as Adobe's all the same, as by browsers
    yield Piece("cmyk.jpg", adobe[:at] + adobe[at + 16 :], shown, JPEG_ROUNDING)
    ycc = np.asarray(Image.fromarray(255 - shown).convert("YCbCr"))
    ycck = jpeg(Image.frombytes("CMYK", (48, 32), np.concatenate([255 - ycc, inks[..., 3:]], -1).tobytes()))
    at = ycck.index(b"Adobe") + 11  # the transform: from "none" to YCCK
    yield Piece("ycck.jpg", ycck[:at] + b"\x02" + ycck[at + 1 :], shown, JPEG_ROUNDING + 1)
    both = saved(shown, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32))], quality=95, subsampling=0)
    yield Piece("phone_mpo.jpg", both, shown, JPEG_ROUNDING)
    yield Piece("lossless.webp", saved(shown, "WEBP", lossless=True), shown)


def turned() -> Iterator[Piece]:
    shown = blocks(COLOURS)
    files = {turn: jpeg(stored(shown, turn)) for turn in range(1, 9)}
    for turn in range(2, 9):
        order = "<>"[turn % 2]
        yield Piece(f"exif_{turn}.jpg", segment(files[turn], 0xE1, b"Exif\0\0" + exif(turn, order)), shown, 3)
    fraction = struct.pack("<HHIIii", 0x011A, 10, 1, 38, 0, 0)[:12]
    broken = {
        "exif_fraction": exif(6, more=[fraction]) + struct.pack("<ii", -1, 0),  # -1/0
        "exif_resolution": exif(6, more=[struct.pack("<HHII", 0x011A, 7, 1, 0), struct.pack("<HHII", 0x0128, 3, 1, 2)]),
        "exif_cut_short": exif(6, entries=100)[:-4],
        "exif_long": exif(6, kind=4),
        "exif_far": exif(6, more=[struct.pack("<HHII", 0x010F, 2, 900, 2**31)]),
    }
    for name, content in broken.items():
        yield Piece(f"{name}.jpg", segment(files[6], 0xE1, b"Exif\0\0" + content), shown, 3)
    upright = {"exif_0": exif(0), "exif_9": exif(9), "exif_none": b"", "exif_no_tiff": b"not a TIFF directory at all"}
    upright["exif_byte"] = exif(6, kind=1)  # not EXIF's type
    for name, content in upright.items():
        yield Piece(f"{name}.jpg", segment(files[1], 0xE1, b"Exif\0\0" + content), shown, 3)
    yield Piece("exif_misnamed.jpg", segment(files[1], 0xE1, b"Exif\0\xff" + exif(6)), shown, 3)
    twice = segment(files[1], 0xE1, b"Exif\0\0" + exif(6))
    yield Piece("exif_twice.jpg", segment(twice, 0xE1, b"Exif\0\0" + exif(1)), shown, 3)
    said = {"attribute": 'tiff:Orientation="8"/>', "quoted": "tiff:Orientation='8'/>"}
    said["element"] = "><tiff:Orientation>8</tiff:Orientation></rdf:Description>"
    for name, text in said.items():
        content = segment(files[8], 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(text))
        yield Piece(f"xmp_{name}.jpg", content, shown, 3)
    content = segment(files[6], 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(said["attribute"]))
    yield Piece("exif_over_xmp.jpg", segment(content, 0xE1, b"Exif\0\0" + exif(6)), shown, 3)
    six, eight = stored(shown, 6), stored(shown, 8)
    yield Piece("exif.png", png(six, 8, 2, chunk(b"eXIf", exif(6))), shown)
    yield Piece("exif_last.png", png(six, 8, 2, after=chunk(b"eXIf", exif(6))), shown)
    yield Piece("exif_text.png", png(six, 8, 2, raw_profile("exif", b"Exif\0\0" + exif(6))), shown)
    yield Piece("exif_app1.png", png(six, 8, 2, raw_profile("APP1", b"Exif\0\0" + exif(6))), shown)
    itxt = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(said["attribute"]))
    yield Piece("xmp.png", png(eight, 8, 2, itxt), shown)
    yield Piece("exif.webp", saved(six, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(6)), shown)
    yield Piece("xmp.webp", saved(eight, "WEBP", lossless=True, xmp=xmp(said["attribute"])), shown)


def transparent() -> Iterator[Piece]:
    """The first square is transparent, the last half so; what lies below has a colour of its own."""
    colours, grey, alpha = blocks(COLOURS), blocks(SIXTEEN), blocks([[0, 255, 255], [255, 255, 128]])
    rgba, la = np.dstack([colours, alpha]), np.dstack([grey, alpha])
    shown, keyed = whitened(colours, alpha), whitened(colours, blocks([[0, 255, 255], [255, 255, 255]]))
    yield Piece("rgba.png", png(rgba, 8, 6), shown, ALPHA_ROUNDING)
    yield Piece("rgba_16.png", png(rgba.astype(int) * 257, 16, 6), shown, ALPHA_ROUNDING)
    yield Piece("grey_alpha.png", png(la, 8, 4), whitened(rgb(grey), alpha), ALPHA_ROUNDING)
    yield Piece("grey_alpha_16.png", png(la.astype(int) * 257, 16, 4), whitened(rgb(grey), alpha), ALPHA_ROUNDING)
    indices, table = blocks([[0, 1, 2], [3, 4, 5]]), np.uint8(COLOURS).tobytes()
    palette = chunk(b"PLTE", table)
    yield Piece("palette_alpha.png", png(indices, 4, 3, palette, chunk(b"tRNS", b"\0\xff\xff\xff\xff\x80")), shown, 1)
    yield Piece("palette_key.png", png(indices, 8, 3, palette, chunk(b"tRNS", b"\0")), keyed)
    key = chunk(b"tRNS", struct.pack(">HHH", *COLOURS[0][0]))
    yield Piece("rgb_key.png", png(colours, 8, 2, key), keyed)
    key = chunk(b"tRNS", struct.pack(">HHH", *(257 * level for level in COLOURS[0][0])))
    yield Piece("rgb_key_16.png", png(colours.astype(int) * 257, 16, 2, key), keyed)
    for depth, levels, hidden in ((1, [[1, 0, 0], [0, 0, 0]], 1), (2, [[0, 1, 2], [3, 1, 2]], 1), (4, None, 3)):
        values = blocks(levels) if levels else grey // 17
        clear = (values == hidden) * 255
        known = whitened(rgb(values * (255 // (2**depth - 1))), 255 - clear)
        yield Piece(f"grey_key_{depth}.png", png(values, depth, 0, chunk(b"tRNS", struct.pack(">H", hidden))), known)
    known = whitened(rgb(grey), (grey != 85) * 255)
    yield Piece("grey_key_8.png", png(grey, 8, 0, chunk(b"tRNS", struct.pack(">H", 85))), known)
    key = chunk(b"tRNS", struct.pack(">H", 85 * 257))
    yield Piece("grey_key_16.png", png(grey.astype(int) * 257, 16, 0, key), known, 1)
    yield Piece("alpha.webp", saved(rgba, "WEBP", lossless=True, exact=True), shown, ALPHA_ROUNDING)
    colours_of = [colour for row in COLOURS for colour in row]
    yield Piece("transparent.gif", gif((48, 32), colours_of, [(0, 0, indices, 0, 0)]), keyed)


def depths() -> Iterator[Piece]:
    colours, grey, indices = blocks(COLOURS), blocks(SIXTEEN), blocks([[0, 1, 2], [3, 4, 5]])
    yield Piece("rgb.png", png(colours, 8, 2), colours)
    yield Piece("interlaced.png", png(colours, 8, 2, interlaced=True), colours)
    yield Piece("rgb_16.png", png(colours.astype(int) * 257, 16, 2), colours)
    yield Piece("grey_16.png", png(grey.astype(int) * 257, 16, 0), rgb(grey), 1)
    for depth in (1, 2, 4, 8):
        levels = grey // 17 >> max(0, 4 - depth) if depth < 8 else grey
        yield Piece(f"grey_{depth}.png", png(levels, depth, 0), rgb(levels * (255 // (2**depth - 1))))
        some = indices % min(6, 2**depth)
        palette = chunk(b"PLTE", np.uint8(COLOURS).tobytes()[: 3 * 2**depth])
        yield Piece(f"palette_{depth}.png", png(some, depth, 3, palette), np.uint8(COLOURS).reshape(6, 3)[some])


def profiles() -> Iterator[Piece]:
    """Profiles are not applied, here one that would exchange red and blue, and one that is none."""
    shown = blocks(COLOURS)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"?XYZ", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"?XYZ", b"bXYZ", 1)
    for name, content in (("srgb", profile), ("swapped", swapped), ("broken", b"no profile" * 20)):
        yield Piece(f"icc_{name}.jpg", jpeg(shown, icc_profile=content), shown, JPEG_ROUNDING)
    yield Piece("icc_swapped.png", png(shown, 8, 2, chunk(b"iCCP", b"x\0\0" + zlib.compress(swapped))), shown)
    yield Piece("icc_broken.png", png(shown, 8, 2, chunk(b"iCCP", b"x\0\0" + b"not compressed")), shown)
    yield Piece("gamma.png", png(shown, 8, 2, chunk(b"gAMA", struct.pack(">I", 100_000))), shown)
    yield Piece("icc_swapped.webp", saved(shown, "WEBP", lossless=True, icc_profile=swapped), shown)


def animated() -> Iterator[Piece]:
    """The first frame counts, at its place on the screen."""
    shown, other = blocks(COLOURS), Image.new("RGB", (48, 32), (9, 200, 200))
    for kind in ("PNG", "WEBP"):
        content = saved(shown, kind, save_all=True, append_images=[other], lossless=True, duration=100)
        yield Piece(f"moving.{kind.lower()}", content, shown)
    palette = [colour for row in COLOURS for colour in row]
    indices, second = blocks([[0, 1, 2], [3, 4, 5]]), np.full((32, 48), 4, dtype=np.uint8)
    for disposal in (1, 2, 3):
        frames = [(0, 0, indices, None, disposal), (0, 0, second, None, 0)]
        yield Piece(f"moving_{disposal}.gif", gif((48, 32), palette, frames), shown)
    part, placed = shown[:16, :32], np.full_like(shown, 255)
    placed[16:, 16:] = part
    yield Piece("placed.gif", gif((48, 32), palette, [(16, 16, indices[:16, :32], 5, 0)]), placed)
    yield Piece("placed.webp", moving_webp((48, 32), 16, 16, part), placed)


def odd() -> Iterator[Piece]:
    shown = blocks(COLOURS)
    yield Piece("tiny.png", png(shown[:1, :1], 8, 2), shown[:1, :1])
    yield Piece("tiny.jpg", jpeg(shown[:1, :1]), shown[:1, :1], JPEG_ROUNDING)
    yield Piece("narrow.png", png(shown[:, :1], 8, 2), shown[:, :1])
    yield Piece("png_within.jpg", png(np.dstack([shown, blocks([[0, 255, 255]] * 2)]), 8, 6),
                whitened(shown, blocks([[0, 255, 255]] * 2)))  # fmt: skip
    yield Piece("jpeg_within.png", jpeg(shown), shown, JPEG_ROUNDING)
    yield Piece("trailing.jpg", jpeg(shown) + b"more" * 50, shown, JPEG_ROUNDING)
    yield Piece("trailing.png", png(shown, 8, 2) + b"more" * 50, shown)


def unreadable() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    files = {kind: saved(noise, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF")}
    found = {f"half.{kind.lower()}": content[: len(content) // 2] for kind, content in files.items()}
    wrong = bytearray(files["PNG"])
    wrong[-30] ^= 1  # its checksum is wrong then
    return found | {
        "no_end.jpg": files["JPEG"][:-2],
        "progressive_no_end.jpg": saved(noise, "JPEG", progressive=True)[:-2],
        "checksum.png": bytes(wrong),
        "two_starts.jpg": files["JPEG"][:1500] + b"\xff\xd8" * 20 + files["JPEG"][1540:],
        "bitmap.jpg": saved(noise, "BMP"),
        "text.jpg": b"no picture",
        "empty.png": b"",
    }


# ---- who sees them


def write(root: Path, files: dict[str, bytes]) -> list[Path]:
    """As `root`/PART/a and b, for `--dataset folder` and imagenet; the paths of those to train on, in order."""
    names = list(files)
    for part in ("train", "val", "test"):
        paths = [root / part / "ab"[2 * i // len(names)] / f"{i:03d}_{name}" for i, name in enumerate(names)]
        for path, content in zip(paths, files.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return [root / "train" / path.parent.name / path.name for path in paths]


def model(resize: int) -> Model:
    """Untrained; it changes no level on the way in but to [0, 1]."""
    about = {"form": "cifar", "channels": 4, "cells": 3, "classes": ["a", "b"], "image_size": SIZE, "resize": resize}
    return Model(KNOWN["DARTS_V1"], about | {"mean": [0, 0, 0], "std": [1, 1, 1]})


def recipes(root: Path) -> tuple[BatchReader, BatchReader]:
    """Training's in epoch 0 of seed 0, and the test's."""
    data = imagenet.Config(image_size=SIZE).photographs(str(root))
    return BatchReader(data.train, SIZE, True, 0, 0), BatchReader(data.test, SIZE, True, 0, None)


def seen(root: Path, paths: list[Path]) -> dict[str, np.ndarray]:
    """uint8 [n, SIZE, SIZE, 3] of each way, of what `write` wrote there."""
    everything = np.arange(len(paths))
    training, test = recipes(root)
    found = {
        "search": folder.Config(image_size=SIZE).load(str(root)).images,
        "predict after a folder": levels(model(SIZE), paths),
        "test": test(everything)[0],
        "predict after imagenet": levels(model(shorter_side(SIZE)), paths),
        "training": training(everything)[0],
    }
    return {way: images.permute(0, 2, 3, 1).numpy() for way, images in found.items()}


def levels(network: Model, pictures: Sequence) -> torch.Tensor:
    return (torch.stack([network.preprocess(picture) for picture in pictures]) * 255).round().byte()


def contact_sheet(output: Path, columns: int = 3, cell: int = 48) -> None:
    """A row a file: what it shows, then what each way sees, the training augmented."""
    shown = pieces()
    with tempfile.TemporaryDirectory() as root:
        ways = seen(Path(root), write(Path(root), {piece.name: piece.content for piece in shown}))
    rows, width = -(-len(shown) // columns) + 1, (len(ways) + 1) * cell + 150
    sheet = Image.new("RGB", (columns * width, rows * (cell + 4)), (90, 90, 90))
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        for i, title in enumerate(("file", *(way.replace(" after ", "\n").replace("a ", "") for way in ways))):
            draw.text((column * width + 150 + i * cell, 10), title, font_size=10)
    for number, piece in enumerate(shown):
        x, y = number // (rows - 1) * width, (number % (rows - 1) + 1) * (cell + 4)
        draw.text((x + 4, y + 16), piece.name, font_size=14)
        for i, pixels in enumerate((piece.shows, *(images[number] for images in ways.values()))):
            image = Image.fromarray(pixels)
            image.thumbnail((cell - 4, cell - 4))
            image = image.resize((max(1, image.width), max(1, image.height)) if i == 0 else (cell - 4, cell - 4), 0)
            sheet.paste(image, (x + 150 + i * cell, y))
    sheet.save(output)


if __name__ == "__main__":
    contact_sheet(Path(sys.argv[1]))
