"""What every GAN is to the search: a configuration that builds networks, losses and optimisers. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Discriminate: TypeAlias = Callable[..., Any]  # (images, labels) -> what the GAN's own discriminator returns
Loss: TypeAlias = "Callable[[Discriminate, Tensor, Tensor, Tensor, Tensor], Tensor]"
Parameters: TypeAlias = "dict[str, Tensor]"

SIZES = (16, 32, 64)
WIDEST = 2**16  # of any layer's setting; beyond is a slip, or worse


@dataclass(frozen=True)
class GanConfig:
    """Settings of a GAN. A file in this folder has a frozen dataclass `Config` derived from it."""

    channels: int = 64
    """Base width of generator and discriminator, in channels."""
    generator_lr: float = 2e-4
    """Learning rate of the generator G (Eq. 4, Adam; BigGAN and ContraGAN for CIFAR: 2e-4)."""
    discriminator_lr: float = 2e-4
    """Learning rate of the discriminator E (Eq. 5, Adam; BigGAN and ContraGAN for CIFAR: 2e-4)."""
    warmup: int = 0
    """Number of iterations that the GAN is trained on J_2 before the search begins (the paper has none: 0)."""
    warmup_lr: float = 2e-4
    """Learning rate of the generator in those iterations."""
    warmup_batch_size: int = 64
    """Number of images in a batch of those iterations."""
    pretrain_iterations: int = 0
    """Number of generator steps of a pre-training. 0 takes as many as --gan.warmup, and 50,000 if that is 0 too."""
    pretrain_discriminator_steps: int = 1
    """Number of discriminator steps after each generator step of a pre-training, each on images of its own."""

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
        `below`."""
        value = getattr(self, name)
        if least <= value <= most and above < value < below:
            return
        bounds = {f"at least {least}": least, f"at most {most}": most, f"above {above}": above, f"below {below}": below}
        expected = " and ".join(words for words, bound in bounds.items() if abs(bound) < inf)
        if -inf < least and most < inf:
            expected = f"{least} to {most}"
        if not isfinite(value):
            expected += ", finite"
        raise ValueError(f"gan.{name} {value}: expected {expected}")

    @property
    def pretraining_length(self) -> int:
        """Iterations of a pre-training. 50,000 by default, on CIFAR 128 passes over J_2 with one discriminator step and
        512 with four: the paper says nothing, and StudioGAN's curves have flattened there (BigGAN's FID: 14.9 at
        20,000, 8.9 at 50,000, 8.1 at 100,000)."""
        return self.pretrain_iterations or self.warmup or 50_000

    def build(self, classes: int, size: int, searched: bool) -> Gan:
        """Networks for `classes` and square images of `size` pixels; `searched`: with the discriminator's
        architecture B. Raises ValueError where size is not among SIZES."""
        raise NotImplementedError


def check_size(size: int) -> int:
    """`size`, or a ValueError where no GAN of ours makes such images."""
    if size not in SIZES:
        raise ValueError(f"image size {size}: a GAN makes images of 16, 32 or 64 pixels; choose one of these")
    return size


class Gan:
    """Networks, losses and settings of the optimisers; not a module, without state of its own.

    All state is in the modules' parameters and buffers, and buffers are written in forward. In the losses
    `discriminate` is `lambda *a: discriminator(b, *a)`; images are [-1, 1] NCHW, labels int64 [N]. A generator without
    tanh goes beyond [-1, 1]: its images are cut off where they are shown or measured, never where gradients pass.
    """

    z_dim: int
    classes: int
    generator: nn.Module  # (z [N, z_dim], y [N]) -> images
    discriminator: nn.Module  # (b, images, y) -> what the losses below expect
    architecture: nn.Module  # () -> b; no parameters, and b = (), where B is not searched
    regularise: Callable[[Parameters], Parameters] | None = None  # of G: extra gradient from its raw weights

    def generator_loss(self, discriminate: Discriminate, fake: Tensor, y: Tensor) -> Tensor:
        """What G descends: -L_GAN of Eq. 4."""
        raise NotImplementedError

    def discriminator_losses(self, turn: int) -> list[Loss]:
        """What E descends (Eq. 5) at G's step `turn`: one step on each, in order.
        Each is loss(discriminate, real, y, fake, y_fake)."""
        raise NotImplementedError

    def generator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        raise NotImplementedError

    def discriminator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        raise NotImplementedError

    def average_decay(self, step: int) -> float:
        """Decay of G's moving average at its step `step`, counted from 1; 0 copies."""
        raise NotImplementedError
