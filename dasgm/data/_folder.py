"""Reads a folder of pictures: into memory, or as photographs that are streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dasgm.cpus import cpus
from dasgm.data._images import Data, stack
from dasgm.data._listing import Files, Listing, drawn
from dasgm.data._parts import FEWEST, MINIMUM, Parts, ensure_enough, parts
from dasgm.data._pictures import fitted, read
from dasgm.data._rows import Rows
from dasgm.options import option
from dasgm.store.files import printable

if TYPE_CHECKING:
    from dasgm.data._loader import Photographs
    from dasgm.data.folder import Config

AT_ONCE = 100  # rows of Parquet files whose pictures are read at once


def load(config: Config, data_dir: str | None, device: str) -> Data:
    """Reads the data set below `data_dir`; see `folder.Config.load`."""
    return _in_memory(config, parts(config, data_dir), device)


def opened(config: Config, data_dir: str | None, device: str) -> Data | Photographs:
    """The data set for a training; see `folder.Config.open`."""
    found = parts(config, data_dir)
    if found.val is not None:
        config = replace(config, holdout=0.0)  # a search's, whose J_val it was: no training learns from it
    streamed = config.streams(len(found.train) + len(found.test))
    return _streamed(config, found) if streamed else _in_memory(config, found, device, held=True)


def _streamed(config: Config, found: Parts) -> Photographs:
    from dasgm.data._loader import Photographs, ensure_decoder

    ensure_decoder("photographs")
    notes = list(found.notes)
    if config.cutout:
        mend = f"{option('data.streaming')} off, which holds them in memory, uses it"
        notes.append(f"data.cutout is {config.cutout}, but streamed pictures are trained without cutout; {mend}")
    if found.val is not None:
        notes.append(_held(found.val))
    train = drawn(found.train, config.limit, config.split_seed)
    test = replace(found.test, notes=(*found.test.notes, *notes))
    return Photographs(train, test, config.image_size, config.skip_unreadable, "folder", held=found.val)


def _in_memory(config: Config, found: Parts, device: str, held: bool = False) -> Data:
    """With `held`, which needs a `holdout` of 0, val/ is read as what is held out of a training."""
    images, labels, readable, notes = _read(found.everything, config, MINIMUM)
    names = _names(found.everything, readable)
    if found.apart:
        test_images, test_labels, readable, more = _read(found.test, config, FEWEST)
        test_names = _names(found.test, readable)
        notes += more
    else:
        test = torch.from_numpy(found.test.chosen)[readable]
        test_images, test_labels, images, labels = images[test], labels[test], images[~test], labels[~test]
        test_names, names = ([names[i] for i in part.nonzero()[:, 0].tolist()] for part in (test, ~test))
        notes += found.test.notes

    held_out = aside = None
    if found.val is not None:
        if config.holdout:
            val_images, val_labels, readable, more = _read(found.val, config, FEWEST)
            held_out = torch.arange(len(labels), len(labels) + len(val_labels))
            images, labels = torch.cat([images, val_images]), torch.cat([labels, val_labels])
            names += _names(found.val, readable)
            notes += [*more, f"{found.val.place} is J_val, whole, whatever data.holdout says"]
        elif held:
            val_images, val_labels, _, more = _read(found.val, config, FEWEST)
            aside = val_images, val_labels
            notes += [*more, _held(found.val)]
        else:
            notes.append(f"{found.val.place} is not used, since data.holdout is 0")
    notes += found.notes
    return Data(
        "folder",
        found.everything.classes,
        (images, labels),
        (test_images, test_labels),
        config,
        held_out=held_out,
        notes=notes,
        names=(names, test_names),
        held=aside,
        device=device,
    )


def _held(val: Listing) -> str:
    return f"{val.place}: its {len(val):,} pictures are not trained on; the temperature is set on them"


def _read(listing: Listing, config: Config, minimum: int) -> tuple[Tensor, Tensor, list[int], list[str]]:
    """Images uint8 [N, 3, S, S], labels int64 [N], the positions of what could be read, and lines to be printed."""
    source, decode = listing.source, partial(_fitted, size=config.image_size)
    every = range(len(listing.labels))
    if isinstance(source, Files):
        sources: Sequence[Any] = [Path(source.store.root, source.below(index)) for index in every]
        names, threads = [source.name(index) for index in every], cpus()
    else:
        sources, names, threads = _Encoded(source), [source.name(index) for index in every], 1
    pixels, readable, notes = read(sources, names, decode, config.skip_unreadable, threads)
    ensure_enough(listing, minimum, readable)
    labels = torch.from_numpy(listing.labels)[readable]
    return stack(pixels, config.image_size), labels, readable, [*listing.notes, *notes]


def _names(listing: Listing, positions: Sequence[int]) -> list[str]:
    """The paths of pictures below the data set's folder, or their files and rows."""
    return [printable(listing.source.below(index)) for index in positions]


def _fitted(source: Any, size: int) -> bytes:
    """The pixels of a picture. `source` is a file, its bytes, or the error of reading them, which is raised."""
    if isinstance(source, Exception):
        raise source
    return fitted(source, size)


@dataclass(frozen=True)
class _Encoded(Sequence[Any]):
    """The encoded pictures of Parquet files, of which few are in memory at a time."""

    source: Rows

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        return self.source.read([index])[0]

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, len(self), AT_ONCE):
            yield from self.source.read(range(first, min(first + AT_ONCE, len(self))))
