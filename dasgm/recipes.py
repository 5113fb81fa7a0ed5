"""How a found network is trained from scratch: the papers' recipes and small sizes of them. Free of torch.

Sources: the papers' texts and settings of DARTS (arXiv 1806.09055), P-DARTS (1904.12760), PC-DARTS (1907.05737).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from dasgm.config import LARGEST_BATCH, PLACEMENT, _check, _check_placement
from dasgm.data import cifar10, digits, folder, imagenet
from dasgm.data._augmentation import Augmentation
from dasgm.data._base import YOUNGER, DataConfig
from dasgm.methods._base import MOST_CELLS, WIDEST
from dasgm.options import option
from dasgm.plugins import nearest

MOST_FOLDS = 100
PHOTOGRAPHS = "photographs"  # the recipe of a folder's pictures above `IN_MEMORY` pixels
LAST = 5  # epochs in which the linear schedule goes down more slowly


@dataclass(frozen=True)
class EvaluateConfig:
    """One training from scratch on the whole training set. The defaults are DARTS's for CIFAR."""

    data: DataConfig
    form: Literal["cifar", "imagenet"] = "cifar"
    """Stem of the network: cifar keeps the size of the images, imagenet divides it by 8 (DARTS's two networks)."""
    cells: int = 20
    """Number of cells of the network (DARTS: 20 for CIFAR, 14 for ImageNet)."""
    channels: int = 36
    """Number of channels in the first cells; each reduction cell doubles it (DARTS: 36 for CIFAR, 48 for ImageNet)."""
    epochs: int = 600
    """Number of training epochs (DARTS: 600 for CIFAR, 250 for ImageNet).
    A continued run keeps its number, because the learning rate and drop-path depend on it."""
    batch_size: int = 96
    """Number of images in a batch, per worker (paper, Section 5.2: 96 for CIFAR)."""
    lr: float = 0.025
    """Initial learning rate (SGD; DARTS: 0.025 for CIFAR)."""
    lr_schedule: Literal["cosine", "linear"] = "cosine"
    """Schedule of the learning rate: cosine falls to 0; linear falls towards 0, more slowly in the last five epochs.
    P-DARTS and PC-DARTS use linear on ImageNet, DARTS cosine on CIFAR."""
    warmup_epochs: int = 0
    """Number of epochs at the start in which the rate rises to --lr in equal steps (PC-DARTS on ImageNet: 5)."""
    momentum: float = 0.9
    """Momentum of the SGD optimizer (DARTS: 0.9)."""
    nesterov: bool = field(default=False, metadata=YOUNGER)
    """Use Nesterov's momentum (NAS-Bench-201: yes)."""
    weight_decay: float = 3e-4
    """Weight decay of the SGD optimizer (DARTS: 3e-4 for CIFAR, 3e-5 for ImageNet)."""
    clip: float = 5.0
    """Largest norm of the gradient; a longer one is scaled down to it, 0 sets no limit (DARTS: 5)."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss; 0 leaves the head out (DARTS: 0.4)."""
    drop_path: float = 0.2
    """Final probability of dropping a path; it rises linearly from 0 over the epochs (DARTS's code: 0.2).
    P-DARTS and PC-DARTS use 0.3 on CIFAR and 0 on ImageNet."""
    label_smoothing: float = 0.0
    """Label smoothing of the training loss, from 0 to 1 (DARTS on ImageNet: 0.1)."""
    balance: Literal["none", "sampling", "loss"] = field(default="none", metadata=YOUNGER)
    """What makes up for classes of unequal size: none, sampling or loss (our choice: none).
    sampling: of the N images of an epoch each of the C classes has N / C, rounded; a class that has more leaves some
    out, at random in each epoch, and one that has fewer repeats its images, each with draws of its own.
    loss: the loss of an image of class c, of n_c training images, is multiplied by N / (C n_c), and a batch's loss is
    the mean over its images. Either way all classes have the same weight in the mean over an epoch."""
    calibration: float = field(default=0.0, metadata=YOUNGER)
    """Share of the training images, drawn by class, that is held out, from 0 to below 1 (our choice: 0).
    The temperature of the probabilities is set on them, and nothing else; dasgm predict gives probabilities without it.
    With 0 no temperature is set."""
    folds: int = field(default=0, metadata=YOUNGER)
    """Number K of parts into which all images are divided by class, training and test images together (our choice: 0).
    K networks are trained, each on all parts but one, on which it is measured. 0: one network, measured on the test
    set. Only for data sets that are held in memory."""
    fold: int = field(default=0, metadata=YOUNGER)
    """Number, from 1, of the one part of --folds that is measured (our choice: 0, which measures each part in turn)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of training: auto is bfloat16 on a GPU that supports it (our choice), else float32 without TF32.
    The weights stay float32, and the error is always measured in float32."""
    crop: bool = field(default=True, metadata=YOUNGER)
    """Crop training images at random: in memory after padding by an eighth of the side (DARTS on CIFAR), streamed ones
    to 8 to 100 % of the picture (DARTS on ImageNet). Without it they are cropped as the test's."""
    flip: bool = field(default=True, metadata=YOUNGER)
    """Mirror half of the training images left to right (DARTS; never the digits)."""
    colour: Literal["auto", "on", "off"] = field(default="auto", metadata=YOUNGER)
    """Change brightness, contrast and saturation of training images by up to 40 %, the hue by up to a fifth of the
    circle (DARTS on ImageNet): on, off, or auto, which does so for streamed pictures only."""
    augment: Literal["none", "randaugment", "trivialaugment"] = field(default="none", metadata=YOUNGER)
    """Policy of torchvision that changes training images besides: randaugment (two operations of strength 9 of 31;
    arXiv 1909.13719), trivialaugment (one of any strength; arXiv 2103.10158), or none (our choice)."""
    seed: int = 0
    """Seed of everything random: initial weights, batches, augmentation, drop-path."""
    channels_last: bool = field(default=True, metadata=PLACEMENT)
    """Store images with channels last in the memory of a GPU, which is faster. On a CPU this is always done."""
    cuda_graph: Literal["off", "on", "auto"] = field(default="off", metadata=PLACEMENT)
    """Record a training step as a CUDA graph, which a GPU repeats by itself: off, on, or auto (only if it works)."""
    compile: bool = field(default=False, metadata=PLACEMENT)
    """Compile the network with torch.compile before the training. It takes minutes, and its rounding differs."""
    data_dir: str | None = field(default=None, metadata=PLACEMENT)
    """Folder with the data set's files. A continued run may name another folder if the files hold the same data."""
    device: str = field(default="auto", metadata=PLACEMENT)
    """Device to compute on: auto (a GPU if there is one), cpu, cuda, cuda:N (GPU number N) or mps."""
    threads: int | None = field(default=None, metadata=PLACEMENT)
    """Number of CPU threads per worker; None uses PyTorch's default. A continued run keeps its number."""
    checkpoints: int = field(default=2, metadata=PLACEMENT)
    """Number of most recent checkpoints to keep, in addition to the best one."""

    def __post_init__(self) -> None:
        _check(
            self,
            cells=(3, MOST_CELLS),
            channels=(2, WIDEST),
            epochs=(1, None),
            batch_size=(2, LARGEST_BATCH),
            lr=(0, None),
            warmup_epochs=(0, None),
            momentum=(0, 1),
            weight_decay=(0, None),
            clip=(0, None),
            auxiliary=(0, None),
            drop_path=(0, 1),
            label_smoothing=(0, 1),
            calibration=(0, 1),
            folds=(0, MOST_FOLDS),
            fold=(0, self.folds),
            checkpoints=(1, None),
        )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: momentum is 0; expected a momentum, such as 0.9")
        if self.balance not in ("none", "sampling", "loss"):
            raise ValueError(f"balance {self.balance!r}: expected none, sampling or loss")
        if self.folds == 1 or (self.folds and self.data.streamed):
            raise ValueError(f"folds {self.folds}: expected 0, or for a data set that is not streamed at least 2")
        if self.calibration == 1:
            raise ValueError("calibration 1.0: expected a number below 1, such as 0.1")
        if self.drop_path == 1:
            raise ValueError("drop-path 1.0: expected a number below 1")
        if self.lr_schedule == "linear" and self.epochs <= LAST:
            raise ValueError(
                f"epochs {self.epochs}: the linear schedule needs at least {LAST + 1}; choose {option('lr_schedule')} "
                "cosine"
            )
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup-epochs {self.warmup_epochs}: expected at most the number of epochs, {self.epochs}"
            )
        if self.compile and self.cuda_graph != "off":
            raise ValueError(
                f"compile: a compiled network is not recorded as a CUDA graph; choose {option('cuda_graph')} off"
            )
        _check_placement(self)

    @property
    def augmentation(self) -> Augmentation:
        """What changes the training images."""
        return Augmentation(self.crop, self.flip, self.colour, self.augment)

    def learning_rate(self, epoch: int) -> float:
        """In `epoch` (from 0), constant within it."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / self.warmup_epochs
        if self.lr_schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        span = self.epochs - LAST
        left = (span - epoch) if epoch < span else (self.epochs - epoch) / LAST
        return self.lr * left / span

    def drop_path_rate(self, epoch: int) -> float:
        """In `epoch` (from 0): none in the first."""
        return self.drop_path * epoch / self.epochs


@dataclass(frozen=True)
class Recipe:
    """A configuration, whose batch size is that of all workers together; what it is; what had to be decided."""

    config: EvaluateConfig
    about: str
    choices: tuple[str, ...] = ()
    """What the sources leave open or contradict, how it is decided here, and why."""


IMAGENET = EvaluateConfig(
    form="imagenet",
    data=imagenet.Config(image_size=224),
    cells=14,
    channels=48,
    epochs=250,
    batch_size=512,
    lr=0.25,
    lr_schedule="linear",
    warmup_epochs=5,
    weight_decay=3e-5,
    drop_path=0.0,
    label_smoothing=0.1,
)
IMAGENET_SMALL = replace(
    IMAGENET,
    data=imagenet.Config(image_size=64),
    cells=5,
    channels=8,
    epochs=10,
    batch_size=32,
    lr=0.05,
    warmup_epochs=1,
)

NASBENCH201 = EvaluateConfig(
    data=cifar10.Config(),
    cells=17,
    channels=16,
    epochs=200,
    batch_size=256,
    lr=0.1,
    nesterov=True,
    weight_decay=5e-4,
    clip=0.0,
    auxiliary=0.0,
    drop_path=0.0,
)
RECIPES: dict[str, Recipe] = {
    "cifar": Recipe(
        EvaluateConfig(data=cifar10.Config(cutout=16)),
        "CIFAR-10 and CIFAR-100: 20 cells of 36 channels, 600 epochs, batch 96 (Section 5.2)",
        (
            "drop-path 0.2, DARTS's setting (the 0.3 of its text is a slip, its author says); P-DARTS and PC-DARTS "
            "have 0.3: --drop-path 0.3 for their networks",
            "batch 96, as the paper and DARTS; P-DARTS's own is 128",
            "the last epoch is the result, as DARTS reports; PC-DARTS reports the best on the test set, shown beside",
            "bfloat16 on a GPU; the originals trained in float32 (--precision float32)",
        ),
    ),
    "imagenet": Recipe(
        IMAGENET,
        "ImageNet: 14 cells of 48 channels, 250 epochs, batch 512 in all",
        (
            "rate 0.25 for batch 512, which no source gives: PC-DARTS's 0.5 for 1024, whose schedule and warm-up these "
            "are, scaled with the batch; DARTS's 0.1 for 128 would give 0.4, P-DARTS's 0.1 for 256 would give 0.2",
            "linear schedule, its last five epochs apart, and five epochs of warm-up: PC-DARTS's, as P-DARTS's but for "
            "the warm-up's rates; DARTS multiplies by 0.97 every epoch",
            "no second norm in the auxiliary head, as DARTS and PC-DARTS",
        ),
    ),
    # Small sizes of the same training, for CPUs: fewer steps, so the rates are higher and drop-path is off.
    "cifar-small": Recipe(
        EvaluateConfig(
            data=cifar10.Config(cutout=8, limit=6000),
            cells=5,
            channels=8,
            epochs=10,
            batch_size=64,
            lr=0.05,
            drop_path=0.0,
        ),
        "6,000 CIFAR pictures, 5 cells of 8 channels, 10 epochs: some minutes on two cores",
    ),
    "digits-small": Recipe(
        EvaluateConfig(
            data=digits.Config(cutout=4),
            cells=5,
            channels=8,
            epochs=10,
            batch_size=32,
            lr=0.05,
            drop_path=0.0,
            threads=1,
        ),
        "the digits, 5 cells of 8 channels, 10 epochs: a minute on two cores",
    ),
    # Trainings of a cell of NAS-Bench-201, whose networks have no auxiliary head.
    "nasbench201": Recipe(
        NASBENCH201,
        "the table of NAS-Bench-201: 5 cells a stage, 16 channels, 200 epochs",
        (
            "crop, flip, Nesterov's momentum, no cutout, no clipping: the benchmark's; it averages up to three seeds",
            "17 cells are its 15 cells and 2 residual blocks",
            "bfloat16 on a GPU; the benchmark trained in float32 (--precision float32)",
        ),
    ),
    "nasbench201-small": Recipe(
        replace(NASBENCH201, data=digits.Config(), cells=5, channels=8, epochs=10, batch_size=32, lr=0.05, threads=1),
        "the same training of the digits: a cell a stage, 8 channels, 10 epochs: a minute on two cores",
    ),
    PHOTOGRAPHS: Recipe(
        replace(
            IMAGENET,
            data=folder.Config(image_size=224),
            batch_size=128,
            lr=0.1,
            lr_schedule="cosine",
        ),
        "your own photographs above 64 pixels: the ImageNet form, 14 cells of 48 channels, 250 epochs, batch 128",
        (
            "rate 0.1 for batch 128, DARTS's own on ImageNet; a cosine, which suits any number of epochs (our choice)",
            "the other settings are those of the recipe imagenet",
        ),
    ),
    "photographs-small": Recipe(
        replace(IMAGENET_SMALL, data=folder.Config(image_size=224), epochs=30, lr_schedule="cosine"),
        "the same for a CPU: 5 cells of 8 channels, 30 epochs, batch 32",
    ),
    "imagenet-small": Recipe(
        IMAGENET_SMALL,
        "the ImageNet form on pictures of 64 pixels, 5 cells of 8 channels, 10 epochs",
    ),
}


def recipe(name: str) -> Recipe:
    """The recipe called `name`. ValueError names the nearest."""
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is not known{nearest(name, list(RECIPES))}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]


def per_worker(config: EvaluateConfig, workers: int) -> EvaluateConfig:
    """A recipe's configuration, its batch shared among `workers`. ValueError where it does not divide."""
    if config.batch_size % workers:
        raise ValueError(
            f"a batch of {config.batch_size} images cannot be shared equally by {workers} workers: "
            f"choose another number of --workers, or set the {option('batch_size')} of each worker"
        )
    return replace(config, batch_size=config.batch_size // workers)


def on(config: EvaluateConfig, data: DataConfig) -> EvaluateConfig:
    """The same recipe on a search's data set; cutout takes the same share of its images."""
    cutout = config.data.cutout * data.image_size // config.data.image_size
    return replace(config, data=replace(data, cutout=cutout, limit=config.data.limit))
