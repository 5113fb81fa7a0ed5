"""ContraGAN (Kang & Park 2020, arXiv 2006.12681) on the BigGAN of its authors' StudioGAN, in its settings for CIFAR.

The generator of that BigGAN is wider than its discriminator. Both have self-attention where the map is half as large as
the image: 16x16 at 32 pixels, 8x8 at 16 and 32x32 at 64 (as the authors have it for Tiny ImageNet). Unlike in StudioGAN
no ReLU works in place, since that would apply one to the shortcuts as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.gans._base import WIDEST, Discriminate, Loss
from dasgm.gans._recipe import ResnetConfig, ResnetGan, hinge

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Config(ResnetConfig):
    """ContraGAN: the hinge loss plus the conditional contrastive loss 2C, which E takes of real images and G of its
    own.

    `positives_in_numerator` gives the 2C loss of the paper. With it an image need not be close to the proxy of its
    class: it suffices that the images of a class are similar, and G may reproducibly draw deer where birds are asked
    for (StudioGAN, issue 81: FID within a class 119.6 against BigGAN's 14.3, although over all classes 6.0 against 4.2;
    on the digits, zeros for sevens). The search uses generated images with their labels. The default therefore has only
    the proxy in the numerator, which ties every image to its label; the maintainer of StudioGAN recommends the same.
    Watch `gan/synthetic_accuracy` if you turn it on.
    """

    channels: int = 96
    """Base width, in channels: the generator is 4 times as wide, the discriminator twice (StudioGAN: 96)."""
    z_dim: int = 80
    """Length of the noise vector, cut into equal parts: one for the 4x4 map and one for each block (StudioGAN: 80)."""
    embedding_std: float = 0.088
    """Standard deviation of the initial class embedding (our choice: rows of length 1 at --gan.shared-dim 128)."""
    orthogonal: float = 0.0
    """Strength of the generator's orthogonal regularization; 0 turns it off (StudioGAN: 0)."""
    contrast_dim: int = 512
    """Length of the vectors in which images are compared with the class proxies (StudioGAN: 512)."""
    conditional_strength: float = 1.0
    """Weight of the contrastive loss 2C beside the hinge loss (StudioGAN: 1)."""
    temperature: float = 1.0
    """Temperature of the contrastive loss 2C (StudioGAN: 1)."""
    pretrain_discriminator_steps: int = 5
    """Number of discriminator steps after each generator step of a pre-training (StudioGAN: 5)."""
    positives_in_numerator: bool = False
    """Count images of the same class in the numerator of 2C (ContraGAN paper: yes).
    Off, because it may swap classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure("contrast_dim", 1, WIDEST)
        self.ensure("conditional_strength", 0)
        self.ensure("temperature", above=0)

    def build(self, classes: int, size: int, searched: bool) -> ContraGan:
        from dasgm.gans._contrastive import ContrastiveDiscriminator
        from dasgm.gans._resnet import Generator, edges, start_orthogonal
        from dasgm.gans._searchable import relax

        chunks, chunk = self.cut(size)
        gan = ContraGan(self)
        gan.classes, gan.z_dim = classes, chunks * chunk
        gan.generator = Generator(
            classes, size, 4 * self.channels, self.shared_dim, chunk, self.embedding_std, attention=True, eps=1e-4
        )
        stock = ContrastiveDiscriminator(classes, size, 2 * self.channels, self.contrast_dim)
        gan.discriminator, gan.architecture = relax(stock, edges(stock), searched, self.b_init)
        start_orthogonal(gan.generator, gan.discriminator)
        return gan


class ContraGan(ResnetGan):
    betas, eps = (0.5, 0.999), 1e-6

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def generator_loss(self, discriminate: Discriminate, fake: Tensor, y: Tensor) -> Tensor:
        logits, images, proxies = discriminate(fake, y)
        return self._contrast(images, proxies, y) - logits.mean()

    def discriminator_losses(self, turn: int) -> list[Loss]:
        return [self.discriminator_loss]

    def discriminator_loss(
        self, discriminate: Discriminate, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor
    ) -> Tensor:
        """Hinge loss plus 2C of the real images.

        Real and generated images share one pass, so that the spectral norm iterates once.
        """
        from torch import cat

        n = len(real)
        logits, images, proxies = discriminate(cat([real, fake]), cat([y, y_fake]))
        return hinge(logits, n) + self._contrast(images[:n], proxies[:n], y)

    def _contrast(self, images: Tensor, proxies: Tensor, y: Tensor) -> Tensor:
        from dasgm.gans._contrastive import contrast

        config = self.config
        loss = contrast(images, proxies, y, config.temperature, config.positives_in_numerator)
        return config.conditional_strength * loss
