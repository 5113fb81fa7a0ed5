"""Pictures, as files or as bytes, to RGB pixels by Pillow: what a picture looks like is decided here. No torch here."""

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

from dasgm.store.files import contents, cut, printable, reason

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
NO_PICTURE = "not a jpeg, png, webp or gif picture"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MOST_BYTES = 64 * 2**20  # of an encoded picture
Source = Path | bytes | Image.Image | None

TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # EXIF's orientation -> what makes the picture upright
EXIF = b"Exif\0\0"  # what EXIF in a JPEG begins with
APP1, START_OF_SCAN = 0xE1, 0xDA  # markers of a JPEG's segments: EXIF or XMP; what the pixels follow
XMP_ORIENTATION = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
POINTERS = {  # what stands in a picture's place until it is fetched -> how to fetch it
    b"version https://git-lfs": "only a pointer of Git LFS: run 'git lfs pull'",
    b"/annex/objects/": "only a pointer of git-annex: run 'git annex get'",
}
SCALES = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}  # PNG's samples -> Pillow's, where they are not the same


def fitted(source: Source, size: int) -> bytes:
    """A picture of any size: its shorter side becomes `size`, then the centre is kept."""
    image = upright_rgb(source, reduce_to=4 * size)
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR).tobytes()


def shorter_side(size: int) -> int:
    """Of ImageNet in evaluation: to what the shorter side is resized before the centre of `size` is kept."""
    return round(size * 256 / 224)


def exact(source: Source, size: int) -> bytes:
    """A picture that must be `size` x `size` already."""
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
    """The pixels of all pictures end to end, the positions of those that could be read, and lines worth printing.

    Raises ValueError with the first ten `names` of those that could not, unless they are to be skipped.
    Threads help with photographs (2 cores: 4.1 to 1.8 ms each), not with pictures of 32x32, whose cost is Python's.
    """
    pixels, readable, failures = bytearray(), list[int](), list[str]()

    def attempt(source: Source) -> bytes | str:
        try:
            return decode(source)
        except Exception as error:  # decoders raise whatever they stumble over
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
        raise ValueError(f"{listed}; mend or remove them, or leave them out with --data.skip-unreadable")
    return pixels, readable, [f"left out: {listed}"]


def first_ten(names: Iterable[str]) -> str:
    """The first ten, odd characters escaped and long ones cut, and how many more there are."""
    names = list(names)
    return ", ".join(cut(printable(name)) for name in names[:10]) + (
        f" and {len(names) - 10} more" if len(names) > 10 else ""
    )


def upright_rgb(source: Source, reduce_to: int | None = None) -> Image.Image:
    """The picture as a search, training, the test and predict see it: RGB of 8 bits.

    It is the first frame, turned as EXIF or XMP says, on white where it is transparent. Colour profiles and gamma are
    not applied, as in torchvision. A JPEG larger than `reduce_to` pixels a side may come reduced.
    Raises whatever Pillow stumbles over.
    """
    with open_picture(source) as image:
        if reduce_to and image is not source:
            image.draft(None, (reduce_to, reduce_to))
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """The same of a picture that is open already; it stays as it is."""
    tiles = getattr(image, "tile", None)  # forgotten once it is loaded
    samples = tiles[0].args if tiles else None
    image.load()
    turn = TURNS.get(orientation(image))
    rgb = _rgb(image, samples)
    return rgb.transpose(turn) if turn is not None else rgb


@contextmanager
def open_picture(source: Source) -> Iterator[Image.Image]:
    """A picture whose header is read; of a file its pixels are not decoded yet.

    Raises for what is no picture, and for one of more bytes or pixels than is sound.
    """
    if isinstance(source, Image.Image):
        yield source
        return
    with _parsed(encoded(source)) as image:
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels are too many")
        yield image


def encoded(source: Path | bytes | None) -> bytes:
    """Raises ValueError where there are no bytes, or too many."""
    if source is None:
        raise ValueError("no bytes")
    if isinstance(source, Path):
        return contents(source, MOST_BYTES)
    if len(source) > MOST_BYTES:
        raise ValueError(f"{len(source):,} bytes")
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
    # Pillow refuses a JPEG if it stumbles over the resolution in its EXIF
    try:
        image = Image.open(BytesIO(without_exif(picture)), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(NO_PICTURE) from None
    image.info["exif"] = picture[at : at + 2**16]
    return image


def without_exif(jpeg: bytes) -> bytes:
    """The same JPEG with its EXIF overwritten by zeros.

    EXIF is told by its content, at byte 6 of an APP1 segment: torchcodec does not look at the segment's name.
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
    """Without Pillow's warnings of odd metadata: nothing that a user can act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def is_plain_jpeg(image: Image.Image) -> bool:
    """Whether it is a JPEG, grey or RGB, that needs no turn: every decoder gives the same pixels, within rounding."""
    return image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB") and orientation(image) == 1


def orientation(image: Image.Image) -> int:
    """1 (upright) to 8, as EXIF counts; of several EXIF comes first, then XMP. Broken metadata count as none."""
    app1 = _raw_profile(image, "APP1")
    for exif in (image.getexif, lambda: _exif(app1)) if app1 else (image.getexif,):
        with suppress(Exception):  # Pillow raises whatever it stumbles over
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
    """On white where it is transparent. samples: how Pillow calls the file's samples, None if it is not known."""
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
    """16 bits of grey, which Pillow's own conversion would clip at 255; transparent where the level is `key`."""
    grey = image.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    if key is not None:
        del grey.info["transparency"]
        grey.putalpha(Image.fromarray(np.asarray(image) != key).convert("L"))
    return grey
