"""Fair DARTS (arXiv 1911.12126): the operations of an edge do not compete.

Each has the weight sigmoid(alpha), and L_DASGM - w * mean of (sigmoid(alpha) - 1/2)^2 drives the weights to 0 or 1. The
genotype has the two strongest edges of each node, as in DARTS, less those whose operation is below a threshold. A node
without an edge vanishes, with what reads it. So that a cell always has a path, one without any edge keeps the strongest
from an input of the cell; the authors' code has no answer there.

`none` is no candidate. The authors' Adam of A has betas (0.9, 0.999), as the preset has: --arch-beta1 0.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dasgm.genotype import edge_number
from dasgm.methods import darts
from dasgm.methods._base import NO_MEMORY, CellType, Operations, Relaxation, Stage, Times, Weights
from dasgm.spellings import CHOOSABLE

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.genotype import Edge, Genotype
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """Fair DARTS."""

    spaces = ("darts",)

    operations: tuple[str, ...] = CHOOSABLE
    """Names of the candidate operations of each edge (Fair DARTS: all of DARTS's but none)."""
    strength: float = 10.0
    """Weight of the loss that drives the operations' weights to 0 or 1 (Fair DARTS's code: 10)."""
    threshold: float = 0.85
    """Least weight with which an operation is in the genotype (Fair DARTS's code: 0.85)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure_not_negative("strength")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"method.threshold {self.threshold}: expected a number from 0 to below 1")

    def relaxed(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        return alphas.sigmoid()

    def arch_loss(self, alphas: Sequence[Tensor], times: Times) -> Tensor:
        import torch

        return -self.strength * (torch.cat([edges.flatten() for edges in alphas]).sigmoid() - 0.5).square().mean()

    def genotype(
        self, space: SearchSpace, stage: Stage, relaxation: Relaxation, memory: Mapping[str, Any] = NO_MEMORY
    ) -> Genotype:
        cells = zip(stage.operations, relaxation.cells, strict=True)
        return space.genotype([
            above(space.derive(*cell), *cell, space.inputs, self.threshold) for cell in cells
        ])  # fmt: skip


def above(
    cell: Sequence[Edge], operations: Operations, weights: Weights, inputs: Sequence[int], threshold: float
) -> tuple[Edge, ...]:
    """The edges of a derived cell whose operation weighs at least the threshold; the others are `none`.

    Args:
        cell: two edges a node.
        operations, weights: of all candidate edges.
        inputs: number of candidate edges into each node.
    """
    found: list[Edge] = []
    strengths = [_weight(operations, weights, inputs, position // 2, edge) for position, edge in enumerate(cell)]
    gone: set[int] = set()  # nodes without an edge
    for node in range(len(inputs)):
        for position in (2 * node, 2 * node + 1):
            name, state = cell[position]
            stays = strengths[position] >= threshold and state not in gone
            found.append((name if stays else "none", state))
        if all(name == "none" for name, _ in found[-2:]):
            gone.add(2 + node)
    if len(gone) == len(inputs):
        best = max((p for p, (_, state) in enumerate(cell) if state < 2), key=strengths.__getitem__)
        found[best] = cell[best]
    return tuple(found)


def _weight(operations: Operations, weights: Weights, inputs: Sequence[int], node: int, edge: Edge) -> float:
    """The weight of the operation of an edge into a node."""
    name, state = edge
    number = edge_number(inputs, node, state)
    return weights[number][operations[number].index(name)]
