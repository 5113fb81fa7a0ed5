"""DropNAS (IJCAI 2020): in each step some operations are dropped, and the others compete less.

The operations of an edge form two groups, those with weights and those without. In each step every operation is
dropped with probability p = r^(1/4) in a group of four (r: the probability that a whole group would be); a group that
lost all is drawn anew. The weights are the softmax over the operations that are left. A dropped operation contributes
nothing and gets no gradient. After A's step a constant is added to the alphas of the others, so that their share of the
sum of exp(alpha) is what it was before.

Its authors search on one level: W and A learn from the same images, all of them. Here J_1 and J_2 stay apart, and A
learns from J_3. The drops of L_class and of L_DASGM are independent. Weight decay acts on all parameters, as in DARTS;
the authors decay only those of operations that were not dropped, by a second step of the same optimisers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.methods import darts
from dasgm.methods._base import CellType, Times

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.networks.supernet import Mixture


@dataclass(frozen=True)
class Config(darts.Config):
    """DropNAS."""

    epochs: int = 76
    """Number of epochs of the search (DropNAS: 76)."""
    cells: int = 14
    """Number of cells of the supernet (DropNAS: 14)."""
    drop_rate: float = 3e-5
    """Probability r that all operations of a group would be dropped; each is with r^(1/4) in a group of 4
    (DropNAS: 3e-5). 0 drops none, which is DARTS."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"method.drop_rate {self.drop_rate}: expected a number from 0 to below 1")

    def mixture(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        from dasgm.bilevel.draws import draw

        rate = self.drop_rate
        return masked_softmax(alphas, draw(lambda: drawn_mask(cell.operations, rate), alphas.device))

    def after_arch_step(
        self, before: Sequence[Tensor], after: Sequence[Tensor], drawn: Mixture, times: Times
    ) -> list[Tensor]:
        return [share_restored(*cell) for cell in zip(before, after, drawn.cells, strict=True)]


def drawn_mask(operations: Sequence[Sequence[str]], rate: float) -> Tensor:
    """A mask [edges, operations], False where an operation is dropped. The CPU draws it.

    Args:
        rate: the probability r with which a whole group would be dropped.
    """
    import torch

    learned = torch.tensor([[_learned(name) for name in names] for names in operations])
    mask = torch.ones_like(learned)
    for group in (learned, ~learned):
        p = rate ** (1 / group.sum(1, keepdim=True))
        lost = group.any(1, keepdim=True)
        while lost.any():
            mask = torch.where(group & lost, torch.rand(mask.shape) >= p, mask)
            lost &= ~(mask & group).any(1, keepdim=True)
    return mask


def _learned(name: str) -> bool:
    """Whether an operation belongs to the group of those with weights."""
    return "conv" in name


def masked_softmax(alphas: Tensor, mask: Tensor) -> Tensor:
    """The softmax over the columns where `mask` is True, 0 in the others."""
    return alphas.masked_fill(~mask, float("-inf")).softmax(1)


def share_restored(before: Tensor, after: Tensor, drawn: Tensor) -> Tensor:
    """The alphas after a step, with the share of exp(alpha) that the operations left had before it.

    Args:
        drawn: the weights of the operations in this step, 0 where one was dropped.
    """
    left = drawn > 0
    shares = [_log_odds(alphas, left) for alphas in (before, after)]
    constant = (shares[0] - shares[1]).where(~left.all(1, keepdim=True), 0.0)  # nothing to restore: no change
    return after + constant * left


def _log_odds(alphas: Tensor, left: Tensor) -> Tensor:
    """Log of (sum of exp over the columns that are left / sum over the others), [edges, 1]."""
    inside = alphas.masked_fill(~left, float("-inf")).logsumexp(1, keepdim=True)
    return inside - alphas.masked_fill(left, float("-inf")).logsumexp(1, keepdim=True)
