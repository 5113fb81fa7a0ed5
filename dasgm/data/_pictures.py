"""Pictures, as files or as bytes, to square RGB pixels by Pillow. No torch here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from dasgm.files import cut, first_line, printable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif")
MOST_BYTES = 64 * 2**20  # of an encoded picture
Source = Path | bytes | Image.Image | None


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

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # odd metadata: nothing that a user can act on
        warnings.simplefilter("error", Image.DecompressionBombWarning)
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
    """First frame, turned as EXIF says, transparency on white; a JPEG larger than `reduce_to` may come reduced."""
    if source is None:
        raise ValueError("no bytes")
    if isinstance(source, Image.Image):
        return _rgb(ImageOps.exif_transpose(source))
    if (size := len(source) if isinstance(source, bytes) else source.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{size:,} bytes")
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as file:
        if reduce_to:
            file.draft(None, (reduce_to, reduce_to))
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
    return _rgb(file)


def ensure_pixels(encoded: bytes) -> None:
    """Raises, before it is decoded, for what is no picture, and for one of more pixels than Pillow deems sound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            Image.open(BytesIO(encoded), formats=FORMATS).close()
        except UnidentifiedImageError as error:
            raise ValueError(reason(error)) from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey: Pillow's own conversion would clip them at 255
        image = image.convert("I").point(lambda level: level * (1 / 257)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def reason(error: Exception) -> str:
    """Why a picture could not be read, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "not a jpeg, png, webp or gif picture"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)[:100]
