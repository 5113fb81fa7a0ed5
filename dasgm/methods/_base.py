"""What a search method is: settings, a sequence of stages, each with a supernet, and hooks into Algorithm 1.

The hooks are pure functions of the configuration and their arguments; their defaults are DARTS. `_hooks.Method` calls
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dasgm.networks.regularisation import Regularisation

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.genotype import Genotype
    from dasgm.networks.supernet import Mixture
    from dasgm.spaces._base import SearchSpace

MOST_CELLS, WIDEST = 100, 4096  # largest numbers of cells and channels that are accepted
Operations = tuple[tuple[str, ...], ...]  # [edges of a cell][operations of the edge]: names
Weights = Sequence[Sequence[float]]  # [edges of a cell][operations of the edge]: softmax weights
Times = Mapping[str, "Tensor"]  # the numbers of the epoch, on the device: what `MethodConfig.times` returns
Memory = dict[str, Any]  # what a method keeps from epoch to epoch, as JSON has it
NO_MEMORY: Mapping[str, Any] = MappingProxyType({})


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
    auxiliary_skip: bool = False
    """Whether each edge has a second skip connection beside its candidates (DARTS-). Its weight is the last column of
    the mixture, and no genotype has it."""
    skip_dropout: float = 0.0
    """Initial rate of the dropout after skip connections (P-DARTS)."""
    continues: bool = False
    """Whether W and A go on as they were, less the operations that edges have lost (DrNAS). Otherwise both are new."""

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The stage of a checkpoint, in which tuples are lists."""
        fields = {name: _tuples(value) for name, value in plain.items()}
        if "operations" not in fields:  # dasgm 0.2.0 wrote them apart
            fields["operations"] = (fields.pop("normal_operations"), fields.pop("reduce_operations"))
        return cls(**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Relaxation:
    """The weights of the architecture A as plain numbers, from which a method decides."""

    cells: tuple[Weights, ...]
    """For each type of cell (`SearchSpace.cell_types`)."""
    edges: tuple[Sequence[float], ...] = ()
    """The weight of each edge, for each type of cell; empty where edges have no weights."""


class CellType(NamedTuple):
    """A type of cell of a stage."""

    name: str
    """One of `SearchSpace.cell_types`."""
    operations: Operations
    """Names of the candidate operations of each edge: the columns of its alphas."""


@dataclass(frozen=True)
class View:
    """What a method sees of the search at the end of an epoch."""

    space: SearchSpace
    stage: Stage
    epoch: int
    """The epoch of the stage that ends, counted from 0."""
    relaxation: Relaxation
    metrics: Mapping[str, float]
    """What is logged of the epoch, such as `val/accuracy`."""
    eigenvalue: Callable[[], float]
    """Gives the algebraically largest eigenvalue of the Hessian over A, on a batch of J_2 per worker, and logs it. It
    costs some dozens of gradients. Every worker calls it, or none does."""


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
        self.ensure_at_least(epochs=1, cells=3, channels=1, arch_start_epoch=0)
        for name, most in (("cells", MOST_CELLS), ("channels", WIDEST)):
            if getattr(self, name) > most:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected at most {most}")

    def ensure_at_least(self, **least: int) -> None:
        """ValueError where a setting, given by its name, is below its bound."""
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"method.{name} {getattr(self, name)}: expected at least {bound}")

    def ensure_not_negative(self, *names: str) -> None:
        """ValueError where one of these settings is no finite number of at least 0."""
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"method.{name} {value}: expected a number of at least 0")

    def shortened(self, epochs: int) -> Self:
        """The same method with so many epochs a stage. What it decides in certain epochs moves with them."""
        return replace(self, epochs=epochs)

    def too_short(self, space: SearchSpace, stage: Stage) -> str:
        """What the method does not come to decide in a stage of so few epochs, as a line for the user, or ''."""
        return ""

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

    def weight_epoch(self, stage: Stage, epoch: int) -> tuple[int, int]:
        """(epoch, number of epochs) at which the cosine of W's learning rate stands in `epoch` of `stage`."""
        return epoch, stage.epochs

    def regularisation(self, stage: Stage, epoch: int) -> Regularisation:
        """What makes it harder for W to fit in `epoch` (counted from 0) of `stage`. Dropout and drop path act wherever
        the supernet is in training mode: in L_class, L_DASGM and the Hessian over A.
        """
        return Regularisation()

    # hooks into Algorithm 1

    def times(self, space: SearchSpace, stage: Stage, epoch: int, memory: Mapping[str, Any]) -> Mapping[str, Any]:
        """The numbers of an epoch by name, such as a temperature: floats or nested lists of them.

        The other hooks get them as tensors on the device, which are overwritten in place when an epoch begins, so that
        a CUDA graph reads the new numbers. Names and shapes are the same throughout a stage.

        Args:
            epoch: counted from 0 in each stage.
            memory: what `after_epoch` has kept.
        """
        return {}

    def relaxed(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        """The weights of the operations by which A is judged: in genotypes, pictures and `next`. No number is drawn.

        Args:
            alphas: the parameters of A for this type of cell, [edges, operations].

        Returns:
            [edges, operations], by default the softmax (DARTS, Eq. 2).
        """
        return alphas.softmax(1)

    def mixture(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        """The weights with which the supernet sums its operations, by default the relaxed ones.

        It is called for each type of cell in each pass of L_class (Eq. 3 and its mixed derivative), of L_DASGM (Eq. 6)
        and of the supernet's accuracy. Numbers are drawn by `dasgm.bilevel.draws.draw`: all passes of L_class get the
        same ones, L_DASGM others. Gradients reach the alphas.

        Args:
            alphas: as `relaxed` has them.

        Returns:
            [edges, operations].
        """
        return self.relaxed(cell, alphas, times)

    def offset(
        self, mixture: Callable[[], Mixture], loss: Callable[[Mixture], Tensor], times: Times
    ) -> tuple[Tensor, ...] | None:
        """What is added to the mixture in L_class, or None. It is called once in an iteration, before Eq. 3.

        A's own step is taken without it. In the mixed derivative of the second order it is a constant.

        Args:
            mixture: gives the mixture of L_class, without a gradient.
            loss: mixture -> L_class at the W before the step, on the same batch and with the same draws, but in
                evaluation mode: batch norms use their running statistics. No gradient reaches W.

        Returns:
            [edges, operations] for each type of cell.
        """
        return None

    def arch_loss(self, alphas: Sequence[Tensor], times: Times) -> Tensor | float:
        """What is added to L_DASGM for the step of A, a scalar. It may depend on A alone, so that v and u (Eq. 6 and 7)
        are as they were. The logged loss is without it.

        Args:
            alphas: [edges, operations] for each type of cell.
        """
        return 0.0

    def after_arch_step(
        self, before: Sequence[Tensor], after: Sequence[Tensor], drawn: Mixture, times: Times
    ) -> list[Tensor] | None:
        """The alphas that replace those after the step of A, or None to leave them.

        Args:
            before, after: the alphas before and after the step, [edges, operations] for each type of cell.
            drawn: the mixture of L_DASGM in this iteration.
        """
        return None

    def after_epoch(self, view: View, memory: Memory) -> str:
        """Called at the end of each epoch, on every worker, before the checkpoint is written.

        Args:
            memory: may be written to. It is in the checkpoint, and `times` and `genotype` get it.

        Returns:
            Why the stage ends here, such as 'the eigenvalue has grown 1.4-fold', or '' to go on.
        """
        return ""

    def genotype(
        self, space: SearchSpace, stage: Stage, relaxation: Relaxation, memory: Mapping[str, Any] = NO_MEMORY
    ) -> Genotype:
        """The genotype that the weights stand for, as the space derives it (in DARTS's: Section 2.4; with edge weights
        PC-DARTS, Section 3.3).

        Args:
            memory: what `after_epoch` has kept.
        """
        return space.genotype([
            space.derive(*cell) for cell in zip_longest(stage.operations, relaxation.cells, relaxation.edges)
        ])  # fmt: skip


def strongest(operations: Operations, weights: Weights, count: int) -> Operations:
    """The `count` operations of largest weight on each edge, in their previous order. `none` counts like the others."""
    left = []
    for names, values in zip(operations, weights, strict=True):
        best = sorted(range(len(names)), key=lambda i: (-values[i], -i))[:count]
        left.append(tuple(names[i] for i in sorted(best)))
    return tuple(left)
