"""GDAS (arXiv 1910.04465): in each step a single operation on each edge, drawn by the Gumbel-max trick.

With Gumbel noise g, p = softmax((log softmax(alpha) + g) / tau). The weights are the one-hot vector of p's largest
entry; their gradient is that of p (straight through). tau falls linearly over the epochs.

The supernet computes all operations and multiplies those that were not drawn by 0, so an iteration is not cheaper than
DARTS's, and the running statistics of operations that were not drawn move too.

With `gradient` "drawn", as in the authors' code for DARTS's space, A learns from the result of the drawn operation
alone; with "all", from those of all operations. Their code for NAS-Bench-201 is neither: there the weights of the
other operations are added to the sum as numbers, so their gradient does not depend on what these operations give.

Where nodes keep some of their edges, a node of the genotype has its strongest pairs of an operation (but `none`) and an
input. Both may have the same input, unlike in DARTS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dasgm.methods import darts
from dasgm.methods._base import NO_MEMORY, CellType, Relaxation, Stage, Times

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.genotype import Edge, Genotype
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """GDAS."""

    epochs: int = 250
    """Number of epochs of the search (GDAS: 250)."""
    tau_first: float = 10.0
    """Temperature of the softmax in the first epoch (GDAS's code: 10)."""
    tau_last: float = 0.1
    """Temperature of the softmax in the last epoch, to which it falls linearly (GDAS's code: 0.1)."""
    gradient: Literal["drawn", "all"] = "drawn"
    """Operations whose results reach the gradient of A: drawn (GDAS, DARTS's space) or all (straight through)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tau_first", "tau_last"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"method.{name} {getattr(self, name)}: expected a number above 0")

    def times(self, space: SearchSpace, stage: Stage, epoch: int, memory: Mapping[str, Any]) -> Mapping[str, float]:
        done = epoch / max(1, stage.epochs - 1)
        return {"tau": self.tau_first + (self.tau_last - self.tau_first) * done}

    def mixture(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        return straight_through(alphas, gumbel(alphas), times["tau"], self.gradient)

    def genotype(
        self, space: SearchSpace, stage: Stage, relaxation: Relaxation, memory: Mapping[str, Any] = NO_MEMORY
    ) -> Genotype:
        if space.kept is None:
            return super().genotype(space, stage, relaxation, memory)
        cells = zip(stage.operations, relaxation.cells, strict=True)
        return space.genotype([strongest_pairs(*cell, space.inputs, space.kept) for cell in cells])


def strongest_pairs(
    operations: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], inputs: Sequence[int], count: int
) -> tuple[Edge, ...]:
    """The `count` pairs (operation, input) of largest weight of each node, the strongest first."""
    cell: list[Edge] = []
    edges = iter(zip(operations, weights, strict=True))
    for number in inputs:
        pairs = [
            (weight, name, state)
            for state, (names, row) in zip(range(number), edges, strict=False)
            for name, weight in zip(names, row, strict=True)
            if name != "none"
        ]
        pairs.sort(key=lambda pair: -pair[0])
        cell += [(name, state) for _, name, state in pairs[:count]]
    return tuple(cell)


def gumbel(like: Tensor) -> Tensor:
    """Gumbel noise: -log of an exponential draw, never infinite."""
    import torch

    from dasgm.bilevel.draws import draw

    shape, dtype, least = like.shape, like.dtype, torch.finfo(like.dtype).tiny
    return draw(lambda: -torch.empty(shape, dtype=dtype).exponential_().clamp_min_(least).log(), like.device)


def straight_through(alphas: Tensor, noise: Tensor, tau: Tensor | float, gradient: str = "all") -> Tensor:
    """One-hot rows with the gradient of p, or where `gradient` is "drawn", with that of p's largest entry alone."""
    p = ((alphas.log_softmax(1) + noise) / tau).softmax(1)
    chosen = p.detach().argmax(1, keepdim=True)
    hot = p.detach().new_zeros(p.shape).scatter(1, chosen, 1.0)
    through = p - p.detach()  # exactly 0, and its gradient is p's
    return hot + (hot * through if gradient == "drawn" else through)
