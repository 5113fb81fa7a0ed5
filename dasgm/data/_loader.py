"""Batches of streamed photographs in an order that the seed determines, and the loader for one machine (torch's
DataLoader).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dasgm.data._augmentation import Augmentation
from dasgm.data._base import described, undivided
from dasgm.data._inventory import Counts
from dasgm.data._listing import Files, Listing, drawn, listings
from dasgm.data._photographs import CHANGES, MEAN, STD, centred, cropped, decoded, jitter, normalised
from dasgm.data._pictures import shorter_side
from dasgm.data._split import balanced, held_share
from dasgm.options import option
from dasgm.store.files import first_line, printable, reason

if TYPE_CHECKING:
    from dasgm.data.imagenet import Config

PAD = -1  # index and label of an empty place in a batch
DRAWS = 2 * len(CHANGES)


@dataclass(frozen=True)
class Photographs:
    """A data set that is streamed: what is known without reading a picture."""

    streamed: ClassVar[bool] = True
    train: Listing
    test: Listing
    image_size: int
    skip_unreadable: bool = False
    name: str = "imagenet"
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    held: Listing | None = None
    """Pictures that are neither trained on nor measured; see `held_out`."""
    balanced: bool = False
    """Whether a training draws as many pictures of each class."""
    noted: tuple[str, ...] = ()
    """More lines to be printed."""
    augmentation: Augmentation = Augmentation()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of images to train on and to test on."""
        return len(self.train), len(self.test)

    @property
    def resize(self) -> int:
        """Length to which a picture's shorter side is resized before its centre of `image_size` pixels is kept."""
        return shorter_side(self.image_size)

    @property
    def notes(self) -> tuple[str, ...]:
        listed = (note for part in (self.train, self.test) for note in part.notes if not isinstance(note, Counts))
        return (*listed, *self.noted)

    @property
    def digest(self) -> str:
        """SHA-256 of both listings, which identifies the data of a run."""
        return hashlib.sha256(f"{self.train.digest} {self.test.digest}".encode()).hexdigest()

    def class_counts(self) -> tuple[Tensor, Tensor]:
        """Numbers of pictures of each class to train on and to test on: int64 [classes]."""
        parts = (torch.from_numpy(part.labels[part.in_order()]) for part in (self.train, self.test))
        first, second = (labels.bincount(minlength=len(self.classes)) for labels in parts)
        return first, second

    def apart(self, portion: float, seed: int) -> Photographs:
        """The same data set without a share of the training pictures, drawn by class, which are `held_out`."""
        train, order = self.train, self.train.in_order()
        parts = held_share(torch.from_numpy(train.labels[order]), portion, seed)
        held, rest = (np.isin(np.arange(len(train.labels)), order[part.numpy()]) for part in parts)
        return replace(self, train=replace(train, chosen=rest), held=replace(train, chosen=held, notes=()))

    def fold(self, number: int, of: int, seed: int) -> Photographs:
        """Raises ValueError: only data sets in memory are divided into folds."""
        raise ValueError(
            f"folds {of}: the pictures are streamed, and folds are for what is held in memory; leave {option('folds')} "
            f"out, or choose {option('data.streaming')} off or a smaller {option('data.image_size')}"
        )

    def held_out(self) -> Photographs | None:
        """The data set with pictures to test on that are neither trained on nor measured; None: there are none."""
        return None if self.held is None else replace(self, test=self.held)

    def balancing(self) -> Photographs:
        """The same data set, `balanced`. ValueError: its pictures lie in Parquet files, which are read in groups."""
        if not isinstance(self.train.source, Files):
            raise ValueError(
                "balance sampling: pictures in Parquet files are read in groups of rows, so that drawing them by class "
                f"would read each group many times; choose {option('balance')} loss"
            )
        return replace(self, balanced=True)

    def noting(self, lines: Sequence[str]) -> Photographs:
        """The same data set with more lines to be printed."""
        return replace(self, noted=(*self.noted, *lines))

    def tested(self) -> list[int]:
        """The indices of the pictures to test on in their listing."""
        return [int(index) for index in self.test.in_order()]

    def test_name(self, index: int) -> str:
        """Of a picture of the test listing: its path below the data set's folder, or its file and row."""
        return printable(self.test.source.below(index))

    def test_picture(self, index: int) -> Tensor:
        """A picture of the test listing as uint8 [3, S, S]."""
        return self.reader(0, None)(np.array([index])).pixels[0]

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Indices of the training pictures in the order of an epoch. With N in the listing, index + k N is the same
        picture for the k-th time, whose draws are its own."""
        order = self.train.permuted(seed, epoch)
        if not self.balanced:
            return order
        order = order[balanced(self.train.labels[order], np.random.default_rng((seed, epoch, 0, 1)))]
        by_picture = order.argsort(kind="stable")
        _, firsts, counts = np.unique(order[by_picture], return_index=True, return_counts=True)
        times = np.empty_like(order)
        times[by_picture] = np.arange(len(order)) - firsts.repeat(counts)
        return order + times * len(self.train.labels)

    def reader(self, seed: int, epoch: int | None) -> BatchReader:
        """What reads the batches of an epoch of training, or with None those of the test."""
        listing = self.test if epoch is None else self.train
        return BatchReader(listing, self.image_size, self.skip_unreadable, seed, epoch, self.augmentation)

    def describe(self) -> str:
        """One line with the number of classes, the size and the counts."""
        return described(self.name, len(self.classes), self.image_size, undivided(*self.counts))


def photographs(config: Config, data_dir: str | None) -> Photographs:
    """See `imagenet.Config.photographs`."""
    ensure_decoder("imagenet")
    if data_dir is None:
        raise ValueError(
            f"--dataset imagenet needs {option('data_dir')}: give a folder or a URI with train/ and val/, or Parquet"
        )
    train, test = listings(data_dir, config.skip_unreadable, config.config)
    return Photographs(drawn(train, config.limit, config.split_seed), test, config.image_size, config.skip_unreadable)


def ensure_decoder(what: str) -> None:
    """ValueError where torchcodec is missing."""
    if not find_spec("torchcodec"):
        raise ValueError(f"{what} is decoded by torchcodec, which is not installed: pip install 'torchcodec>=0.16'")


class Batch(NamedTuple):
    """What is read of one worker's batch.

    Attributes:
        pixels: uint8 [b, 3, S, S].
        labels: int64 [b].
        draws: float32 [b, 8], by which the device changes the colours of pictures to train on.
        wrong: for each picture, '' or 'NAME (reason)' if it cannot be read.
    """

    pixels: Tensor
    labels: Tensor
    draws: Tensor
    wrong: Sequence[str]


@dataclass(frozen=True)
class BatchReader:
    """Turns indices into one worker's batch, in the same way on every machine. `epoch` None means evaluation."""

    listing: Listing
    size: int
    skip: bool
    seed: int
    epoch: int | None
    augmentation: Augmentation = Augmentation()

    def __call__(self, indices: np.ndarray) -> Batch:
        """Reads a batch.

        If `skip`, training replaces an unreadable picture by the next one of the listing that can be read, with that
        one's label and the draws of the unreadable one. Evaluation leaves its place empty, as in padding: black, with
        label `PAD`.
        """
        pixels = torch.zeros(len(indices), 3, self.size, self.size, dtype=torch.uint8)
        labels = torch.full((len(indices),), PAD, dtype=torch.int64)
        draws = torch.zeros(len(indices), DRAWS)
        wrong = [""] * len(indices)
        places = np.flatnonzero(indices != PAD)
        pictures = self.listing.source.read((indices[places] % len(self.listing.labels)).tolist())
        for place, encoded in zip(places.tolist(), pictures, strict=True):
            drawn = int(indices[place])  # see `Photographs.order`
            index = taken = drawn % len(self.listing.labels)
            try:
                square = self._square(encoded, drawn)
            except Unreadable as error:
                wrong[place] = f"{self.listing.source.name(index)} ({error})"
                if self.epoch is None or not self.skip:
                    continue
                taken, square = self._next(index, drawn)
            pixels[place], draws[place] = square
            labels[place] = int(self.listing.labels[taken])
        return Batch(pixels, labels, draws, wrong)

    def _square(self, encoded: bytes | Exception, drawn: int) -> tuple[Tensor, Tensor]:
        """The pixels that are used of a picture, and the draws of its colours."""
        if isinstance(encoded, Exception):
            raise Unreadable(_reason(encoded))
        try:
            if self.epoch is None:
                return centred(decoded(encoded), self.size), torch.zeros(DRAWS)
            # 1 + drawn, because numpy gives (seed, epoch) and (seed, epoch, 0) the same stream
            random = np.random.default_rng((self.seed, self.epoch, 1 + drawn))
            how = self.augmentation
            square = cropped(encoded, self.size, random, how.crop, how.flip)
            return how.by_policy(square, self.seed, self.epoch, drawn), jitter(random)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # decoders raise many types of errors
            raise Unreadable(reason(error)) from None

    def _next(self, index: int, drawn: int) -> tuple[int, tuple[Tensor, Tensor]]:
        """Index of the next picture in use that can be read, and what `_square` makes of it."""
        order = self.listing.in_order()
        for taken in np.roll(order, -int(np.searchsorted(order, index)) - 1)[:-1].tolist():
            try:
                return taken, self._square(self.listing.source.read([taken])[0], drawn)
            except Unreadable:
                continue
        raise ValueError(f"no training picture can be read; the first one tried was {self.listing.source.name(index)}")


