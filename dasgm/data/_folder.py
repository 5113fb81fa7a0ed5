"""Reads a folder of pictures in class folders into memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dasgm.cpus import cpus
from dasgm.data._folders import FolderPart
from dasgm.data._images import Data, stack
from dasgm.data._layout import Layout
from dasgm.data._pictures import first_ten, fitted, read
from dasgm.data._split import test_split
from dasgm.data._store import Store
from dasgm.store.files import printable

if TYPE_CHECKING:
    from dasgm.data.folder import Config

Pictures = tuple[Tensor, Tensor, list[str], list[str]]
"""Images uint8 [N, 3, S, S], labels int64 [N], paths below the data set's folder, and lines to be printed."""
MINIMUM = 10  # of training pictures in a class


def load(config: Config, data_dir: str | None, device: str, held: bool = False) -> Data:
    """Reads the data set below `data_dir`; see `folder.Config.load`.

    Args:
        held: whether a val/ that is not trained on is read, as what is held out.
    """
    if data_dir is None:
        raise ValueError("--dataset folder needs --data-dir: give a folder with one folder of pictures per class")
    root = Path(data_dir)
    if not root.is_dir():
        raise ValueError(
            f"--data-dir {root}: no such folder; expected a folder with one subfolder of pictures per class"
        )
    layout = Layout(Store(data_dir))
    train = layout.read("train", skip_unreadable=config.skip_unreadable)
    classes = train.classes
    train.ensure_classes()
    images, labels, names, notes = _read(layout.store, train, classes, config, MINIMUM)
    if "test" in layout.parts:
        test_images, test_labels, test_names, more = _more(layout, "test", classes, config)
        notes += more
    else:
        test, rest = test_split(labels)
        test_images, test_labels, images, labels = images[test], labels[test], images[rest], labels[rest]
        test_names, names = ([names[i] for i in part.tolist()] for part in (test, rest))
        notes.append(f"no train/ with test/ in {root}: a sixth of each class is set aside as the test set")

    held_out = aside = None
    if "val" in layout.parts:
        if config.holdout:
            val_images, val_labels, val_names, more = _more(layout, "val", classes, config)
            held_out = torch.arange(len(labels), len(labels) + len(val_labels))
            images, labels = torch.cat([images, val_images]), torch.cat([labels, val_labels])
            names += val_names
            notes += [*more, f"{layout.place('val')} is J_val, whole, whatever data.holdout says"]
        elif held:
            val_images, val_labels, _, more = _more(layout, "val", classes, config)
            aside = val_images, val_labels
            notes += [*more, f"{layout.place('val')} is not trained on: the temperature is set on it"]
        else:
            notes.append(f"{layout.place('val')} is not used, since data.holdout is 0")
    notes += [*layout.notes, *layout.beside()]
    return Data(
        "folder",
        classes,
        (images, labels),
        (test_images, test_labels),
        config,
        held_out=held_out,
        notes=notes,
        names=(names, test_names),
        held=aside,
        device=device,
    )


def _more(layout: Layout, part: str, classes: Sequence[str], config: Config) -> Pictures:
    """Reads another part than "train"."""
    return _read(layout.store, layout.read(part, classes, config.skip_unreadable), classes, config)


def _read(store: Store, part: FolderPart, classes: Sequence[str], config: Config, minimum: int = 1) -> Pictures:
    """The pictures of a part, ordered by class, then by path."""
    labelled = zip(part.labels(classes), part.pictures, strict=True)
    files = sorted((label, picture.path.split("/"), picture.path) for label, picture in labelled)
    numbers = torch.tensor([label for label, _, _ in files], dtype=torch.int64)
    _ensure_enough(part.place, classes, numbers, minimum)
    pixels, readable, notes = read(
        [Path(store.root, path) for _, _, path in files],
        [store.name(path) for _, _, path in files],
        partial(fitted, size=config.image_size),
        config.skip_unreadable,
        threads=cpus(),
    )
    labels, names = numbers[readable], [printable(files[i][2]) for i in readable]
    _ensure_enough(part.place, classes, labels, minimum)
    return stack(pixels, config.image_size), labels, names, [*part.inventory.lines(), *notes, *part.notes]


def _ensure_enough(place: str, classes: Sequence[str], labels: Tensor, minimum: int) -> None:
    """Raises ValueError for classes with fewer than `minimum` pictures."""
    counts = zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True)
    few = [f"{name} has {n}" for name, n in counts if n < minimum]
    if few:
        raise ValueError(f"{place}: every class needs at least {minimum} pictures, but {first_ten(few)}; add some")
