"""PC-DARTS (arXiv 1907.05737): 1/K of the channels pass through the operations, and each edge has a
weight of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.methods._base import MethodConfig, Relaxation, Stage

if TYPE_CHECKING:
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(MethodConfig):
    """PC-DARTS."""

    spaces = ("darts",)

    arch_start_epoch: int = 15
    """First epoch, counted from 0, in which A and B are updated; the GAN is trained from epoch 0 (PC-DARTS: 15)."""
    partial: int = 4
    """K: one channel in K passes through the operations, the others bypass them (PC-DARTS: 4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure_at_least(partial=1)

    def first(self, space: SearchSpace) -> Stage:
        return Stage(
            0,
            self.epochs,
            self.arch_start_epoch,
            self.cells,
            self.channels,
            space.everything,
            partial=self.partial,
            edge_weights=True,
        )

    def next(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> None:
        return None
