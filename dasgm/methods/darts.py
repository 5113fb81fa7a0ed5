"""DARTS (arXiv 1806.09055): one supernet with all eight operations on each edge.

Whether it is first or second order is a setting of the search.
"""

from __future__ import annotations

from dataclasses import dataclass

from dasgm.genotype import EDGES, PRIMITIVES
from dasgm.methods._base import MethodConfig, Relaxation, Stage


@dataclass(frozen=True)
class Config(MethodConfig):
    """DARTS."""

    def first(self) -> Stage:
        everything = (PRIMITIVES,) * EDGES
        return Stage(0, self.epochs, self.arch_start_epoch, self.cells, self.channels, everything, everything)

    def next(self, stage: Stage, relaxation: Relaxation) -> None:
        return None
