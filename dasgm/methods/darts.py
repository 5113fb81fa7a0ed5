"""DARTS (arXiv 1806.09055): one supernet with all operations on each edge.

Whether it is first or second order is a setting of the search.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dasgm.data._base import YOUNGER
from dasgm.methods._base import MethodConfig, Relaxation, Stage
from dasgm.plugins import nearest

if TYPE_CHECKING:
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(MethodConfig):
    """DARTS."""

    operations: tuple[str, ...] = field(default=(), metadata=YOUNGER)
    """Names of the candidate operations of each edge; none given: all that the search space has (DARTS).
    R-DARTS's S2 is skip_connect sep_conv_3x3, and its S3 is none skip_connect sep_conv_3x3."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operations and not set(self.operations) - {"none"}:
            raise ValueError("method.operations ('none',): expected at least one operation beside none")

    def first(self, space: SearchSpace) -> Stage:
        for name in self.operations:
            if name not in space.operations:
                raise ValueError(
                    f"method.operations {name!r}: expected operations of the search space, "
                    f"{', '.join(space.operations)}{nearest(name, list(space.operations))}"
                )
        candidates = tuple(name for name in space.operations if not self.operations or name in self.operations)
        operations = ((candidates,) * space.edges,) * len(space.cell_types)
        return Stage(0, self.epochs, self.arch_start_epoch, self.cells, self.channels, operations)

    def next(self, space: SearchSpace, stage: Stage, relaxation: Relaxation) -> None:
        return None
