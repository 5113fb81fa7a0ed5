"""DARTS- (arXiv 2009.01027): an auxiliary skip connection on each edge takes over what makes skip connections win.

A skip connection helps the supernet to train, apart from its worth as an operation. Here an edge gives
sum_o w_o o(x) + beta skip(x), where the second skip connection has no alpha and is in no genotype. beta falls linearly
over the epochs, so that the edge ends as DARTS's. Where edges halve the map, it has convolutions of its own; elsewhere
(and so in all of NAS-Bench-201) it is beta more weight of the skip connection in the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dasgm.methods import darts
from dasgm.methods._base import CellType, Stage, Times

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """DARTS-."""

    beta: float = 1.0
    """Weight of the auxiliary skip connections in the first epoch, from which it falls to 0 (DARTS-: 1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure_not_negative("beta")

    def first(self, space: SearchSpace) -> Stage:
        return replace(super().first(space), auxiliary_skip=True)

    def times(self, space: SearchSpace, stage: Stage, epoch: int, memory: Mapping[str, Any]) -> Mapping[str, float]:
        return {"beta": self.beta * (stage.epochs - epoch) / stage.epochs}

    def mixture(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        import torch

        return torch.cat([self.relaxed(cell, alphas, times), times["beta"].expand(len(alphas), 1)], 1)
