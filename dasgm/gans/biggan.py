"""BigGAN (Brock et al. 2019) at the size of CIFAR, with what the paper names: shared class embedding, hierarchical z
("skip connections") and orthogonal regularisation. Other settings are those of the authors' recipe for CIFAR."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dasgm.gans._base import Discriminate, Gan, GanConfig, Loss, Parameters, check_size

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Config(GanConfig):
    """BigGAN with the hinge loss."""

    shared_dim: int = 128  # width of the class embedding that the generator's blocks share
    embedding_std: float = 0.02  # of its start; nearer to 1 the labels show sooner, for short runs
    z_dim: int = 128  # of the noise, cut into equal chunks: one for the 4x4 map, one for each block
    orthogonal: float = 1e-4  # strength of the orthogonal regularisation of the generator
    average_decay: float = 0.9999  # of the generator's moving average
    average_start: int = 1000  # iteration from which it averages; before, it copies
    pretrain_discriminator_steps: int = 4  # per generator step when pre-training: the authors' for CIFAR
    b_init: float = 2.0  # logit by which the default operations of a searched discriminator are ahead

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, low, high in (
            ("shared_dim", self.shared_dim, 1, math.inf),
            ("embedding_std", self.embedding_std, 0, math.inf),
            ("orthogonal", self.orthogonal, 0, math.inf),
            ("average_decay", self.average_decay, 0, 1),
        ):
            if not low <= value < high:
                raise ValueError(f"gan.{name} {value}: expected at least {low} and less than {high}")

    def build(self, classes: int, size: int, searched: bool) -> BigGan:
        from dasgm.gans._resnet import Discriminator, Generator, edges, generator_blocks
        from dasgm.gans._searchable import relax

        slots = generator_blocks(check_size(size)) + 1
        chunk = self.z_dim // slots
        if chunk < 1:
            raise ValueError(f"gan.z_dim {self.z_dim}: expected at least {slots} at {size} pixels, one number a chunk")
        gan = BigGan(self)
        gan.classes, gan.z_dim = classes, chunk * slots
        gan.generator = Generator(classes, size, self.channels, self.shared_dim, chunk, self.embedding_std)
        stock = Discriminator(classes, size, self.channels)
        gan.discriminator, gan.architecture = relax(stock, edges(stock), searched, self.b_init)
        return gan


class BigGan(Gan):
    def __init__(self, config: Config) -> None:
        self.config = config
        if config.orthogonal:
            self.regularise = partial(orthogonal_gradient, config.orthogonal)

    def generator_loss(self, discriminate: Discriminate, fake: Tensor, y: Tensor) -> Tensor:
        return -discriminate(fake, y).mean()

    def discriminator_losses(self, turn: int) -> list[Loss]:
        return [hinge]

    def generator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        return _adam(params, self.config.generator_lr)

    def discriminator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        return _adam(params, self.config.discriminator_lr)

    def average_decay(self, step: int) -> float:
        return self.config.average_decay if step >= self.config.average_start else 0.0


def hinge(discriminate: Discriminate, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Tensor:
    """Real and fake in one pass, so that the spectral norm iterates once."""
    from torch import cat

    logits = discriminate(cat([real, fake]), cat([y, y_fake]))
    return (1 - logits[: len(real)]).relu().mean() + (1 + logits[len(real) :]).relu().mean()


def orthogonal_gradient(strength: float, params: Parameters) -> Parameters:
    """2 strength (W W^T o (1 - I)) W for every raw weight matrix, 0 for vectors and the shared embedding
    (Brock et al., Eq. 3)."""
    return {
        name: strength * _orthogonal(p.detach().flatten(1)).view_as(p)
        if p.dim() > 1 and name != "shared.weight"
        else p.detach() * 0
        for name, p in params.items()
    }


def _orthogonal(w: Tensor) -> Tensor:
    from torch.linalg import multi_dot

    # W W^T W in the cheaper order, less what its diagonal gives
    return 2 * (multi_dot([w, w.mT, w]) - w.square().sum(1, keepdim=True) * w)


def _adam(params: Iterable[Tensor], lr: float) -> Optimizer:
    from torch.optim import Adam

    return Adam(params, lr=lr, betas=(0.0, 0.999), eps=1e-8)
