"""The space of DARTS (arXiv 1806.09055): a normal and a reduction cell of four nodes with two inputs each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dasgm.genotype import CONCAT, INPUTS, PRIMITIVES, Edge, Genotype, derive
from dasgm.spaces import _base

if TYPE_CHECKING:
    from dasgm.methods._base import Operations, Stage, Weights
    from dasgm.networks.supernet import Supernet


class SearchSpace(_base.SearchSpace):
    """DARTS's cells: eight operations on 14 edges, of which each node keeps two."""

    cell_types = ("normal", "reduce")
    inputs = INPUTS
    kept, shrinks = 2, True
    operations = PRIMITIVES

    def supernet(self, stage: Stage, classes: int) -> Supernet:
        from dasgm.networks.supernet import Supernet

        return Supernet(stage, classes)

    def derive(
        self, operations: Operations, weights: Weights, edges: Sequence[float] | None = None
    ) -> tuple[Edge, ...]:
        """The two strongest edges into each node, each with its strongest operation (DARTS, Section 2.4)."""
        return derive(operations, weights, edges)

    def genotype(self, cells: Sequence[Sequence[Edge]]) -> Genotype:
        normal, reduce = map(tuple, cells)
        return Genotype(normal, CONCAT, reduce, CONCAT)
