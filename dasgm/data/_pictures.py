"""Decodes pictures, given as files or bytes, to RGB pixels with Pillow, and defines what a picture looks like.

Imports no torch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose

from dasgm.options import option
from dasgm.store.files import contents, cut, printable, reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
NO_PICTURE = "not a jpeg, png, webp or gif picture"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MOST_BYTES = 64 * 2**20  # largest size of an encoded picture
Source = Path | bytes | Image.Image | None

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # EXIF's orientation -> the operation that makes the picture upright
EXIF = b"Exif\0\0"  # the first bytes of EXIF in a JPEG
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG's segments: that of EXIF or XMP, and that before the pixels
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
POINTERS = {  # beginning of the placeholder of a picture that has not been fetched -> how to fetch it
    b"version https://git-lfs": "only a pointer of Git LFS: run 'git lfs pull'",
    b"/annex/objects/": "only a pointer of git-annex: run 'git annex get'",
}
SCALES = {
    "L;2": 85,
    "L;4": 17,
    "RGB;16B": 1 / 256,
}  # type of PNG's samples -> factor to Pillow's levels, where they differ


def fitted(source: Source, size: int) -> bytes:
    """The pixels of a picture of any size: the shorter side is resized to `size`, then the centre is kept."""
    image = upright_rgb(source, reduce_to=4 * size)
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR).tobytes()


def shorter_side(size: int) -> int:
    """Length to which ImageNet's evaluation resizes the shorter side before it keeps the centre of `size` pixels."""
    return round(size * 256 / 224)


def exact(source: Source, size: int) -> bytes:
    """The pixels of a picture that must have `size` x `size` pixels already."""
    image = upright_rgb(source)
    if image.size != (size, size):
        raise ValueError(f"{image.width}x{image.height} pixels, not {size}x{size}")
    return image.tobytes()


def read(
    sources: Sequence[Source],
    names: Sequence[str],
    decode: Callable[[Source], bytes],
    skip_unreadable: bool,
    threads: int = 1,
) -> tuple[bytearray, list[int], list[str]]:
    """Decodes all pictures.

    Threads help with photographs (on 2 cores 1.8 ms each instead of 4.1), not with pictures of 32x32, whose cost is
    Python's.

    Args:
        names: names of the pictures in messages.
        decode: returns the pixels of a picture.

    Returns:
        The pixels of all pictures one after another, the positions of those that could be read, and lines to be
        printed.

    Raises:
        ValueError: pictures cannot be read and are not to be skipped. The message names the first ten.
    """
    pixels, readable, failures = bytearray(), list[int](), list[str]()

    def attempt(source: Source) -> bytes | str:
        try:
            return decode(source)
        except Exception as error:  # decoders raise many types of errors
            return reason(error)

    with quiet(), ThreadPoolExecutor(threads) as pool:
        for position, result in enumerate(pool.map(attempt, sources) if threads > 1 else map(attempt, sources)):
            if isinstance(result, bytes):
                pixels += result
                readable.append(position)
            else:
                failures.append(f"{names[position]} ({result})")
    if not failures:
        return pixels, readable, []
    listed = f"{len(failures)} of {len(sources)} pictures cannot be read: {first_ten(failures)}"
    if not skip_unreadable:
        raise ValueError(f"{listed}; repair or remove them, or leave them out with {option('data.skip_unreadable')}")
    return pixels, readable, [f"left out: {listed}"]


def first_ten(names: Iterable[str]) -> str:
    """The first ten names, with odd characters escaped and long names shortened, and the number of further ones."""
    names = list(names)
    return ", ".join(cut(printable(name)) for name in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )


def upright_rgb(source: Source, reduce_to: int | None = None) -> Image.Image:
    """The picture as search, training, test and `predict` see it: RGB with 8 bits.

    It is the first frame, rotated as EXIF or XMP says, and on white where it is transparent. Colour profiles and gamma
    are not applied, as in torchvision. A JPEG of more than `reduce_to` pixels per side may be decoded at a smaller
    size.

    Raises:
        Exception: whatever Pillow raises.
    """
    with open_picture(source) as image:
        if reduce_to and image is not source:
            image.draft(None, (reduce_to, reduce_to))
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """The same for an image that is open already and is not changed."""
    tiles = getattr(image, "tile", None)  # Pillow drops it when it loads the image
    samples = tiles[0].args if tiles else None
    image.load()
    turn = TURNS.get(orientation(image))
    rgb = _rgb(image, samples)
    return rgb.transpose(turn) if turn is not None else rgb


