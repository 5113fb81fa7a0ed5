"""What a search pays for the size of the network that it derives: the settings, and the expected cost of a mixture.

The expected cost is the sum over all edges of all cells of sum_o w_o cost(o), with the weights w by which A is judged
(`MethodConfig.relaxed`). An operation costs what it costs at that place of the derived network; `none` costs nothing.
Where edges have weights (PC-DARTS), each counts with its weight times the number of edges that its node keeps. What all
derived networks of a size have alike (stem, preprocessing of a cell's inputs, head) is left out. If the mixture is
one-hot, with `none` on the edges that are not kept, the expected cost is that of the genotype, to the last digit.

L_DASGM + weight * (expected cost / that of the even mixture) is what A steps on. The form is ProxylessNAS's
(arXiv 1812.00332), whose code adds 0.2 * (expected latency - target) / target. It depends on A alone, so v and u (Eq. 6
and 7), W and the GAN are as they were, and its gradient is exact in both orders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from dasgm.genotype import edge_number
from dasgm.methods._base import MOST_CELLS, WIDEST, Relaxation, Stage
from dasgm.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.genotype import Genotype
    from dasgm.spaces._base import SearchSpace

Kind = Literal["parameters", "multiply_adds", "latency"]


@dataclass(frozen=True)
class CostConfig:
    """The cost of the derived network, as a penalty on A."""

    kind: Literal["none", "parameters", "multiply_adds", "latency"] = "none"
    """Cost of the derived network that A's loss holds: none, parameters, multiply_adds, or latency (our choice: none).
    The latency is in milliseconds, of one image on the device that searches, measured once a run."""
    weight: float = 0.2
    """Loss of A, in nats, that the cost of the even mixture of all operations adds; others add in proportion
    (ProxylessNAS's code: 0.2). 0 adds nothing, and the cost is only logged."""
    cells: int | None = None
    """Number of cells of the derived network (our choice).
    None is what `dasgm evaluate` trains on this data set by default."""
    channels: int | None = None
    """Number of channels of the derived network's first cells (our choice).
    None is what `dasgm evaluate` trains on this data set by default."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"cost.weight {self.weight}: expected a number of at least 0")
        for name, least, most in (("cells", 3, MOST_CELLS), ("channels", 1, WIDEST)):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"cost.{name} {value}: expected a number between {least} and {most}")
        unused = [f for f in ("weight", "cells", "channels") if getattr(self, f) != getattr(type(self), f)]
        if self.kind == "none" and unused:
            raise ValueError(
                f"cost.{unused[0]} {getattr(self, unused[0])}: it has no effect without {option('cost.kind')}; give a "
                "kind, such as parameters"
            )


@dataclass(frozen=True)
class Costs:
    """What each operation costs on each edge, and what of it A's loss holds."""

    kind: Kind
    weight: float
    space: SearchSpace
    table: Sequence[Sequence[Mapping[str, float]]]
    """[types of cells][edges]: operation -> its cost, summed over the cells of the derived network. `none` is in it."""
    first: Stage
    """The stage whose even mixture is the measure of all costs."""

    def of(self, stage: Stage) -> tuple[Tensor, ...]:
        """The costs [edges, operations] for each type of cell, in float64, as `expected` takes them."""
        import torch

        inputs, kept = self.space.inputs, self.space.kept
        # edge weights are a softmax over the edges into a node, of which it keeps some
        times = [min(n, kept or n) if stage.edge_weights else 1 for n in inputs for _ in range(n)]
        found = [
            [[number * costs[name] for name in names] for number, costs, names in zip(times, *cell, strict=True)]
            for cell in zip(self.table, stage.operations, strict=True)
        ]
        return tuple(torch.tensor(rows, dtype=torch.float64) for rows in found)

    def shares(self, stage: Stage) -> tuple[Tensor, ...]:
        """The same as shares of the even mixture's cost."""
        return tuple(cost / self.even for cost in self.of(stage))

    @cached_property
    def even(self) -> float:
        """The expected cost of the mixture that weighs all operations alike, and all edges; at least 1e-12."""
        import torch

        costs, inputs = self.of(self.first), self.space.inputs
        cells = [torch.full_like(cost, 1 / cost.shape[1]) for cost in costs]
        edges = torch.tensor([1 / n for n in inputs for _ in range(n)], dtype=torch.float64)
        return max(1e-12, self.expected(costs, cells, [edges] * len(cells) * self.first.edge_weights).item())

    @staticmethod
    def expected(costs: Sequence[Tensor], cells: Sequence[Tensor], edges: Sequence[Tensor] = ()) -> Tensor:
        """The expected cost of a mixture, a scalar; gradients reach the mixture.

        Args:
            costs: as `of` or `shares` gives them.
            cells: the weights of the operations, [edges, operations] for each type of cell.
            edges: the weight of each edge, [edges] for each type of cell; empty where edges have no weights.
        """
        import torch

        rows = [(cost * weights).sum(1) for cost, weights in zip(costs, cells, strict=True)]
        if edges:
            rows = [row * weights for row, weights in zip(rows, edges, strict=True)]
        return torch.cat(rows).sum()

    def derived(self, genotype: Genotype) -> float:
        """The cost of a genotype's operations."""
        first = self.space.inputs[0]
        found = (
            costs[edge_number(self.space.inputs, target - first, source)][name]
            for costs, graph in zip(self.table, genotype.graphs.values(), strict=True)
            for name, source, target in graph.edges
        )
        return sum(found)

    def metrics(self, stage: Stage, relaxation: Relaxation, genotype: Genotype) -> dict[str, float]:
        """The expected cost of the mixture and that of the genotype, and each as a share of the even mixture's."""
        import torch

        cells, edges = (
            [torch.tensor(rows, dtype=torch.float64) for rows in part] for part in (relaxation.cells, relaxation.edges)
        )
        expected, derived = self.expected(self.of(stage), cells, edges).item(), self.derived(genotype)
        found = {"expected": expected, "derived": derived}
        whole = {f"cost/{name}_{self.kind}": value for name, value in found.items()}
        return whole | {f"cost/{name}_share": value / self.even for name, value in found.items()}
