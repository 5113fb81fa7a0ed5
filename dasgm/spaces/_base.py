"""What a search space is: the cells that are searched, their candidate operations, and the networks made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from dasgm.genotype import Edge, Genotype
    from dasgm.methods._base import Operations, Stage, Weights


class SearchSpace:
    """A space of cells. The file of a space derives its own `SearchSpace` from this class.

    Modules of spaces do not import torch; what builds a network does.
    """

    cell_types: ClassVar[tuple[str, ...]]
    """Names of the types of cells that are searched. A `Stage`, a `Relaxation` and a `Mixture` have one entry for each,
    in this order, and the parameters of A are called `alphas_<type>`. --stop-skips looks at the first type.
    """
    inputs: ClassVar[tuple[int, ...]]
    """Number of edges into each node of a cell. Edges are numbered by node, then by input."""
    kept: ClassVar[int | None] = None
    """Number of edges that each node keeps in a genotype. None: all of them, so that `none` may be chosen."""
    shrinks: ClassVar[bool] = False
    """Whether the supernet says what it has of one whose edges had more operations (`Supernet.kept`)."""
    operations: ClassVar[tuple[str, ...]]
    """Candidate operations of an edge, in the order of the columns of A."""

    @property
    def edges(self) -> int:
        """Number of edges of a cell."""
        return sum(self.inputs)

    @property
    def everything(self) -> tuple[Operations, ...]:
        """All operations on each edge of each type of cell, as a `Stage` lists them."""
        return ((self.operations,) * self.edges,) * len(self.cell_types)

    def supernet(self, stage: Stage, classes: int) -> nn.Module:
        """W of a stage: `forward` takes images [N, 3, H, W] and a `Mixture`, and returns logits [N, classes].

        Raises:
            ValueError: a size that the supernet cannot have.
        """
        raise NotImplementedError

    def derive(
        self, operations: Operations, weights: Weights, edges: Sequence[float] | None = None
    ) -> tuple[Edge, ...]:
        """The edges that a cell keeps.

        Args:
            operations: names of the candidate operations of each edge.
            weights: their softmax weights, [edges][operations].
            edges: the weight of each edge, [edges], where edges have weights (PC-DARTS).
        """
        raise NotImplementedError

    def genotype(self, cells: Sequence[Any]) -> Genotype:
        """The genotype of the cells that `derive` returned, one for each type."""
        raise NotImplementedError
