"""DARTS (arXiv 1806.09055): one supernet with all operations on each edge.

Whether it is first or second order is a setting of the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.methods._base import MethodConfig, Relaxation, Stage

if TYPE_CHECKING:
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(MethodConfig):
    """DARTS."""

    def first(self, space: SearchSpace) -> Stage:
        return Stage(0, self.epochs, self.arch_start_epoch, self.cells, self.channels, space.everything)

    def next(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> None:
        return None