@contextmanager
def open_picture(source: Source) -> Iterator[Image.Image]:
    """Opens a picture and reads its header. The pixels of a file are not decoded yet.

    Raises:
        Exception: it is no picture, or has too many bytes or pixels.
    """
    if isinstance(source, Image.Image):
        yield source
        return
    with _parsed(encoded(source)) as image:
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels are too many")
        yield image


def encoded(source: Path | bytes | None) -> bytes:
    """The bytes of a picture. Raises ValueError where there are none or too many."""
    if source is None:
        raise ValueError("no bytes")
    if isinstance(source, Path):
        return contents(source, MOST_BYTES)
    if len(source) > MOST_BYTES:
        raise ValueError(f"{len(source):,} bytes, at most {MOST_BYTES:,} are read")
    return source


def _parsed(picture: bytes) -> Image.Image:
    try:
        return Image.open(BytesIO(picture), formats=FORMATS)
    except UnidentifiedImageError:
        if advice := next((POINTERS[begin] for begin in POINTERS if picture.startswith(begin)), None):
            raise ValueError(advice) from None
        at = picture.find(EXIF)
        if not picture.startswith(b"\xff\xd8") or at < 0:
            raise ValueError(NO_PICTURE) from None
    # Pillow refuses a JPEG if it cannot read the resolution in its EXIF
    try:
        image = Image.open(BytesIO(without_exif(picture)), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(NO_PICTURE) from None
    image.info["exif"] = picture[at : at + 2**16]
    return image


def without_exif(jpeg: bytes) -> bytes:
    """The same JPEG with its EXIF overwritten by zeros.

    EXIF is recognised by its content at byte 6 of an APP1 segment, because torchcodec ignores the name of the segment.
    """
    cleaned, at = bytearray(jpeg), 2
    while 0 <= (at := jpeg.find(b"\xff", at)) < len(jpeg) - 4 and jpeg[at + 1] != START_OF_SCAN:
        marker, size = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9:  # no segment begins here
            at += 1
            continue
        start, end = at + 4, min(at + 2 + size, len(jpeg))
        if marker == APP1 and (jpeg[start:end].startswith(EXIF) or jpeg[start + 6 : end].startswith((b"II", b"MM"))):
            cleaned[start:end] = bytes(end - start)
        at = end
    return bytes(cleaned)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Pillow's warnings about odd metadata are suppressed, since users cannot act on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_plain_jpeg(image: Image.Image) -> bool:
    """Whether it is an upright grey or RGB JPEG, for which all decoders give the same pixels within rounding."""
    return image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and orientation(image) == 1


def orientation(image: Image.Image) -> int:
    """The orientation as EXIF counts it, 1 (upright) to 8.

    EXIF takes precedence over XMP; broken metadata are ignored.
    """
    app1 = _raw_profile(image, "APP1")
    for exif in (image.getexif, lambda: _exif(app1)) if app1 else (image.getexif,):
        with suppress(Exception):  # Pillow raises many types of errors
            number = exif().get(ExifTags.Base.Orientation)
            if number is not None and int(number) in range(1, 9):
                return int(number)
    for xmp in (image.info.get("xmp"), image.info.get("XML:com.adobe.xmp"), _raw_profile(image, "xmp"), app1):
        if found := XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp or b""):
            return int(found[1])
    return 1


def _raw_profile(image: Image.Image, kind: str) -> bytes:
    """Metadata that ImageMagick wrote into a PNG, as lines of hexadecimal digits below three others."""
    lines = image.info.get(f"Raw profile type {kind}")
    if lines is not None:
        with suppress(ValueError):
            return bytes.fromhex("".join(str(lines).split("\n")[3:]))
    return b""


def _exif(content: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(content)
    return exif


def _rgb(image: Image.Image, samples: Any) -> Image.Image:
    """RGB on white where the image is transparent.

    Args:
        samples: Pillow's name for the type of the file's samples, or None if it is not known.
    """
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        image = _eight_bits(image, key)
    elif key is not None and isinstance(samples, str) and samples in SCALES:
        levels = [int(level * SCALES[samples]) for level in (key if isinstance(key, tuple) else (key,))]
        image = image.copy()
        image.info["transparency"] = tuple(levels) if len(levels) > 1 else levels[0]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image, key: int | None) -> Image.Image:
    """Converts 16-bit grey, which Pillow's own conversion would clip at 255. The level `key` is transparent."""
    grey = image.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    if key is not None:
        del grey.info["transparency"]
        grey.putalpha(Image.fromarray(np.asarray(image) != key).convert("L"))
    return grey
