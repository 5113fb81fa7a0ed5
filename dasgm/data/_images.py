"""A data set in memory: uint8 images on the device, the split, and normalisation and augmentation on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import copy
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dasgm.bilevel.draws import Number, draw
from dasgm.data._base import DataConfig, described, undivided
from dasgm.data._inventory import Counts
from dasgm.data._split import SET_ASIDE, folds, held_share, split


class Data:
    """Training and test images with their labels, the split, and the statistics of the images.

    The augmentation draws from torch's global CPU generator, so that a seed gives the same draws on every device.

    Args:
        name: name of the data set.
        classes: names of its classes.
        train, test: images uint8 [N, 3, S, S] and labels int64 [N].
        config: settings of the data set.
        flips: whether mirrored images keep their class.
        mean, std: normalisation of images in [0, 1], one number per channel; None: they are measured on J_1 and J_2.
        held_out: indices into the training images that are J_val; None: J_val is drawn.
        notes: lines to be printed.
        names: of the training and of the test images; None: they are called train/0 and so on.
        held: images and labels that are neither trained on nor measured; see `held_out`.
        device: the device that the images are moved to.

    Attributes:
        J1, J2, Jval: int64 indices into the training images, on the CPU.
        divided: whether a search learns from J_1 and J_2 apart; otherwise a training does from all.
        balanced: whether a training draws as many images of each class.
        label_numbers: the training and the test labels, on the CPU.
        digest: SHA-256 of all images and labels.
    """

    streamed: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        config: DataConfig,
        *,
        flips: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        held_out: Tensor | None = None,
        notes: Sequence[str] = (),
        names: tuple[Sequence[str], Sequence[str]] | None = None,
        held: tuple[Tensor, Tensor] | None = None,
        device: str = "cpu",
    ) -> None:
        assert train[0].dtype == test[0].dtype == torch.uint8 and train[1].dtype == test[1].dtype == torch.int64
        self.name, self.classes, self.flips, self.notes = name, tuple(classes), flips, tuple(notes)
        self.image_size, self.cutout_length = config.image_size, config.cutout
        self.J1, self.J2, self.Jval = split(train[1], config, held_out)
        self.digest = _digest(*train, *test)
        self.measured = mean is None or std is None
        if mean is None or std is None:
            mean, std = _statistics(train[0], torch.cat([self.J1, self.J2]))
        self.names, self.balanced, self.divided = names, False, True
        self.held = None if held is None else (held[0].to(device), held[1].to(device))
        self.label_numbers = train[1], test[1]
        self.images, self.labels = (t.to(device) for t in train)
        self.test_images, self.test_labels = (t.to(device) for t in test)
        self._normalise(mean, std)

    def _normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        device = self.images.device
        self.mean, self.std = tuple(mean), tuple(std)
        self._mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(self.std, device=device).view(3, 1, 1)

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of training images (J_1, J_2 and J_val) and of test images."""
        return sum(map(len, (self.J1, self.J2, self.Jval))), len(self.test_labels)

    @property
    def resize(self) -> int:
        """Length to which a picture's shorter side is resized before its centre of `image_size` pixels is kept."""
        return self.image_size

    def describe(self) -> str:
        """One line with the number of classes, the size and the counts."""
        sizes = (len(self.J1), len(self.J2), len(self.Jval), len(self.test_labels))
        parts = ", ".join(f"{part} {n:,}" for part, n in zip(("J_1", "J_2", "J_val", "test"), sizes, strict=True))
        counts = f"images in {parts}" if self.divided else undivided(*self.counts)
        return described(self.name, len(self.classes), self.image_size, counts)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """Training images as float [n, 3, S, S] in [-1, 1]."""
        return self.images[indices].float() / 127.5 - 1

    def test_raw(self, indices: Tensor | slice) -> Tensor:
        """Test images as float [n, 3, S, S] in [-1, 1]."""
        return self.test_images[indices].float() / 127.5 - 1

    def to_classifier(self, x: Tensor) -> Tensor:
        """Converts images in [-1, 1] to the classifier's normalisation. Differentiable."""
        return ((x + 1) / 2 - self._mean) / self._std

    def class_counts(self) -> tuple[Tensor, Tensor]:
        """Numbers of images of each class in J_1, J_2 and J_val together, and in the test set: int64 [classes]."""
        train, test = self.label_numbers
        labels = train[torch.cat([self.J1, self.J2, self.Jval])], test
        first, second = (some.bincount(minlength=len(self.classes)) for some in labels)
        return first, second

    def apart(self, portion: float, seed: int) -> Data:
        """The same data set without a share of the training images, drawn by class, which are `held_out`."""
        J = torch.cat([self.J1, self.J2, self.Jval]).sort().values
        found, (chosen, _) = copy(self), held_share(self.label_numbers[0][J], portion, seed)
        held = J[chosen]
        found.held = self.images[held], self.labels[held]
        found.J1, found.J2, found.Jval = (part[~torch.isin(part, held)] for part in (self.J1, self.J2, self.Jval))
        return found

    def fold(self, number: int, of: int, seed: int) -> Data:
        """Part `number`, from 1, of all images as the test set, and the others to train on; see `folds`.

        The statistics by which images are normalised are measured anew on the latter, if they were measured at all.
        """
        J = torch.cat([self.J1, self.J2, self.Jval]).sort().values
        images = torch.cat([self.images[J.to(self.images.device)], self.test_images])
        labels = torch.cat([self.label_numbers[0][J], self.label_numbers[1]])
        train, test = self.names or ([f"train/{i}" for i in range(len(self.labels))], None)
        names = [*(train[i] for i in J.tolist()), *(test or map(self.test_name, self.tested()))]
        part = folds(labels, of, seed) == number - 1
        places = [side.nonzero()[:, 0] for side in (~part, part)]
        found = copy(self)
        found.notes = tuple(note for note in self.notes if SET_ASIDE not in note)
        found.label_numbers = labels[places[0]], labels[places[1]]
        found.labels, found.test_labels = (numbers.to(images.device) for numbers in found.label_numbers)
        found.images, found.test_images = (images[place.to(images.device)] for place in places)
        found.names = ([names[i] for i in places[0].tolist()], [names[i] for i in places[1].tolist()])
        found.J1, found.J2, found.Jval = torch.arange(len(places[0])), self.J2[:0], self.Jval[:0]
        if self.measured:
            found._normalise(*_statistics(found.images.cpu(), found.J1))
        return found

    def held_out(self) -> Data | None:
        """The data set with images as its test set that are neither trained on nor measured; None: there are none."""
        if self.held is None:
            return None
        found = copy(self)
        found.test_images, found.test_labels = self.held
        return found

    def whole(self) -> Data:
        """The same data set for a training: not `divided`, and without lines that count the pictures of each class."""
        found = copy(self)
        found.divided, found.notes = False, tuple(note for note in self.notes if not isinstance(note, Counts))
        return found

    def balancing(self) -> Data:
        """The same data set, `balanced`."""
        found = copy(self)
        found.balanced = True
        return found

    def noting(self, lines: Sequence[str]) -> Data:
        """The same data set with more lines to be printed."""
        found = copy(self)
        found.notes = (*self.notes, *lines)
        return found

    def tested(self) -> list[int]:
        """The indices of the test images."""
        return list(range(len(self.test_labels)))

    def test_name(self, index: int) -> str:
        """Of a test image: its path below the data set's folder where it is a file."""
        return self.names[1][index] if self.names else f"test/{index}"

    def test_picture(self, index: int) -> Tensor:
        """A test image as uint8 [3, S, S], on the CPU."""
        return self.test_images[index].cpu()

    def augment(
        self,
        x: Tensor,
        cutout: bool,
        probability: Number = lambda: 1.0,
        crop: bool = True,
        flip: bool = True,
    ) -> Tensor:
        """Crops and flips normalised images [n, 3, S, S], and if `cutout` cuts a square out of each with a probability,
        which may change between iterations.
        """
        x = self.crop(x) if crop else x
        x = self.flip(x) if flip else x
        return self.cutout(x, probability) if cutout else x

    def crop(self, x: Tensor) -> Tensor:
        """Crops normalised images at random after padding them by S / 8 (4 at 32 pixels) with normalised black, as the
        original codes do.
        """
        n, _, size, _ = x.shape
        pad = size // 8
        shift = draw(lambda: torch.randint(-pad, pad + 1, (2, n, 1)), x.device)
        rows, columns = torch.arange(size, device=x.device) + shift
        inside = ((rows >= 0) & (rows < size))[:, None, :, None] & ((columns >= 0) & (columns < size))[:, None, None, :]
        x = x.gather(2, rows.clamp(0, size - 1)[:, None, :, None].expand_as(x))
        x = x.gather(3, columns.clamp(0, size - 1)[:, None, None, :].expand_as(x))
        return torch.where(inside, x, (-self._mean / self._std).to(x.dtype))

    def flip(self, x: Tensor) -> Tensor:
        """Mirrors each image left to right with probability 1/2, if the data set allows it."""
        if not self.flips:
            return x
        n = len(x)
        mirrored = draw(lambda: torch.rand(n, 1, 1, 1), x.device) < 0.5
        return torch.where(mirrored, x.flip(3), x)

    flip_raw = flip  # the GAN's images, in [-1, 1]

    def cutout(self, x: Tensor, probability: Number = lambda: 1.0) -> Tensor:
        """Sets a square of each normalised image to 0, the mean, with this probability.

        Its centre is anywhere in the image (DeVries and Taylor 2017).
        """
        if not self.cutout_length:
            return x
        n, _, size, _ = x.shape
        centre = draw(lambda: torch.randint(0, size, (2, n, 1)), x.device)
        distance, half = torch.arange(size, device=x.device) - centre, self.cutout_length // 2
        rows, columns = (distance >= -half) & (distance < half)
        square = rows[:, None, :, None] & columns[:, None, None, :]
        if probability() < 1:
            square = square & draw(lambda: torch.rand(n, 1, 1, 1) < probability(), x.device)
        return x.masked_fill(square, 0.0)


def stack(pixels: bytearray, size: int) -> Tensor:
    """RGB pixels, image after image, as uint8 [N, 3, size, size]."""
    images = torch.frombuffer(pixels, dtype=torch.uint8) if pixels else torch.empty(0, dtype=torch.uint8)
    return images.view(-1, size, size, 3).permute(0, 3, 1, 2).contiguous()


def resized(images: Tensor, size: int) -> Tensor:
    """Resizes uint8 [N, 3, s, s] to [N, 3, size, size]: bilinear, with antialiasing."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _digest(*tensors: Tensor) -> str:
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor.numpy().data)
    return sha.hexdigest()


def _statistics(images: Tensor, indices: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel for values in [0, 1], from the counts of the 256 levels."""
    counts = torch.stack([images[indices, c].flatten().bincount(minlength=256) for c in range(3)]).double()
    share = counts / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    return mean.tolist(), variance.sqrt().clamp_min(1 / 255).tolist()  # a channel may be constant
