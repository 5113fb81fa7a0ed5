"""What a search method is: settings, and a schedule of supernets (stages)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dasgm.genotype import CONCAT, Genotype, derive

MOST_CELLS, WIDEST = 100, 4096  # of a network; beyond is a slip, or worse
Weights = Sequence[Sequence[float]]  # [14][operations of the edge], softmaxed


@dataclass(frozen=True)
class Stage:
    """One supernet of a search and how long it is trained: a plain value, JSON in the checkpoint."""

    index: int
    epochs: int
    arch_start_epoch: int
    cells: int
    channels: int
    normal_operations: tuple[tuple[str, ...], ...]
    """Names of the candidate operations of each of the 14 edges of a normal cell."""
    reduce_operations: tuple[tuple[str, ...], ...]
    partial: int = 1
    """K of PC-DARTS: 1/K of the channels pass through the mixed operation."""
    edge_weights: bool = False
    """Whether edges are weighted too (PC-DARTS's betas)."""
    skip_dropout: float = 0.0
    """Initial rate of the dropout after skip connections (P-DARTS)."""


@dataclass(frozen=True)
class Relaxation:
    """The architecture as plain numbers: what a method sees of A."""

    normal: Weights
    reduce: Weights
    normal_edges: Sequence[float] | None = None
    reduce_edges: Sequence[float] | None = None


@dataclass(frozen=True)
class MethodConfig:
    """Settings that every method has. A method's file derives its own `Config` from it."""

    epochs: int = 50
    """Number of epochs of the search, of P-DARTS of each stage (DARTS and PC-DARTS: 50; P-DARTS: 25)."""
    cells: int = 8
    """Number of cells of the supernet (paper, Section 5.2: 8)."""
    channels: int = 16
    """Number of channels of its first cells, doubled at each reduction cell (paper, Section 5.2: 16)."""
    arch_start_epoch: int = 0
    """First epoch, counted from 0, in which A and B are updated; the GAN is trained from epoch 0 on (DARTS: 0)."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("cells", 3), ("channels", 1), ("arch_start_epoch", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected at least {least}")
        for name, most in (("cells", MOST_CELLS), ("channels", WIDEST)):
            if getattr(self, name) > most:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected at most {most}")

    def first(self) -> Stage:
        """The stage that a search begins with."""
        raise NotImplementedError

    def next(self, stage: Stage, relaxation: Relaxation) -> Stage | None:
        """The stage after `stage`, given the weights it ended with; None when the search is over."""
        raise NotImplementedError

    def outline(self) -> tuple[Stage, ...]:
        """The stages as far as they are known before a search: of later ones' operations only how many an edge has (and
        which are the dearest that it may keep, so that what is measured on them is a bound)."""
        return (self.first(),)

    @property
    def total_epochs(self) -> int:
        """Of all stages."""
        return sum(stage.epochs for stage in self.outline())

    def skip_dropout(self, stage: Stage, epoch: int) -> float:
        """Rate of the dropout after skip connections in `epoch` (from 0) of `stage`."""
        return 0.0

    def genotype(self, stage: Stage, relaxation: Relaxation) -> Genotype:
        """The discrete architecture that the weights stand for: of every edge the strongest operation, of every node
        the two strongest edges (DARTS, Section 2.4; with edge weights PC-DARTS, Section 3.3)."""
        normal = derive(stage.normal_operations, relaxation.normal, relaxation.normal_edges)
        reduce = derive(stage.reduce_operations, relaxation.reduce, relaxation.reduce_edges)
        return Genotype(normal, CONCAT, reduce, CONCAT)
