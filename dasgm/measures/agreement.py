"""How far another form of a trained network, such as an export in 8 bits, answers as the network itself does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dasgm.bilevel import full_precision
from dasgm.config import from_json
from dasgm.data._images import Data
from dasgm.data._named import Unreadable, pictures
from dasgm.model import Model
from dasgm.recipes import EvaluateConfig
from dasgm.store.files import first_line, plain, printable, reason, text

BATCH = 64
MOST = 1000  # test pictures on which it is measured, evenly spread over all

Labelled = tuple[Tensor, int | None]  # a network's input [3, S, S] and its class, None where it is not known


@dataclass(frozen=True)
class Agreement:
    """Numbers of pictures.

    Attributes:
        pictures: all.
        same: those to which both give the same most probable class.
        labelled: those whose class is known.
        correct: those of them that the other form names correctly.
        reference: those of them that the network names correctly.
    """

    pictures: int
    same: int
    labelled: int
    correct: int
    reference: int

    def __str__(self) -> str:
        same = f"the same answer on {self.same / self.pictures:.1%} of {self.pictures:,} pictures"
        if not self.labelled:
            return f"{same}, whose classes are not known"
        ours, other = (n / self.labelled for n in (self.reference, self.correct))
        on = f" on the {self.labelled:,} whose class is known" if self.labelled < self.pictures else ""
        return f"accuracy {other:.2%}, in float32 {ours:.2%}{on}; {same}"

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@full_precision()
@torch.no_grad()
def agreement(model: Model, run: Callable[[Tensor], Tensor], inputs: Iterable[Labelled]) -> Agreement:
    """Compares the answers of `model` (on the CPU) and of `run`, which maps images [N, 3, S, S] to logits.

    Raises:
        ValueError: there are no pictures.
    """
    counts = torch.zeros(5, dtype=torch.int64)
    for batch in _batches(inputs):
        x = torch.stack([image for image, _ in batch])
        ours, other = model(x).argmax(1), run(x).argmax(1)
        labels = torch.tensor([-1 if label is None else label for _, label in batch])
        sums = ((ours == other), (labels >= 0), (other == labels), (ours == labels))
        counts += torch.tensor([len(x), *(int(one.sum()) for one in sums)])
    if not counts[0]:
        raise ValueError("there are no pictures to compare the answers on; name some with --pictures")
    return Agreement(*counts.tolist())


def _batches(inputs: Iterable[Labelled]) -> Iterator[list[Labelled]]:
    batch = list[Labelled]()
    for one in inputs:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def named(model: Model, names: Iterable[str], say: Callable[[str], None]) -> Iterator[Labelled]:
    """Pictures of files, folders and patterns. The class of a picture is its folder's name, where that is a class.

    Args:
        say: is told which pictures are left out because they cannot be read.
    """
    for found in (found for name in names for found in pictures(name, say)):
        if isinstance(found, Unreadable):
            say(printable(f"left out: {found.path}: {found.why}"))
        elif (x := _read(model, found, str(found), say)) is not None:
            folder = printable(found.absolute().parent.name)
            yield x, model.classes.index(folder) if folder in model.classes else None


def of_the_test(
    model: Model,
    folder: Path,
    data_dir: str | None,
    opened: Callable[[EvaluateConfig, str], Any],
    say: Callable[[str], None],
) -> Iterator[Labelled]:
    """At most 1,000 of the test pictures that the model was measured on: of a fold, the fold's.

    Args:
        folder: of the run, whose config.json tells where the data set lies.
        data_dir: where it lies, if not there.
        opened: opens it as the training did, on a device: `dasgm.jobs.evaluate.opened`.
        say: is told which pictures are left out because they cannot be read.

    Raises:
        ValueError: the data set is not found, or its classes are not those of the model.
    """
    try:
        config = from_json(model.about.get("recipe"), EvaluateConfig)
        data = opened(replace(config, data_dir=data_dir or _place(folder)), "cpu")
        if data.classes != model.classes:
            raise ValueError("the data set that is found has other classes than the model")
    except (ValueError, OSError) as error:
        raise ValueError(f"the model's test pictures: {first_line(error)}; or name others with --pictures") from None
    if isinstance(data, Data):
        for i in _spread(len(data.test_labels)):
            yield model.preprocess(data.test_images[i]), int(data.test_labels[i])
        return
    chosen = data.test.in_order()
    for i in (chosen[place] for place in _spread(len(chosen))):
        (picture,) = data.test.source.read([i])
        if (x := _read(model, picture, data.test.source.name(i), say)) is not None:
            yield x, int(data.test.labels[i])


def _read(model: Model, picture: Path | bytes | Exception, name: str, say: Callable[[str], None]) -> Tensor | None:
    try:
        if isinstance(picture, Exception):
            raise picture
        return model.preprocess(picture)
    except Exception as error:  # decoders raise whatever they stumble over
        say(printable(f"left out: {name}: {reason(error)}"))
        return None


def _spread(n: int) -> Iterator[int]:
    count = min(n, MOST)
    return (i * n // count for i in range(count))


def _place(folder: Path) -> str | None:
    """Where the run of this folder found its data set."""
    try:
        found = plain(text(folder / "config.json"))
    except (ValueError, OSError):
        return None
    place = found.get("data_dir") if isinstance(found, dict) else None
    return place if isinstance(place, str) else None
