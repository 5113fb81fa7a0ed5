"""P-DARTS (arXiv 1904.12760): the supernet becomes deeper from stage to stage, and each edge loses its weakest
operations.

W, A and their optimisers start anew in each stage; the GAN keeps its state. Skip connections are easy to learn and
would win too often. Two things prevent that: a dropout after them, which decreases within a stage, and a largest number
of them in the normal cell of the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dasgm.genotype import Edge, Genotype, edge_number
from dasgm.methods._base import MOST_CELLS, NO_MEMORY, MethodConfig, Operations, Relaxation, Stage, strongest
from dasgm.networks.regularisation import Regularisation
from dasgm.spaces.darts import derive
from dasgm.spellings import INPUTS, PRIMITIVES, SKIP

if TYPE_CHECKING:
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(MethodConfig):
    """P-DARTS."""

    spaces = ("darts",)

    epochs: int = 25
    """Number of epochs of each stage (P-DARTS: 25)."""
    cells: int = 5
    """Number of cells of the first stage's supernet (P-DARTS: 5)."""
    arch_start_epoch: int = 10
    """First epoch of each stage, counted from 0, in which A and B are updated (P-DARTS: 10)."""
    added_cells: tuple[int, ...] = (0, 6, 12)
    """Number of cells that each stage adds to --method.cells (P-DARTS: 0 6 12)."""
    operations: tuple[int, ...] = (8, 5, 3)
    """Number of candidate operations per edge in each stage (P-DARTS: 8 5 3).
    Between stages the weakest are dropped."""
    skip_dropout_rates: tuple[float, ...] = (0.1, 0.4, 0.7)
    """Rate of the dropout after skip connections at the beginning of each stage (P-DARTS's code: 0.1 0.4 0.7)."""
    max_skips: int = 2
    """Largest number of skip connections in the normal cell of the result (P-DARTS's authors: 2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = len(self.operations)
        if stages > len(PRIMITIVES):
            raise ValueError(
                f"method.operations has {stages} values: expected at most {len(PRIMITIVES)}, one per stage"
            )
        for name in ("added_cells", "skip_dropout_rates"):
            if len(getattr(self, name)) != stages:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected {stages} values, one per stage")
        falling = all(a >= b for a, b in zip((len(PRIMITIVES), *self.operations), self.operations, strict=False))
        if not self.operations or not falling or self.operations[-1] < 3:
            raise ValueError(
                f"method.operations {self.operations}: expected numbers that never rise, from {len(PRIMITIVES)} to at "
                "least 3 (none, a skip connection, and one more)"
            )
        if self.operations[0] != len(PRIMITIVES):
            raise ValueError(f"method.operations {self.operations}: a search begins with all {len(PRIMITIVES)}")
        if min(self.added_cells) < 0 or self.cells + max(self.added_cells) > MOST_CELLS:
            raise ValueError(
                f"method.added_cells {self.added_cells}: expected numbers of at least 0 that give at most "
                f"{MOST_CELLS} cells"
            )
        if not all(0 <= rate < 1 for rate in self.skip_dropout_rates):
            raise ValueError(f"method.skip_dropout_rates {self.skip_dropout_rates}: expected rates from 0 to below 1")
        self.ensure_at_least(max_skips=0)

    def first(self, space: SearchSpace) -> Stage:
        return self.outline(space)[0]

    def outline(self, space: SearchSpace) -> tuple[Stage, ...]:
        stages = []
        for index, count in enumerate(self.operations):
            kept = (tuple(name for name in PRIMITIVES if name in space.dearest[:count]),) * space.edges
            stages.append(self._stage(index, (kept,) * len(space.cell_types)))
        return tuple(stages)

    def next(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> Stage | None:
        index = stage.index + 1
        if index == len(self.operations):
            return None
        left = self.operations[index]
        cells = zip(stage.operations, relaxation.cells, strict=True)
        return self._stage(index, tuple(strongest(operations, weights, left) for operations, weights in cells))

    def _stage(self, index: int, operations: tuple[Operations, ...]) -> Stage:
        return Stage(
            index,
            self.epochs,
            self.arch_start_epoch,
            self.cells + self.added_cells[index],
            self.channels,
            operations,
            skip_dropout=self.skip_dropout_rates[index],
        )

    def regularisation(self, stage: Stage, epoch: int) -> Regularisation:
        """The rate decreases linearly until architecture steps begin, then restarts in full and decreases
        exponentially.
        """
        searched = epoch - self.arch_start_epoch
        share = (stage.epochs - epoch - 1) / stage.epochs if searched < 0 else math.exp(-0.2 * searched)
        return Regularisation(skip_dropout=stage.skip_dropout * share)

    def genotype(
        self, space: SearchSpace, stage: Stage, relaxation: Relaxation, memory: Mapping[str, Any] = NO_MEMORY
    ) -> Genotype:
        (of_normal, of_reduce), (normal, reduce) = stage.operations, relaxation.cells
        return space.genotype([capped(of_normal, normal, self.max_skips), by_input(derive(of_reduce, reduce))])


def by_input(cell: Sequence[Edge]) -> tuple[Edge, ...]:
    """The two edges of each node sorted by their inputs, as P-DARTS lists them."""
    pairs = zip(cell[::2], cell[1::2], strict=True)
    return tuple(edge for pair in pairs for edge in sorted(pair, key=lambda edge: edge[1]))


def capped(operations: Sequence[Sequence[str]], weights: Sequence[Sequence[float]], max_skips: int) -> tuple[Edge, ...]:
    """The cell with at most `max_skips` skip connections (P-DARTS, Section 3.3).

    While there are more, the weakest one in the cell is excluded from its edge, and the cell is derived again.
    """
    allowed = [list(names) for names in operations]
    while True:
        cell = by_input(derive(allowed, weights))
        edges = [edge_number(INPUTS, position // 2, state) for position, (_, state) in enumerate(cell)]
        skips = [edge for edge, (name, _) in zip(edges, cell, strict=True) if name == SKIP]
        if len(skips) <= max_skips:
            return cell
        weakest = min(skips, key=lambda edge: weights[edge][allowed[edge].index(SKIP)])
        allowed[weakest][allowed[weakest].index(SKIP)] = "none"  # which `derive` never chooses
