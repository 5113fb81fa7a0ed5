"""What a search space is: the cells that are searched, their candidate operations, and the networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dasgm.options import option
from dasgm.plugins import key_of

if TYPE_CHECKING:
    from torch import nn

    from dasgm.genotype import Edge, Genotype
    from dasgm.measures.scores import RankBy
    from dasgm.methods._base import Operations, Stage, Weights


class Place(NamedTuple):
    """Where a derived network computes an edge."""

    kind: int
    """Number of the cell's type (`SearchSpace.cell_types`)."""
    edge: int
    channels: int
    stride: int
    shrinks: int
    """By how much the map that the edge reads is smaller than the image."""


class SearchSpace:
    """A space of cells. The file of a space derives its own `SearchSpace` from this class.

    Modules of spaces do not import torch; what builds a network does.
    """

    cell_types: ClassVar[tuple[str, ...]]
    """Names of the types of cells that are searched. A `Stage`, a `Relaxation` and a `Mixture` have one entry for each,
    in this order, and the parameters of A are called `alphas_<type>`. --stop-skips looks at the first type.
    """
    titles: ClassVar[tuple[str, ...]]
    """The same types in words: "reduction cell"."""
    about: ClassVar[str]
    """What the picture of a cell shows, in HTML."""
    inputs: ClassVar[tuple[int, ...]]
    """Number of edges into each node of a cell. Edges are numbered by node, then by input."""
    kept: ClassVar[int | None] = None
    """Number of edges that each node keeps in a genotype. None: all of them, so that `none` may be chosen."""
    drops_paths: ClassVar[bool] = False
    """Whether the supernet drops the results of edges (`Regularisation.drop_path`)."""
    states: ClassVar[tuple[str, ...]]
    """Names of the states that edges read and write, as `Graph.states`: the inputs of a cell, then its nodes."""
    operations: ClassVar[tuple[str, ...]]
    """Candidate operations of an edge, in the order of the columns of A."""
    dearest: ClassVar[tuple[str, ...]]
    """The same operations, those with the most multiply-adds first."""
    sizes: ClassVar[Mapping[str, tuple[int, int]]]
    """The usual numbers of cells and channels of a derived network, for each form that it may have."""
    smallest: ClassVar[int]
    """Smallest number of cells with which a network has each kind of cell in each place."""
    auxiliary: ClassVar[bool] = False
    """Whether a derived network may have an auxiliary head."""
    ranked_by: ClassVar[RankBy] = "proxy"
    """The score by which a sweep ranks its searches by default (measures/scores.py): the one that agrees best with true
    accuracies, where that was measured (BENCHMARKS.md).
    """
    recipes: ClassVar[Mapping[str, str]]
    """The usual recipe of an evaluation, by the key of the data set; "photographs": of a folder's pictures above 64
    pixels; "": of all others."""
    example: ClassVar[str]
    """How a genotype is written, for messages."""

    @property
    def edges(self) -> int:
        """Number of edges of a cell."""
        return sum(self.inputs)

    @property
    def everything(self) -> tuple[Operations, ...]:
        """All operations on each edge of each type of cell, as a `Stage` lists them."""
        return ((self.operations,) * self.edges,) * len(self.cell_types)

    @property
    def known(self) -> Mapping[str, Genotype]:
        """The built-in genotypes, by name."""
        return {}

    @property
    def sources(self) -> Mapping[str, str]:
        """The paper that a built-in genotype comes from, by its name."""
        return {}

    def usual(self, form: str) -> tuple[int, int]:
        """The usual numbers of cells and channels of a derived network. ValueError: it cannot have this form."""
        if form not in self.sizes:
            raise ValueError(f"form {form}: {key_of(self)}'s networks have the form {' or '.join(self.sizes)} only")
        return self.sizes[form]

    def supernet(self, stage: Stage, classes: int) -> nn.Module:
        """W of a stage: `forward` takes images [N, 3, H, W] and a `Mixture`, and returns logits [N, classes].

        Each epoch sets its attribute `regularisation`, which it obeys in training mode.

        `cells` is the list of its `stage.cells` parts, of which those numbered `networks.operations.reductions` halve
        the map. What an operation learns is at `cells.<part>.fans.<state>.convolutions.<operation>`: for all edges that
        leave the state and have the operation, one after the other. `having` of the fan has their numbers. By this
        measures/counts.py counts, and networks/carry.py gives a smaller supernet what is left of a larger one.

        Raises:
            ValueError: a size that the supernet cannot have.
        """
        raise NotImplementedError

    def places(self, cells: int, channels: int) -> Iterable[Place]:
        """Every edge of every cell of a derived network of the cifar form, for what operations cost (`--cost.kind`).

        Args:
            cells, channels: the size of the network, one that it can have.

        Raises:
            ValueError: the space does not say.
        """
        raise ValueError(
            f"search-space {key_of(self)} does not say where its operations are computed (SearchSpace.places), so no "
            f"cost of theirs is known; leave {option('cost.kind')} out"
        )

    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        """A candidate operation other than `none` as a derived network has it, for an edge of `places`."""
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

    def random(self, seed: int) -> Genotype:
        """A genotype drawn uniformly from the space.

        Args:
            seed: at least 0. The same seed gives the same genotype.

        Raises:
            ValueError: the seed is negative.
        """
        raise NotImplementedError

    def architectures(self) -> Iterable[str]:
        """All genotypes as they are written, where there are tables of the true accuracies of all (measures/truth.py).

        Raises:
            ValueError: there is no such table.
        """
        raise ValueError(
            f"search-space {key_of(self)} has no table of true accuracies; {option('truth')} is for a space with one, "
            "such as nasbench201"
        )

    def canonical(self, written: str) -> str:
        """The string of `architectures` for a cell that may be written in another way, as in another's table.

        Raises:
            ValueError: it is no cell.
        """
        raise NotImplementedError

    def is_text(self, source: str) -> bool:
        """Whether a word of a command line is the text of a genotype of this space, rather than a name or a path."""
        raise NotImplementedError

    def recognises(self, written: str) -> bool:
        """Whether a text, which may be a whole log, has a genotype in a notation of this space alone."""
        raise NotImplementedError

    def parse(self, written: str, say: Callable[[str], None]) -> Genotype:
        """Reads a genotype from text, as `Genotype.parse`."""
        raise NotImplementedError

    def from_fields(self, fields: object) -> Genotype:
        """The genotype that `to_json` wrote, from the decoded JSON. ValueError: it is none."""
        raise NotImplementedError

    @staticmethod
    def stream(seed: int) -> Random:
        """The stream of a draw. ValueError: the seed is negative."""
        if seed < 0:  # Random(-7) equals Random(7)
            raise ValueError(f"seed {seed}: expected at least 0")
        return Random(seed)
