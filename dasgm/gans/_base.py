"""The interface of a GAN: a configuration that builds networks, losses and optimisers. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Discriminate: TypeAlias = Callable[..., Any]  # (images, labels) -> what the GAN's own discriminator returns
Loss: TypeAlias = "Callable[[Discriminate, Tensor, Tensor, Tensor, Tensor], Tensor]"
Parameters: TypeAlias = "dict[str, Tensor]"

SIZES = (16, 32, 64)
WIDEST = 2**16  # largest width of a layer that is accepted


@dataclass(frozen=True)
class GanConfig:
    """Settings that every GAN has. The file of a GAN derives its own frozen dataclass `Config` from this class."""

    channels: int = 64
    """Base width of generator and discriminator, in channels (BigGAN for CIFAR: 64)."""
    generator_lr: float = 2e-4
    """Learning rate of the generator G (Eq. 4, Adam; BigGAN and ContraGAN for CIFAR: 2e-4)."""
    discriminator_lr: float = 2e-4
    """Learning rate of the discriminator E (Eq. 5, Adam; BigGAN and ContraGAN for CIFAR: 2e-4)."""
    warmup: int = 0
    """Number of iterations for which the GAN is trained on J_2 before the search begins (paper: 0)."""
    warmup_lr: float = 2e-4
    """Learning rate of the generator in the --gan.warmup iterations (our choice)."""
    warmup_batch_size: int = 64
    """Number of images in a batch of the --gan.warmup iterations (our choice)."""
    pretrain_iterations: int = 0
    """Number of generator steps of a pre-training (our choice). 0 uses --gan.warmup, and 50,000 if that is 0 too."""
    pretrain_discriminator_steps: int = 1
    """Number of discriminator steps per generator step of a pre-training, each on its own images (our choice)."""

    def __post_init__(self) -> None:
        self.ensure("channels", 1, WIDEST)
        for name in ("generator_lr", "discriminator_lr", "warmup_lr", "warmup", "pretrain_iterations"):
            self.ensure(name, 0)
        self.ensure("warmup_batch_size", 2)
        self.ensure("pretrain_discriminator_steps", 1)

    def ensure(
        self, name: str, least: float = -inf, most: float = inf, *, above: float = -inf, below: float = inf
    ) -> None:
        """Raises ValueError unless the setting `name` is finite, from `least` to `most`, above `above` and below
        `below`.
        """
        value = getattr(self, name)
        if least <= value <= most and above < value < below:
            return
        bounds = {f"at least {least}": least, f"at most {most}": most, f"above {above}": above, f"below {below}": below}
        expected = " and ".join(words for words, bound in bounds.items() if abs(bound) < inf)
        if -inf < least and most < inf:
            expected = f"{least} to {most}"
        if not -inf < value < inf:
            expected += ", finite"
        raise ValueError(f"gan.{name} {value}: expected {expected}")

    @property
    def pretraining_length(self) -> int:
        """Number of iterations of a pre-training: the setting, else the warmup, else 50,000.

        The paper gives none. With CIFAR's J_2, 50,000 iterations are 128 passes with one discriminator step each, and
        512 with four. StudioGAN's curves are flat there (FID of BigGAN: 14.9 at 20,000, 8.9 at 50,000, 8.1 at 100,000).
        """
        return self.pretrain_iterations or self.warmup or 50_000

    def build(self, classes: int, size: int, searched: bool) -> Gan:
        """Builds the GAN.

        Args:
            classes: number of classes.
            size: side of the square images, in pixels.
            searched: whether the discriminator's architecture B can be searched.

        Raises:
            ValueError: the GAN does not make images of this size.
        """
        raise NotImplementedError


def check_size(size: int) -> int:
    """Returns `size`. Raises ValueError where the GANs of this package do not make images of this size."""
    if size not in SIZES:
        raise ValueError(f"image size {size}: a GAN makes images of 16, 32 or 64 pixels; choose one of these")
    return size


class Gan:
    """Networks, losses and settings of the optimisers. It is not a module and has no state of its own.

    All state is in the parameters and buffers of the modules, and `forward` updates the buffers. In the losses,
    `discriminate` is `lambda *a: discriminator(b, *a)`. Images are [N, 3, S, S] in [-1, 1], labels int64 [N]. A
    generator without tanh may exceed [-1, 1]; its images are clipped where they are shown or measured, never where
    gradients pass.
    """

    z_dim: int
    classes: int
    generator: nn.Module  # (z [N, z_dim], y [N]) -> images
    discriminator: nn.Module  # (b, images, y) -> what the losses below expect
    architecture: nn.Module  # () -> b; no parameters, and b = (), where B is not searched
    regularise: Callable[[Parameters], Parameters] | None = None  # of G: extra gradient from its raw weights

    def generator_loss(self, discriminate: Discriminate, fake: Tensor, y: Tensor) -> Tensor:
        """The loss that G descends: -L_GAN of Eq. 4."""
        raise NotImplementedError

    def discriminator_losses(self, turn: int) -> list[Loss]:
        """The losses that E descends (Eq. 5) in its step number `turn`, counted from 0.

        E takes one optimiser step on each, in order.

        Each is loss(discriminate, real, y, fake, y_fake).
        """
        raise NotImplementedError

    def phase(self, turn: int) -> Hashable | None:
        """What `discriminator_losses(turn)` depends on: equal for turns with the same losses.

        With this, a GPU can take the iterations of a search as CUDA graphs, if all random numbers come from
        `dasgm.bilevel.draw` and nothing waits for the GPU. None: these iterations are taken one by one.
        """
        return None

    def generator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        """The optimiser of G, torch's SGD without Nesterov momentum or Adam."""
        raise NotImplementedError

    def discriminator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        """The optimiser of E, likewise."""
        raise NotImplementedError

    def average_decay(self, step: int) -> float:
        """Decay of the moving average of G in its step number `step`, counted from 1. 0 copies the weights."""
        raise NotImplementedError
