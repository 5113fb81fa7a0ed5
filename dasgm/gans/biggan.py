"""BigGAN for CIFAR (Brock et al.

2019), with the parts that the paper names: shared class embedding, hierarchical z ("skip connections") and orthogonal
regularisation. All other settings are those of the authors' code for CIFAR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.gans._base import Discriminate, Loss
from dasgm.gans._recipe import ResnetConfig, ResnetGan, hinge

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Config(ResnetConfig):
    """BigGAN with the hinge loss. Generator and discriminator are 4 * `channels` wide."""

    pretrain_discriminator_steps: int = 4
    """Number of discriminator steps after each generator step of a pre-training (BigGAN for CIFAR: 4)."""

    def build(self, classes: int, size: int, searched: bool) -> BigGan:
        from dasgm.gans._resnet import Discriminator, Generator, edges
        from dasgm.gans._searchable import relax

        chunks, chunk = self.cut(size)
        gan = BigGan(self)
        gan.classes, gan.z_dim = classes, chunks * chunk
        gan.generator = Generator(classes, size, 4 * self.channels, self.shared_dim, chunk, self.embedding_std)
        stock = Discriminator(classes, size, 4 * self.channels)
        gan.discriminator, gan.architecture = relax(stock, edges(stock), searched, self.b_init)
        return gan


class BigGan(ResnetGan):
    betas, eps = (0.0, 0.999), 1e-8

    def generator_loss(self, discriminate: Discriminate, fake: Tensor, y: Tensor) -> Tensor:
        return -discriminate(fake, y).mean()

    def discriminator_losses(self, turn: int) -> list[Loss]:
        return [discriminator_loss]


def discriminator_loss(discriminate: Discriminate, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Tensor:
    """The hinge loss. Real and generated images share one pass, so that the spectral norm iterates once."""
    from torch import cat

    return hinge(discriminate(cat([real, fake]), cat([y, y_fake])), len(real))
