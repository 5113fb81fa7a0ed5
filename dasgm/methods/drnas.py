"""DrNAS (arXiv 2006.10355): the weights of an edge's operations are drawn from a Dirichlet law, whose parameters A
learns.

The concentrations are elu(alpha) + 1. L_class and L_DASGM have draws of their own in each iteration, with the
derivative of torch.distributions. The genotype is that of softmax(alpha). A quarter of the channels passes through the
operations. Halfway each edge keeps its strongest operations; their weights in W and A, and the states of the
optimisers, go on. W's rate is one cosine over both halves, and in each half A begins to learn later than W.

`none` is no candidate where the space never chooses it. The authors widen the channels (K from 6 to 4) halfway; here K
is 4 throughout. They have no batch norm after poolings; here it is DARTS's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.methods._base import CellType, MethodConfig, Operations, Relaxation, Stage, Times, strongest

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(MethodConfig):
    """DrNAS."""

    epochs: int = 25
    """Number of epochs of each half (DrNAS: 25)."""
    cells: int = 20
    """Number of cells of the supernet (DrNAS: 20)."""
    channels: int = 36
    """Number of channels in the supernet's first cells; each reduction cell doubles it (DrNAS: 36)."""
    arch_start_epoch: int = 10
    """First epoch of each half, counted from 0, in which A and B are updated (DrNAS: 10)."""
    partial: int = 4
    """K: one channel in K passes through the operations, the others bypass them (DrNAS: 6, then 4)."""
    kept: int = 4
    """Number of operations that each edge keeps for the second half (DrNAS: 4), at least 2 where `none` is one of them.
    0: there is one half only."""
    kl: float = 0.0
    """Weight of the Kullback-Leibler distance from the even law (DrNAS's code: 1e-3, with no weight decay of A).
    0 leaves it out: the weight decay of A draws the concentrations to 1 (DrNAS's default)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure_at_least(partial=1, kept=0)
        self.ensure_not_negative("kl")

    def first(self, space: SearchSpace) -> Stage:
        candidates = tuple(name for name in space.operations if name != "none" or space.kept is None)
        if self.kept == 1 and "none" in candidates:
            raise ValueError("method.kept 1: an edge could be left with none alone; expected at least 2, or 0")
        return self._stage(0, ((candidates,) * space.edges,) * len(space.cell_types))

    def outline(self, space: SearchSpace) -> tuple[Stage, ...]:
        first = self.first(space)
        if not self.kept:
            return (first,)
        dearest = [name for name in space.dearest if name in first.operations[0][0]][: self.kept]
        left = tuple(name for name in space.operations if name in dearest)
        return first, self._stage(1, ((left,) * space.edges,) * len(space.cell_types))

    def next(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> Stage | None:
        if stage.index == 1 or not self.kept:
            return None
        cells = zip(stage.operations, relaxation.cells, strict=True)
        return self._stage(1, tuple(strongest(operations, weights, self.kept) for operations, weights in cells))

    def _stage(self, index: int, operations: tuple[Operations, ...]) -> Stage:
        return Stage(
            index,
            self.epochs,
            self.arch_start_epoch,
            self.cells,
            self.channels,
            operations,
            partial=self.partial,
            continues=index > 0,
        )

    def weight_epoch(self, stage: Stage, epoch: int) -> tuple[int, int]:
        """One cosine over both halves."""
        halves = 2 if self.kept else 1
        return stage.index * self.epochs + epoch, halves * stage.epochs

    def mixture(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        from dasgm.methods._dirichlet import dirichlet

        return dirichlet(concentrations(alphas))

    def arch_loss(self, alphas: Sequence[Tensor], times: Times) -> Tensor | float:
        if not self.kl:
            return 0.0
        from dasgm.methods._dirichlet import kl_to_uniform

        first, *others = (kl_to_uniform(concentrations(edges)).sum() for edges in alphas)
        return self.kl * sum(others, first)


def concentrations(alphas: Tensor) -> Tensor:
    """elu(alphas) + 1, which is above 0 for every alpha: exp(alpha) is not rounded to 0 by the 1."""
    return alphas.relu() + alphas.clamp(max=0).exp()
