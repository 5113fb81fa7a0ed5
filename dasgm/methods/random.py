"""Random search, the baseline of every table: one architecture a seed, without a supernet's training.

The genotype is derived from A as it is initialised. Its parameters are independent and alike, so everything that a node
may keep is equally likely, as with `dasgm random`: in DARTS's space every pair of its inputs and every operation but
`none`, in NAS-Bench-201 every operation. What follows is the same as for any method: the brief training that ranks a
genotype, and the record of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dasgm.methods import darts
from dasgm.methods._base import Stage

if TYPE_CHECKING:
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """Random search. Of its settings only the operations matter, since there is no epoch."""

    def first(self, space: SearchSpace) -> Stage:
        return replace(super().first(space), epochs=0, arch_start_epoch=0)

    def weight_epoch(self, stage: Stage, epoch: int) -> tuple[int, int]:
        return 0, 1
