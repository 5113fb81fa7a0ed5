"""A search method at work: its hooks with the numbers of the epoch, its memory, and what is its own of A."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel import Player, Point, replay
from dasgm.distributed import average
from dasgm.genotype import SKIP
from dasgm.methods._base import CellType, Memory, MethodConfig, Relaxation, Stage, View
from dasgm.methods._cost import Costs

if TYPE_CHECKING:
    from dasgm.genotype import Genotype
    from dasgm.networks.supernet import Mixture
    from dasgm.spaces._base import SearchSpace


class Method:
    """The method of a search, which calls the hooks of its configuration (`MethodConfig`).

    Args:
        config: the settings of the method.
        space: the search space.
        device: the device that computes.
        costs: what operations cost, where A's loss holds the expected cost or it is logged.

    Attributes:
        times: the numbers of the epoch, on the device. `begin_epoch` overwrites them in place.
        memory: what the method keeps from epoch to epoch, for the checkpoint.
    """

    def __init__(self, config: MethodConfig, space: SearchSpace, device: torch.device, costs: Costs | None = None):
        self.config, self.space, self.device, self.costs = config, space, device, costs
        self.memory: Memory = {}
        self.times: dict[str, Tensor] = {}

    def enter(self, stage: Stage) -> None:
        """A stage begins."""
        self.stage = stage
        self.cells = [CellType(*cell) for cell in zip(self.space.cell_types, stage.operations, strict=True)]
        self.times = {name: _tensor(value).to(self.device) for name, value in self._times(0).items()}
        shares = self.costs.shares(stage) if self.costs else ()
        self.shares = [share.to(torch.get_default_dtype()).to(self.device) for share in shares]

    def begin_epoch(self, epoch: int) -> None:
        """Writes the numbers of the epoch."""
        for name, value in self._times(epoch).items():
            new = _tensor(value)
            assert new.shape == self.times[name].shape, f"{name} changes its shape within a stage"
            self.times[name].copy_(new)

    def _times(self, epoch: int) -> Mapping[str, Any]:
        return self.config.times(self.space, self.stage, epoch, self.memory)

    # of A

    def mixture(self, kind: int, alphas: Tensor) -> Tensor:
        """The weights with which the supernet computes, for the type of cell with this number."""
        return self.config.mixture(self.cells[kind], alphas, self.times)

    def relaxed(self, kind: int, alphas: Tensor) -> Tensor:
        """The weights by which A is judged."""
        return self.config.relaxed(self.cells[kind], alphas, self.times)

    # within an iteration

    def offset(
        self, W: Player, A: Player, x: Tensor, y: Tensor, stream: Callable[[str], Any]
    ) -> tuple[Tensor, ...] | None:
        """What is added to the mixture in L_class of (x, y), a constant.

        Args:
            stream: name -> the stream of its draws in this iteration; that of L_class is "class".
        """

        def mixture() -> Mixture:
            with replay(stream("class")):
                found: Mixture = A.fixed()
                return found

        def loss(mixture: Mixture) -> Tensor:
            with replay(stream("class")), _evaluating(W.module):
                return F.cross_entropy(W.fixed(x, mixture), y)

        with replay(stream("offset")):
            return self.config.offset(mixture, loss, self.times)

    def penalty(self, A: Player) -> Tensor | float:
        """What is added to L_DASGM for the step of A: the method's own loss, and the expected cost (`_cost`)."""
        own = self.config.arch_loss(_alphas(A), self.times)
        if self.costs is None or not self.costs.weight:
            return own
        architecture: Any = A.module
        mixture: Mixture = architecture.relaxed_by(self.relaxed)
        return own + self.costs.weight * self.costs.expected(self.shares, mixture.cells, mixture.edges)

    @torch.no_grad()
    def settle(self, before: Point, A: Player, drawn: Mixture) -> None:
        """Corrects A after its step, in place. Each worker has a mixture of its own: the corrections are averaged."""
        alphas = _alphas(A)
        corrected = self.config.after_arch_step(_alphas(before), alphas, drawn, self.times)
        if corrected is not None:
            average(corrected)
            torch._foreach_copy_(alphas, corrected)

    # between epochs

    def end_epoch(
        self, epoch: int, relaxation: Relaxation, metrics: Mapping[str, float], eigenvalue: Callable[[], float]
    ) -> str:
        """Why the stage ends after this epoch, or ''.

        Args:
            eigenvalue: see `View`.
        """
        view = View(self.space, self.stage, epoch, relaxation, metrics, eigenvalue)
        why = self.config.after_epoch(view, self.memory)
        self.memory = json.loads(json.dumps(self.memory))  # so that it is what a checkpoint brings back
        self.begin_epoch(epoch)  # the genotype of this epoch is already by the new memory
        return why

    def genotype(self, relaxation: Relaxation) -> Genotype:
        """The genotype that the method derives."""
        return self.config.genotype(self.space, self.stage, relaxation, self.memory)


def architecture_metrics(space: SearchSpace, stage: Stage, relaxation: Relaxation) -> dict[str, float]:
    """Mean entropy over the edges (nats) and number of skip connections of the strongest operations, for each cell.

    Skip connections are counted before P-DARTS's cap, which would hide a collapse.
    """
    found: dict[str, float] = {}
    cells = zip_longest(space.cell_types, stage.operations, relaxation.cells, relaxation.edges)
    for name, operations, weights, edges in cells:
        entropy = -sum(w * math.log(max(w, 1e-12)) for row in weights for w in row) / len(weights)
        skips = sum(chosen == SKIP for chosen, _ in space.derive(operations, weights, edges))
        found |= {f"arch/entropy_{name}": entropy, f"arch/skips_{name}": skips}
    return found


def _alphas(A: Point) -> list[Tensor]:
    return [p for name, p in A.params.items() if name.startswith("alphas")]


def shifted(mixture: Any, offset: tuple[Tensor, ...] | None) -> Any:
    """A mixture with an offset added to the weights of its operations."""
    if offset is None:
        return mixture
    return mixture._replace(cells=tuple(w + d for w, d in zip(mixture.cells, offset, strict=True)))


def _tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.get_default_dtype())


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in evaluation mode."""
    module.eval()
    try:
        yield
    finally:
        module.train()
