"""StyleGAN2-ADA, class-conditional, in its authors' configuration for CIFAR (Karras et al.

2020, arXiv 1912.04958 and 2006.06676): skip generator, discriminator without residuals, R1 every 16 steps and adaptive
augmentation, without path length regularisation and style mixing, in float32.

Differences from the authors' code: numbers that are not finite end the search (theirs replaces them in gradients); the
minibatch deviation has groups for every batch size; the augmentation resamples in a simpler way (see `_ada`), and its
probability is at most 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dasgm.gans._base import WIDEST, Discriminate, Gan, GanConfig, Loss, check_size

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Config(GanConfig):
    """StyleGAN2 with adaptive discriminator augmentation."""

    channels: int = 512
    """Number of channels of every map in generator and discriminator (StyleGAN2-ADA for CIFAR: 512)."""
    generator_lr: float = 2e-3
    """Learning rate of the generator G (Eq. 4, Adam; StyleGAN2-ADA: 0.0025 times 4/5 for lazy regularization)."""
    discriminator_lr: float = 2.5e-3
    """Learning rate of the discriminator E (Eq. 5, Adam; StyleGAN2-ADA: 0.0025).
    With R1 it is multiplied by r1_interval / (r1_interval + 1), as published."""
    warmup_lr: float = 2e-3
    """Learning rate of the generator in the --gan.warmup iterations (our choice)."""
    z_dim: int = 512
    """Length of the noise vector (StyleGAN2-ADA: 512)."""
    w_dim: int = 512
    """Length of the vector into which the mapping network turns noise and label (StyleGAN2-ADA: 512)."""
    r1_gamma: float = 0.01
    """Strength of the R1 penalty; 0 turns it off (StyleGAN2-ADA for CIFAR: 0.01)."""
    r1_interval: int = 16
    """Number of discriminator steps between two R1 steps (StyleGAN2-ADA: 16)."""
    augment: bool = True
    """Augment all images that the discriminator sees (StyleGAN2-ADA: yes)."""
    augment_start: float = 0.0
    """Initial probability of each augmentation, from 0 to 1 (StyleGAN2-ADA: 0)."""
    augment_target: float = 0.6
    """Target for the mean sign of the discriminator on real images; the probability follows it (StyleGAN2-ADA: 0.6)."""
    augment_interval: int = 4
    """Number of discriminator steps between two changes of the probability (StyleGAN2-ADA: 4)."""
    augment_kimg: float = 500.0
    """Thousands of real images in which the probability can rise from 0 to 1 (StyleGAN2-ADA for CIFAR: 500)."""
    average_half_life: float = 7812.5
    """Half-life of the generator's moving average, in generator steps (StyleGAN2-ADA: 500,000 images)."""
    average_rampup: float = 0.05
    """Largest half-life of the moving average, as a share of the steps so far (StyleGAN2-ADA for CIFAR: 0.05)."""
    b_init: float = 2.0
    """Initial lead, in logits, of the default operations in a searched discriminator B.
    The paper gives none: our choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("z_dim", "w_dim"):
            self.ensure(name, 1, WIDEST)
        for name in ("r1_interval", "augment_interval"):
            self.ensure(name, 1)
        for name in ("r1_gamma", "average_half_life", "average_rampup"):
            self.ensure(name, 0)
        self.ensure("augment_start", 0, 1)
        self.ensure("augment_target", -1, 1)
        self.ensure("augment_kimg", 1e-3)

    def build(self, classes: int, size: int, searched: bool) -> StyleGan2Ada:
        from dasgm.gans._ada import Augmentation
        from dasgm.gans._searchable import relax
        from dasgm.gans._stylegan2 import Discriminator, Generator, edges

        gan = StyleGan2Ada(self)
        gan.classes, gan.z_dim = classes, self.z_dim
        gan.generator = Generator(classes, check_size(size), self.channels, self.z_dim, self.w_dim)
        adaptive = (self.augment_start, self.augment_target, self.augment_interval, 1000 * self.augment_kimg)
        stock = Discriminator(classes, size, self.channels, Augmentation(size, *adaptive) if self.augment else None)
        gan.discriminator, gan.architecture = relax(stock, edges(stock), searched, self.b_init)
        return gan


class StyleGan2Ada(Gan):
    """Losses, optimisers and moving average of StyleGAN2-ADA.

    Real and generated images pass through the discriminator separately, so that the minibatch deviation never mixes
    them. R1 is an optimiser step of its own, after the logistic loss.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def generator_loss(self, discriminate: Discriminate, fake: Tensor, y: Tensor) -> Tensor:
        from torch.nn.functional import softplus

        return softplus(-discriminate(fake, y)).mean()

    def discriminator_losses(self, turn: int) -> list[Loss]:
        penalty = partial(r1, self.config.r1_gamma * self.config.r1_interval)
        return [logistic, penalty] if self.phase(turn) else [logistic]

    def phase(self, turn: int) -> bool:
        """Whether this turn takes an R1 step."""
        return bool(self.config.r1_gamma) and turn % self.config.r1_interval == 0

    def generator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        return _adam(params, self.config.generator_lr, 4 / 5)

    def discriminator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        # compensates for the additional R1 steps (Karras et al. 2020a, appendix B)
        share = self.config.r1_interval / (self.config.r1_interval + 1) if self.config.r1_gamma else 1.0
        return _adam(params, self.config.discriminator_lr * share, share)

    def average_decay(self, step: int) -> float:
        half_life = min(self.config.average_half_life, self.config.average_rampup * step)
        return 0.5 ** (1 / half_life) if half_life else 0.0


def logistic(discriminate: Discriminate, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Tensor:
    """Non-saturating logistic loss. The augmentation adapts to the logits of these real images."""
    from torch.nn.functional import softplus

    return softplus(discriminate(fake, y_fake)).mean() + softplus(-discriminate(real, y, True)).mean()


def r1(gamma: float, discriminate: Discriminate, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Tensor:
    """The R1 penalty, gamma / 2 E |d logit / d real image|^2, of images before augmentation (Mescheder et al.

    2018, arXiv 1801.04406).
    """
    from torch.autograd import grad

    real = real.detach().requires_grad_()
    (slope,) = grad(discriminate(real, y).sum(), real, create_graph=True)
    return gamma / 2 * slope.square().sum((1, 2, 3)).mean()


def _adam(params: Iterable[Tensor], lr: float, share: float) -> Optimizer:
    from torch.optim import Adam

    return Adam(params, lr=lr, betas=(0.0, 0.99**share), eps=1e-8)
