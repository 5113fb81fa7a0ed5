"""SDARTS (arXiv 2002.05283): W learns at weights of the operations near those of A, so that a cell is good around them.

With the softmax weights w of an edge, W steps at clip(w + d), and A at w. `clip` cuts to [0, 1] and divides by the sum.
SDARTS-RS draws d uniformly from [-epsilon, epsilon]. SDARTS-ADV starts there and ascends L_class: sign gradients of W's
batch with running statistics of batch norm, kept within epsilon of w. epsilon grows linearly over the epochs.

With the second order, the mixed derivative of Eq. 6 is taken at w + d with d constant. The authors' own second order
leaves d out there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dasgm.methods import darts
from dasgm.methods._base import Stage, Times

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.networks.supernet import Mixture
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """SDARTS."""

    perturbation: Literal["random", "adversarial"] = "random"
    """How the weights are moved for W's step: random (SDARTS-RS) or adversarial (SDARTS-ADV)."""
    epsilon_first: float = 0.03
    """Largest change of a weight in the first epoch (SDARTS: 0.03)."""
    epsilon_last: float = 0.3
    """Largest change of a weight towards which it grows over the epochs (SDARTS: 0.3)."""
    attack_steps: int = 7
    """Number of ascent steps of the adversarial perturbation, each with a backward pass (SDARTS's code: 7)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epsilon_first", "epsilon_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected a number from 0 to 1")
        self.ensure_at_least(attack_steps=1)

    def times(self, space: SearchSpace, stage: Stage, epoch: int, memory: Mapping[str, Any]) -> Mapping[str, float]:
        return {"epsilon": self.epsilon_first + (self.epsilon_last - self.epsilon_first) * epoch / stage.epochs}

    def offset(
        self, mixture: Callable[[], Mixture], loss: Callable[[Mixture], Tensor], times: Times
    ) -> tuple[Tensor, ...]:
        clean, epsilon = mixture(), times["epsilon"]
        moved = [clipped(w + epsilon * noise(w)) for w in clean.cells]
        if self.perturbation == "adversarial":
            moved = attacked(clean, moved, loss, epsilon, self.attack_steps)
        # less the rounding of `clipped`: with epsilon 0 the offset is exactly 0
        return tuple(there - clipped(w) for there, w in zip(moved, clean.cells, strict=True))


def noise(like: Tensor) -> Tensor:
    """Uniform on [-1, 1)."""
    import torch

    from dasgm.bilevel.draws import draw

    shape, dtype = like.shape, like.dtype
    return draw(lambda: 2 * torch.rand(shape, dtype=dtype) - 1, like.device)


def clipped(weights: Tensor) -> Tensor:
    """The weights [edges, operations] cut to [0, 1] and divided by their sum. In a row without a positive one the
    largest becomes 1.
    """
    cut, best = weights.clamp(0, 1), weights.argmax(1, keepdim=True)
    total = cut.sum(1, keepdim=True)
    return (cut / total.where(total > 0, 1.0)).where(total > 0, cut.scatter(1, best, 1.0))


def attacked(
    clean: Mixture, begun: Sequence[Tensor], loss: Callable[[Mixture], Tensor], epsilon: Tensor, steps: int
) -> list[Tensor]:
    """The weights near the clean ones at which projected gradient ascent has raised the loss.

    Where it has not, they are the clipped clean ones. The projection comes before the clip (SDARTS's code).

    Args:
        begun: the weights with which the ascent begins, [edges, operations] for each type of cell.
        epsilon: largest change of a weight.
    """
    import torch

    moved = list(begun)
    for _ in range(steps):
        leaves = [w.detach().requires_grad_() for w in moved]
        slopes = torch.autograd.grad(loss(clean._replace(cells=tuple(leaves))), leaves)
        ascended = [w + 2 * epsilon / steps * slope.sign() for w, slope in zip(moved, slopes, strict=True)]
        changes = [(there - w).clamp(-epsilon, epsilon) for there, w in zip(ascended, clean.cells, strict=True)]
        moved = [clipped(w + change) for w, change in zip(clean.cells, changes, strict=True)]
    with torch.no_grad():
        raised = loss(clean._replace(cells=tuple(moved))) >= loss(clean)
        return [there.where(raised, clipped(w)) for there, w in zip(moved, clean.cells, strict=True)]
