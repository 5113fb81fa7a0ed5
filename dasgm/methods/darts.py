"""DARTS (arXiv 1806.09055): one supernet, all eight operations on every edge. First or second order is the search's."""

from __future__ import annotations

from dataclasses import dataclass

from dasgm.genotype import PRIMITIVES, Genotype, derive
from dasgm.methods._base import EDGES, MethodConfig, Relaxation, Stage


@dataclass(frozen=True)
class Config(MethodConfig):
    """DARTS."""

    def first(self) -> Stage:
        everything = (PRIMITIVES,) * EDGES
        return Stage(0, self.epochs, self.arch_start_epoch, self.cells, self.channels, everything, everything)

    def next(self, stage: Stage, relaxation: Relaxation) -> None:
        return None

    def genotype(self, stage: Stage, relaxation: Relaxation) -> Genotype:
        nodes = (2, 3, 4, 5)
        normal = derive(stage.normal_operations, relaxation.normal, relaxation.normal_edges)
        reduce = derive(stage.reduce_operations, relaxation.reduce, relaxation.reduce_edges)
        return Genotype(normal, nodes, reduce, nodes)
