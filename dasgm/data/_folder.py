"""Reads a folder of pictures in class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dasgm.data._images import Data, stack
from dasgm.data._pictures import ENDINGS, first_ten, fitted, read
from dasgm.data._split import test_split

if TYPE_CHECKING:
    from dasgm.data.folder import Config

MINIMUM = 10  # training pictures of a class
CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")


def load(config: Config, data_dir: str | None, device: str) -> Data:
    """The data set below `data_dir`; see `folder.Config.load`."""
    if data_dir is None:
        raise ValueError("--dataset folder needs --data-dir: give a folder with one folder of pictures per class")
    root = Path(data_dir)
    if not root.is_dir():
        raise ValueError(f"--data-dir {root} is no folder: give one with one folder of pictures per class")
    train = root / "train" if (root / "train").is_dir() else root
    classes = [folder.name for folder in _folders(train)]
    if len(classes) < 2:
        raise ValueError(f"{train} has {len(classes)} class folders: give at least 2, one per class")

    images, labels, notes = _read(train, classes, config, MINIMUM)
    if (root / "train").is_dir() and (root / "test").is_dir():
        test_images, test_labels, more = _read(root / "test", classes, config)
        notes += more
    else:
        test, rest = test_split(labels)
        test_images, test_labels, images, labels = images[test], labels[test], images[rest], labels[rest]
        notes.append(f"no train/ with test/ in {root}: a sixth of each class is set aside as the test set")

    held_out = None
    if train != root and (root / "val").is_dir():
        if config.holdout:
            val_images, val_labels, more = _read(root / "val", classes, config)
            held_out = torch.arange(len(labels), len(labels) + len(val_labels))
            images, labels = torch.cat([images, val_images]), torch.cat([labels, val_labels])
            notes += [*more, f"{root / 'val'} is J_val, whole, whatever data.holdout says"]
        else:
            notes.append(f"{root / 'val'} is not used, since data.holdout is 0")
    return Data(
        "folder",
        classes,
        (images, labels),
        (test_images, test_labels),
        config,
        held_out=held_out,
        notes=notes,
        device=device,
    )


def _read(root: Path, classes: Sequence[str], config: Config, minimum: int = 1) -> tuple[Tensor, Tensor, list[str]]:
    """Images uint8 [N, 3, S, S], labels int64 [N] and notes of the class folders below `root`."""
    files = _pictures(root, classes)
    numbers = torch.tensor([label for _, label in files], dtype=torch.int64)
    _count(root, classes, numbers, minimum)
    pixels, readable, notes = read(
        [path for path, _ in files],
        [str(path) for path, _ in files],
        partial(fitted, size=config.image_size),
        config.skip_unreadable,
        threads=os.cpu_count() or 1,
    )
    labels = numbers[readable]
    counts = _count(root, classes, labels, minimum)
    return stack(pixels, config.image_size), labels, [f"{root}: {counts}", *notes]


def _pictures(root: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """All pictures with their labels, by class, then by path."""
    strangers = [folder.name for folder in _folders(root) if folder.name not in classes]
    if strangers:
        raise ValueError(f"{root} has classes that train/ lacks: {first_ten(strangers)}; add them there or remove them")
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).rglob("*"))
        if path.is_file() and not any(_ignored(part) for part in path.relative_to(root).parts)
    ]
    others = [str(path) for path, _ in files if path.suffix.lower() not in ENDINGS]
    if others:
        raise ValueError(
            f"{len(others)} files are no jpg, png, webp or gif pictures: {first_ten(others)}; convert or remove them"
        )
    return files


def _count(root: Path, classes: Sequence[str], labels: Tensor, minimum: int) -> str:
    """'cat 120, dog 98'. Raises ValueError for classes with fewer than `minimum` pictures."""
    counts = dict(zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True))
    few = [f"{name} has {n}" for name, n in counts.items() if n < minimum]
    if few:
        raise ValueError(f"{root}: every class needs at least {minimum} pictures, but {first_ten(few)}; add some")
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not _ignored(path.name))


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER
