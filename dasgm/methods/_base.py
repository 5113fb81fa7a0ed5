"""What a search method is: settings, and a sequence of stages, each with a supernet of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from dasgm.genotype import Genotype
    from dasgm.spaces._base import SearchSpace

MOST_CELLS, WIDEST = 100, 4096  # largest numbers of cells and channels that are accepted
Operations = tuple[tuple[str, ...], ...]  # [edges of a cell][operations of the edge]: names
Weights = Sequence[Sequence[float]]  # [edges of a cell][operations of the edge]: softmax weights


@dataclass(frozen=True)
class Stage:
    """One supernet of a search and the length of its training. A plain value, stored as JSON in the checkpoint."""

    index: int
    epochs: int
    arch_start_epoch: int
    cells: int
    channels: int
    operations: tuple[Operations, ...]
    """Names of the candidate operations of each edge, for each type of cell (`SearchSpace.cell_types`)."""
    partial: int = 1
    """K of PC-DARTS: 1/K of the channels pass through the mixed operation."""
    edge_weights: bool = False
    """Whether edges are weighted too (PC-DARTS's betas)."""
    skip_dropout: float = 0.0
    """Initial rate of the dropout after skip connections (P-DARTS)."""


@dataclass(frozen=True)
class Relaxation:
    """The weights of the architecture A as plain numbers, from which a method decides."""

    cells: tuple[Weights, ...]
    """For each type of cell (`SearchSpace.cell_types`)."""
    edges: tuple[Sequence[float], ...] = ()
    """The weight of each edge, for each type of cell; empty where edges have no weights."""


@dataclass(frozen=True)
class MethodConfig:
    """Settings that every method has. The file of a method derives its own `Config` from this class."""

    spaces: ClassVar[tuple[str, ...]] = ()
    """Keys of the only search spaces for which the method is defined. Empty: it is defined for all."""

    epochs: int = 50
    """Number of epochs of the search (DARTS and PC-DARTS: 50)."""
    cells: int = 8
    """Number of cells of the supernet (paper, Section 5.2: 8)."""
    channels: int = 16
    """Number of channels in the supernet's first cells; each reduction cell doubles it (paper, Section 5.2: 16)."""
    arch_start_epoch: int = 0
    """First epoch, counted from 0, in which A and B are updated; the GAN is trained from epoch 0 (DARTS: 0)."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("cells", 3), ("channels", 1), ("arch_start_epoch", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected at least {least}")
        for name, most in (("cells", MOST_CELLS), ("channels", WIDEST)):
            if getattr(self, name) > most:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected at most {most}")

    def first(self, space: SearchSpace) -> Stage:
        """The stage that a search begins with."""
        raise NotImplementedError

    def next(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> Stage | None:
        """The stage after `stage`, or None where the search is over.

        Args:
            relaxation: the weights of the architecture at the end of `stage`.
        """
        raise NotImplementedError

    def outline(self, space: SearchSpace) -> tuple[Stage, ...]:
        """All stages, as far as they are known before the search.

        Of later stages only the number of operations per edge is known. They list the most expensive operations, so
        that costs measured on them are upper bounds.
        """
        return (self.first(space),)

    def skip_dropout(self, stage: Stage, epoch: int) -> float:
        """Rate of the dropout after skip connections in `epoch` (counted from 0) of `stage`."""
        return 0.0

    def genotype(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> Genotype:
        """The genotype that the weights stand for, as the space derives it (in DARTS's: Section 2.4; with edge weights
        PC-DARTS, Section 3.3).
        """
        return space.genotype([
            space.derive(*cell) for cell in zip_longest(stage.operations, relaxation.cells, relaxation.edges)
        ])  # fmt: skip
