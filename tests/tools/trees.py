"""Folders of pictures for tests, and what both readers make of them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from dasgm.data import folder
from dasgm.data._listing import listings

N = 12  # pictures of a class: folder wants 10


@cache
def png(number: int) -> bytes:
    """A tiny picture of one colour, another for each number."""
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (number % 256, number // 256 % 256, 90)).save(buffer, "PNG")
    return buffer.getvalue()


numbers: Iterator[int] = iter(range(10**9))


def fill(place: Path | bytes, n: int = N, first: int = 0, ending: str = "png") -> None:
    """`n` pictures, each another, directly in the folder."""
    os.makedirs(place, exist_ok=True)
    for i in range(first, first + n):
        name = f"{i:03d}.{ending}"
        with open(os.path.join(place, name.encode() if isinstance(place, bytes) else name), "wb") as file:
            file.write(png(next(numbers)))


def classes(place: Path, *names: str, n: int = N) -> None:
    for name in names:
        fill(place / name, n)


def parts(root: Path, *names: str, n: int = N) -> Path:
    for name in names:
        classes(root / name, "cat", "dog", n=n)
    return root


def in_memory(root: Path, **settings: object) -> tuple[dict[str, int], str]:
    """Pictures of each class, all parts together, and the notes, joined; of the reader in memory."""
    data = folder.Config(image_size=16, **settings).load(str(root))
    labels = [*data.labels.tolist(), *data.test_labels.tolist()]
    return {name: labels.count(i) for i, name in enumerate(data.classes)}, "\n".join(data.notes)


def streamed(root: Path, skip: bool = False) -> tuple[dict[str, int], str]:
    """The same of the reader that streams."""
    both = listings(str(root), skip)
    labels = [*both[0].labels.tolist(), *both[1].labels.tolist()]
    return {name: labels.count(i) for i, name in enumerate(both[0].classes)}, "\n".join(both[0].notes + both[1].notes)


def both(root: Path) -> tuple[dict[str, int], str]:
    """What both readers agree on, of a data set of two parts; the notes of the streamed one."""
    counts, notes = in_memory(root)
    again, others = streamed(root)
    assert counts == again
    return counts, notes + "\n" + others


def refused(root: Path, *says: str, readers: tuple[Callable, ...] = (in_memory, streamed)) -> None:
    """Each reader refuses in one line that has all of `says`."""
    for reader in readers:
        with pytest.raises(ValueError) as error:
            reader(root)
        text = str(error.value)
        assert text.isprintable() and len(text) < 4000 and "codec" not in text, text
        assert all(one in text for one in says), text
