"""What the GANs on BigGAN's networks share: settings, optimisers, moving average and hinge loss. Imports no torch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from dasgm.gans._base import WIDEST, Gan, GanConfig, Parameters, check_size

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass(frozen=True)
class ResnetConfig(GanConfig):
    """Settings of a GAN on the networks of `_resnet`."""

    shared_dim: int = 128
    """Length of the class embedding that all blocks of the generator share (BigGAN: 128)."""
    embedding_std: float = 0.02
    """Standard deviation of the initial class embedding (BigGAN for CIFAR: 0.02).
    With a value near 1, images show their class sooner, which short runs need."""
    z_dim: int = 128
    """Length of the noise vector, cut into equal parts: one for the 4x4 map and one for each block (BigGAN: 128)."""
    orthogonal: float = 1e-4
    """Strength of the generator's orthogonal regularization; 0 turns it off (BigGAN, Eq. 3: 1e-4)."""
    average_decay: float = 0.9999
    """Decay per step of the moving average of the generator (BigGAN: 0.9999)."""
    average_start: int = 1000
    """Generator step at which the moving average begins; before that it is a copy (BigGAN for CIFAR: 1000)."""
    b_init: float = 2.0
    """Initial lead, in logits, of the default operations in a searched discriminator B.
    The paper gives none: our choice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure("shared_dim", 1, WIDEST)
        self.ensure("embedding_std", 0)
        self.ensure("orthogonal", 0)
        self.ensure("average_decay", 0, below=1)

    def cut(self, size: int) -> tuple[int, int]:
        """Number of chunks into which z is cut for images of `size` pixels, and the length of each.

        Raises:
            ValueError: the GAN does not make images of this size, or z is too short or too long.
        """
        from dasgm.gans._resnet import generator_blocks

        slots = generator_blocks(check_size(size)) + 1
        if not slots <= self.z_dim <= WIDEST:
            raise ValueError(
                f"gan.z_dim {self.z_dim}: expected {slots} to {WIDEST}: at {size} pixels z has {slots} chunks"
            )
        return slots, self.z_dim // slots


class ResnetGan(Gan):
    """Optimisers (Adam), moving average and regularisation of a GAN on the networks of `_resnet`."""

    betas: ClassVar[tuple[float, float]]
    eps: ClassVar[float]

    def __init__(self, config: ResnetConfig) -> None:
        self.settings = config
        if config.orthogonal:
            self.regularise = partial(orthogonal_gradient, config.orthogonal)

    def phase(self, turn: int) -> Hashable:
        return ()

    def generator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        return self._adam(params, self.settings.generator_lr)

    def discriminator_optimizer(self, params: Iterable[Tensor]) -> Optimizer:
        return self._adam(params, self.settings.discriminator_lr)

    def average_decay(self, step: int) -> float:
        return self.settings.average_decay if step >= self.settings.average_start else 0.0

    def _adam(self, params: Iterable[Tensor], lr: float) -> Optimizer:
        from torch.optim import Adam

        return Adam(params, lr=lr, betas=self.betas, eps=self.eps)


def hinge(logits: Tensor, real: int) -> Tensor:
    """The hinge loss that E descends (Lim and Ye 2017, arXiv 1705.02894).

    Args:
        logits: those of `real` real images, followed by those of generated ones.
    """
    return (1 - logits[:real]).relu().mean() + (1 + logits[real:]).relu().mean()


def orthogonal_gradient(strength: float, params: Parameters) -> Parameters:
    """Gradient of orthogonal regularisation, 2 strength (W W^T o (1 - I)) W, for each raw weight matrix (Brock et al.,
    Eq. 3). It is 0 for vectors and for the shared embedding.

    Matrices of one shape are computed together.
    """
    import torch

    shapes: dict[tuple[int, int], Parameters] = {}
    for name, p in params.items():
        if p.dim() > 1 and name != "shared.weight":
            shapes.setdefault((len(p), p[0].numel()), {})[name] = p.detach().flatten(1)
    found: Parameters = {}
    for some in shapes.values():
        gradient = 2 * strength * _orthogonal(torch.stack(list(some.values())))
        found |= {name: one.view_as(params[name]) for name, one in zip(some, gradient, strict=True)}
    rest = [name for name in params if name not in found]
    zeros = torch._foreach_mul([params[name].detach() for name in rest], 0)
    return found | dict(zip(rest, zeros, strict=True))


def _orthogonal(w: Tensor) -> Tensor:
    """(W W^T o (1 - I)) W of matrices [k, rows, columns]."""
    wide = w.shape[1] <= w.shape[2]
    product = (w @ w.mT) @ w if wide else w @ (w.mT @ w)  # the cheaper order
    return product - w.square().sum(2, keepdim=True) * w
