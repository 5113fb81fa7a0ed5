"""R-DARTS (arXiv 1909.09656): early stopping (DARTS-ES), and W held back by weight decay (L2) or by drop path (DP).

The search ends before A moves to where the loss is sharp.

Every `every` epochs the algebraically largest eigenvalue of the Hessian of the loss over A is taken, on a batch of J_2.
An average over the last `window` of them stands for the epoch in their middle. Once it is more than `factor` times the
one `delta` eigenvalues before it, the search stops, and the genotype is that of the earlier epoch.

R-DARTS(L2) is a larger --classifier-weight-decay (the authors search with 3, 9, 27, 81 and 243e-4 and keep the best),
with or without this stop. R-DARTS(DP) drops the results of edges and blanks squares of W's images, more from epoch to
epoch: --method.drop-path and --data.cutout. The authors blank squares of A's images too; here J_3 has no cutout.

Its spaces S2 and S3 are --method.operations. Not here: the way back to an earlier epoch with more weight decay (ADA).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from dasgm.data._base import YOUNGER
from dasgm.methods import darts
from dasgm.methods._base import NO_MEMORY, Memory, Relaxation, Stage, View
from dasgm.networks.regularisation import Regularisation
from dasgm.options import option
from dasgm.plugins import key_of

if TYPE_CHECKING:
    from dasgm.genotype import Genotype
    from dasgm.spaces._base import SearchSpace


@dataclass(frozen=True)
class Config(darts.Config):
    """R-DARTS."""

    every: int = 2
    """Number of epochs from one eigenvalue to the next (R-DARTS's script: 2)."""
    window: int = 5
    """Number of eigenvalues in an average, an odd one (R-DARTS: 5). The first averages have at least half of them."""
    start: int = 10
    """First epoch, counted from 0, whose genotype may be the result of a stop (R-DARTS: 10)."""
    delta: int = 4
    """Number of eigenvalues between the two averages that are compared (R-DARTS: 4)."""
    factor: float = 1.3
    """Growth of the average that stops the search (R-DARTS: 1.3). 0 never stops and takes no eigenvalue."""
    diagonal: float = 1e-3
    """Number that is added to each eigenvalue, the weight decay of A (R-DARTS's code: 1e-3)."""
    drop_path: float = field(default=0.0, metadata=YOUNGER)
    """Rate of drop path in the last epoch, to which it grows linearly from 0 (R-DARTS(DP): 0.2, 0.4 or 0.6).
    The probability of --data.cutout grows from 0 to 1 with it (R-DARTS(DP): --data.cutout 16)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ensure_at_least(every=1, window=1, start=0, delta=1)
        if not self.window % 2:
            raise ValueError(f"method.window {self.window}: expected an odd number")
        self.ensure_not_negative("factor", "diagonal")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"method.drop_path {self.drop_path}: expected a rate from 0 to below 1")

    def first(self, space: SearchSpace) -> Stage:
        if self.drop_path and not space.drops_paths:
            raise ValueError(
                f"method.drop_path {self.drop_path}: the supernet of search-space {key_of(space)} has no drop path; "
                "expected 0"
            )
        return super().first(space)

    def regularisation(self, stage: Stage, epoch: int) -> Regularisation:
        if not self.drop_path:
            return Regularisation()
        share = epoch / max(1, stage.epochs - 1)
        return Regularisation(drop_path=self.drop_path * share, cutout=share)

    @property
    def back(self) -> int:
        """Number of eigenvalues from the epoch of the genotype to the epoch that stops."""
        return self.window // 2 + self.delta

    def shortened(self, epochs: int) -> Self:
        share = epochs / self.epochs
        start, every = round(share * self.start), max(1, round(share * self.every))
        window, delta = (max(1, round(share * n * self.every / every)) for n in (self.window, self.delta))
        return replace(self, epochs=epochs, every=every, window=window | 1, delta=delta, start=start)

    def too_short(self, space: SearchSpace, stage: Stage) -> str:
        first = self.every * (self.back + math.ceil(self.start / self.every))
        if not self.factor or first < stage.epochs:
            return ""
        return (
            f"R-DARTS cannot stop early: the first epoch after which it may is {first + 1}, after the last "
            f"({stage.epochs}); raise {option('method.epochs')}, or lower {option('method.start')} or "
            f"{option('method.every')}"
        )

    def after_epoch(self, view: View, memory: Memory) -> str:
        if not self.factor or view.epoch % self.every:
            return ""
        values = memory.setdefault("eigenvalues", [])
        values.append(view.eigenvalue() + self.diagonal)
        past = [*memory.get("relaxations", ()), (view.relaxation.cells, view.relaxation.edges)]
        memory["relaxations"] = past[-1 - self.back :]
        earlier, growth = view.epoch - self.back * self.every, grown(values, self.window, self.delta)
        if earlier < self.start or not growth > self.factor:
            return ""
        memory["result"] = memory["relaxations"][0]
        return (
            f"the largest eigenvalue of A's Hessian has grown {growth:.2f}-fold; the genotype is that after epoch "
            f"{earlier + 1}"
        )

    def genotype(
        self, space: SearchSpace, stage: Stage, relaxation: Relaxation, memory: Mapping[str, Any] = NO_MEMORY
    ) -> Genotype:
        found = Relaxation(*memory["result"]) if "result" in memory else relaxation
        return super().genotype(space, stage, found, memory)


def grown(values: Sequence[float], window: int, delta: int) -> float:
    """How many times the last average of the eigenvalues is the one `delta` before it; 0 where there is none before, or
    where it is not above 0.

    Args:
        window: number of eigenvalues in an average. At the beginning there are fewer, at least half of them.
    """
    now, before = _average(values, window), _average(values[: len(values) - delta], window)
    return now / before if before > 0 else 0.0


def _average(values: Sequence[float], window: int) -> float:
    """The mean of the last values; 0 where fewer than half of the window are there."""
    last = values[-window:]
    return sum(last) / len(last) if len(last) > window // 2 else 0.0
