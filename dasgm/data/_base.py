"""Settings that all data sets share. Imports no torch, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.data._loader import Photographs

YOUNGER = {"younger": True}  # a field that counts for a run's identity only if it is set: older runs can be resumed
IN_MEMORY = 64  # pixels per side up to which pictures of a folder are trained on as CIFAR's, above it as ImageNet's
SMALLEST, LARGEST, STEP = 16, 1024, 4  # pixels per side; networks divide it by 4 (GANs make 16, 32 and 64)


def described(name: str, classes: int, size: int, counts: str) -> str:
    """A data set in one line."""
    return f"{name}: {classes} classes, {size}x{size} pixels; {counts}"


def undivided(train: int, test: int) -> str:
    """The counts of a training, which learns from J_1, J_2 and J_val alike."""
    return f"{train:,} images to train on, {test:,} to test on"


@dataclass(frozen=True)
class DataConfig:
    """Settings of a data set, which `load` reads.

    Raises:
        ValueError: a value is out of range.
    """

    streamed: ClassVar[bool] = False
    """Whether it is too large for memory: networks are trained on it, no search is made."""
    packaged: ClassVar[bool] = False
    """Whether its files come with this package, so that a folder of the user's has no meaning."""

    image_size: int = 32
    """Side of the square images in pixels: a multiple of 4 from 16; with a GAN 16, 32 or 64 (paper's CIFAR: 32)."""
    split_seed: int = 0
    """Seed of the split into J_1, J_2 and J_val. It does not follow --seed, so that searches share a split."""
    split: Literal["stratified", "contiguous"] = "stratified"
    """How J_1 and J_2 are drawn: stratified by class (our choice), or contiguous by index (DARTS's code)."""
    weight_portion: float = 0.5
    """Share of the training images that is J_1, from 0 to 1; the others are J_2 (paper, Section 5.2: 0.5)."""
    holdout: float = 0.0
    """Share of the training images that is set aside as J_val before J_1 and J_2 are drawn, from 0 to 1 (paper: 0)."""
    limit: int = 0
    """Largest number of training images to use, drawn by class; 0 uses all."""
    cutout: int = 0
    """Side of the square that cutout blanks, in pixels; 0 turns cutout off (DARTS's final training on CIFAR: 16)."""

    def __post_init__(self) -> None:
        if self.image_size % STEP or not SMALLEST <= self.image_size <= LARGEST:
            raise ValueError(
                f"data.image_size is {self.image_size}: choose a multiple of {STEP} from {SMALLEST} to {LARGEST}, "
                "and with a GAN 16, 32 or 64"
            )
        if self.split not in ("stratified", "contiguous"):
            raise ValueError(f"data.split is {self.split!r}: choose 'stratified' or 'contiguous'")
        if not 0 < self.weight_portion < 1:
            raise ValueError(f"data.weight_portion is {self.weight_portion}: choose one between 0 and 1, such as 0.5")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.holdout is {self.holdout}: choose one from 0 to below 1, such as 0.1")
        if self.limit < 0:
            raise ValueError(f"data.limit is {self.limit}: choose a number of images, or 0 for all")
        if self.cutout < 0:
            raise ValueError(f"data.cutout is {self.cutout}: choose a length in pixels, or 0 for none")

    def class_count(self) -> int | None:
        """Number of classes; None where only the files tell."""
        return None

    def load(self, data_dir: str | None, device: str = "cpu") -> Data:
        """Reads the data set onto `device`.

        Args:
            data_dir: folder with the files, or None for the default place.

        Raises:
            ValueError: the files are missing or not as they should be. The message is one line.
        """
        raise NotImplementedError

    def open(self, data_dir: str | None, device: str = "cpu") -> Data | Photographs:
        """The data set for training a network: `load`, or for a streamed data set the list of its pictures."""
        return self.load(data_dir, device)
