"""beta-DARTS (arXiv 2203.01665): a regulariser keeps the weights of an edge's operations from running apart.

L_DASGM + lambda(e) * sum over the types of cells of the mean over edges of log sum_o exp(alpha_o), where lambda grows
linearly from 0. Its gradient lowers each alpha in proportion to its softmax weight. The authors released it for
NAS-Bench-201 only, which has one type of cell; the sum over two types is our reading for DARTS's space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dasgm.methods import darts
from dasgm.methods._base import Stage, Times

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """beta-DARTS."""

    strength: float = 50.0
    """Weight of the regulariser towards which it grows, from 0 in the first epoch (beta-DARTS's code: 50)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure_not_negative("strength")

    def times(self, space: SearchSpace, stage: Stage, epoch: int, memory: Mapping[str, Any]) -> Mapping[str, float]:
        return {"lambda": self.strength * epoch / stage.epochs}

    def arch_loss(self, alphas: Sequence[Tensor], times: Times) -> Tensor:
        first, *others = (edges.logsumexp(1).mean() for edges in alphas)
        return times["lambda"] * sum(others, first)