class Unreadable(Exception):
    """A picture that cannot be read. The message is the reason, in one line."""


def _reason(error: Exception) -> str:
    """The first sentence of a filesystem's error."""
    return first_line(error).partition(". ")[0][:120]


class Loader:
    """This worker's share of every global batch of `workers` x `batch_size` images.

    The order of an epoch depends on (seed, epoch) alone and the draws of an image on (seed, epoch, image), so neither
    depends on the number of workers. In training no image comes twice in an epoch, and fewer images than a global batch
    are left out. In evaluation each image counts once: every worker has the same number of batches, and padding is
    masked.

    Attributes:
        unreadable: pictures that this worker could not read so far, each once, as 'NAME (reason)'.
    """

    def __init__(
        self, data: Photographs, batch_size: int, seed: int = 0, rank: int = 0, workers: int = 1, device: str = "cpu"
    ) -> None:
        assert 0 <= rank < workers and batch_size > 0
        self.data, self.batch_size, self.rank, self.workers, self.device = data, batch_size, rank, workers, device
        self.seed = seed % 2**64  # numpy takes no negative seed
        self.unreadable: dict[str, None] = {}
        together = workers * batch_size
        if together > len(data.train):
            raise ValueError(
                f"a batch of {together} images on {workers} worker(s) is larger than the training set of "
                f"{len(data.train)}: lower {option('batch_size')}"
            )
        self.iterations = len(data.train) // together
        """Number of batches in an epoch, the same on every worker."""

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches: x float32 [b, 3, S, S], normalised, and y int64 [b], on the device.

        Raises:
            ValueError: a picture cannot be read and is not to be skipped. The message names it.
        """
        order = self.data.order(self.seed, epoch)[: self.iterations * self.workers * self.batch_size]
        colours = self.data.augmentation.colours(True)
        for batch in self._checked(epoch, order):
            x = normalised(batch.pixels, self.device, batch.draws if colours else None)
            yield x, batch.labels.to(self.device, non_blocking=True)

    def testing(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Evaluation batches: x and y as in training, and a mask bool [b] of the images that count. y is 0 where it is
        False.
        """
        for batch in self._checked(None, self._padded()):
            y = batch.labels.to(self.device, non_blocking=True)
            yield normalised(batch.pixels, self.device), y.clamp(min=0), y != PAD

    def tested(self) -> np.ndarray:
        """The index in the test listing of each place of `testing`, PAD in padding."""
        return self._padded().reshape(-1, self.workers, self.batch_size)[:, self.rank].ravel()

    def _padded(self) -> np.ndarray:
        order = self.data.test.in_order()
        return np.concatenate([order, np.full(-len(order) % (self.workers * self.batch_size), PAD)])

    def _checked(self, epoch: int | None, order: np.ndarray) -> Iterator[Batch]:
        mine = list(order.reshape(-1, self.workers, self.batch_size)[:, self.rank])
        for batch in self._stream(self.data.reader(self.seed, epoch), mine):
            found = [line for line in batch.wrong if line]
            if found and not self.data.skip_unreadable:
                raise ValueError(
                    f"{found[0]} cannot be read: repair or remove it, or leave it out with "
                    f"{option('data.skip_unreadable')}"
                )
            self.unreadable |= dict.fromkeys(found)
            yield batch

    def _stream(self, reader: BatchReader, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Yields the batch of each of `batches`, in this order."""
        raise NotImplementedError


class TorchLoader(Loader):
    """The loader for one machine.

    `processes` processes of this worker decode ahead and are kept from epoch to epoch; with 0 the worker decodes.
    """

    def __init__(
        self,
        data: Photographs,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        workers: int = 1,
        device: str = "cpu",
        processes: int = 0,
    ) -> None:
        super().__init__(data, batch_size, seed, rank, workers, device)
        if processes < 0:
            raise ValueError(f"{processes} loading processes: choose 0 or more")
        self.processes = processes
        self._places = _Places()

    @cached_property
    def _loading(self) -> DataLoader[Batch]:
        # a client of object storage does not survive a fork
        context = "spawn" if self.processes and self.data.train.source.store.is_uri else None
        return DataLoader(
            _Batches(self.data, self.seed),
            batch_size=None,
            sampler=self._places,
            num_workers=self.processes,
            multiprocessing_context=context,
            persistent_workers=self.processes > 0,
            pin_memory=self.device.startswith("cuda"),
        )

    def _stream(self, reader: BatchReader, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        self._places.asked = mine = [(reader.epoch, indices) for indices in batches]
        for batch in self._loading:
            yield batch
            if self.processes and self._places.asked is not mine:
                raise RuntimeError("loading processes make one epoch at a time: end it before the next one begins")


class _Places:
    """A sampler for torch: the epoch and the indices of each batch that is asked for, exchanged from epoch to epoch."""

    asked: Sequence[tuple[int | None, np.ndarray]] = ()

    def __iter__(self) -> Iterator[tuple[int | None, np.ndarray]]:
        return iter(self.asked)

    def __len__(self) -> int:
        return len(self.asked)


class _Batches(Dataset[Batch]):
    """Batches as a torch data set, by epoch and indices: processes that are kept are told the epoch with each batch."""

    def __init__(self, data: Photographs, seed: int) -> None:
        self.data, self.seed = data, seed

    def __getitem__(self, place: tuple[int | None, np.ndarray]) -> Batch:
        epoch, indices = place
        return self.data.reader(self.seed, epoch)(indices)
