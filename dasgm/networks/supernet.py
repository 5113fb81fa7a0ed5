"""The supernet: each edge of a cell computes the weighted sum of all its candidate operations (DARTS, Section 2.2).

One class serves DARTS, P-DARTS (the operations differ from edge to edge, dropout after skip connections), PC-DARTS
(edge weights, and only 1/K of the channels pass through the operations) and R-DARTS (drop path on edges). Edges are
numbered as in the papers: by node, then by input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel.draws import Number
from dasgm.genotype import EDGES, INPUTS, NODES, edge_number
from dasgm.networks import operations
from dasgm.networks.bundle import Bundle, Norms, Pack, beside, dropped, for_channels, weighted
from dasgm.networks.fan import AUXILIARY, Fan
from dasgm.networks.network import edge_factors
from dasgm.networks.operations import FactorizedReduce, ReLUConvBN, fast_layout, reductions, stem
from dasgm.networks.regularisation import Regularisation

if TYPE_CHECKING:
    from dasgm.methods._base import Stage
    from dasgm.spaces._base import SearchSpace

APART = tuple((state,) for state in range(1 + NODES))
"""The states that nodes read: 0 and 1 are the inputs, 2 + i is node i."""
TOGETHER = ((0, 1), *APART[2:])
"""The same, with those together that are known at one time."""


class Mixture(NamedTuple):
    """The weights of the relaxed architecture, as the supernet takes them."""

    cells: tuple[Tensor, ...]
    """[edges, operations] for each type of cell (`SearchSpace.cell_types`), each row by default a softmax. With an
    auxiliary skip connection its weight is in one more column (`Stage.auxiliary_skip`)."""
    edges: tuple[Tensor, ...] = ()
    """[edges] for each type of cell, a softmax over the edges into each node. Empty: edges have no weights."""


Relax = Callable[[int, Tensor], Tensor]
"""(number of a type of cell, its alphas [edges, operations]) -> weights, in the same shape."""


class Architecture(nn.Module):
    """A: the architecture parameters, shared by all cells of a type. They are initialised from 1e-3 N(0, 1).

    Args:
        relax: makes the weights of the operations, which `forward` returns as a `Mixture`. None: DARTS's relaxation
            (Eq. 2), with weight 0 for an auxiliary skip connection.
    """

    def __init__(self, stage: Stage, space: SearchSpace, relax: Relax | None = None) -> None:
        super().__init__()
        self.relax = relax or (lambda kind, alphas: F.pad(alphas.softmax(1), (0, int(stage.auxiliary_skip))))
        self.types, self.inputs, self.edge_weights = space.cell_types, space.inputs, stage.edge_weights
        for name, candidates in zip(self.types, stage.operations, strict=True):
            alphas = 1e-3 * torch.randn(space.edges, _count(candidates, space.edges))
            self.register_parameter(f"alphas_{name}", nn.Parameter(alphas))
        for name in self.types if stage.edge_weights else ():
            self.register_parameter(f"betas_{name}", nn.Parameter(1e-3 * torch.randn(space.edges)))

    def forward(self) -> Mixture:
        return self.relaxed_by(self.relax)

    def relaxed_by(self, relax: Relax) -> Mixture:
        """The mixture with another relaxation of the operations."""
        cells = tuple(relax(kind, alphas) for kind, alphas in enumerate(self._parameters_of("alphas")))
        betas = self._parameters_of("betas") if self.edge_weights else ()
        return Mixture(cells, tuple(self._softmax_per_node(each) for each in betas))

    def _parameters_of(self, what: str) -> list[Tensor]:
        return [getattr(self, f"{what}_{name}") for name in self.types]

    def _softmax_per_node(self, betas: Tensor) -> Tensor:
        return torch.cat([incoming.softmax(0) for incoming in betas.split(self.inputs)])


def _count(operations: Sequence[Sequence[str]], edges: int) -> int:
    assert len(operations) == edges, len(operations)
    counts = {len(names) for names in operations}
    assert len(counts) == 1, f"edges have unequal numbers of operations: {sorted(counts)}"
    assert all(set(names) - {"none"} for names in operations), "an edge has no operation but none"
    return counts.pop()


class Supernet(nn.Module):
    """W: images [N, in_channels, H, W], with H and W divisible by 4, and a mixture -> logits [N, classes].

    Raises:
        ValueError: `stage.channels` is no multiple of 2 and of `stage.partial`.
    """

    def __init__(self, stage: Stage, classes: int, in_channels: int = 3) -> None:
        super().__init__()
        step = math.lcm(2, stage.partial)  # a reduction cell, which halves what passes, has twice as many channels
        if stage.channels < 1 or stage.channels % step:
            raise ValueError(
                f"channels = {stage.channels}: the supernet needs a multiple of {step}"
                + (f" (1/{stage.partial} of them pass through the operations)" if stage.partial > 1 else "")
            )
        self.partial = stage.partial
        self.regularisation = Regularisation(skip_dropout=stage.skip_dropout)
        channels, before, previous = stage.channels, 3 * stage.channels, 3 * stage.channels
        self.stem = stem(in_channels, previous)
        self.cells = nn.ModuleList()
        reduced = False
        for index in range(stage.cells):
            reduction = index in reductions(stage.cells)
            channels *= 2 if reduction else 1
            operations = stage.operations[reduction]  # a normal cell's, a reduction cell's
            if stage.auxiliary_skip:
                operations = tuple((*names, AUXILIARY) for names in operations)
            self.cells.append(Cell(operations, before, previous, channels, reduction, reduced, stage.partial))
            before, previous, reduced = previous, NODES * channels, reduction
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        weights = [self._flat(*cell) for cell in zip_longest(mixture.cells, mixture.edges)]
        s0 = s1 = self.stem(fast_layout(x))
        factors = edge_factors(x, len(self.cells), EDGES, self.drop_path)
        for cell, own in zip(self.cells, factors, strict=True):
            s0, s1 = s1, cell(s0, s1, weights[bool(cell.reduction)], self.skip_dropout, own)
        return self.head(s1.mean((2, 3)))

    def skip_dropout(self) -> float:
        """Rate of the dropout after skip connections."""
        return self.regularisation.skip_dropout if self.training else 0.0

    def drop_path(self) -> float:
        """Rate of drop path on edges."""
        return self.regularisation.drop_path if self.training else 0.0

    def _flat(self, weights: Tensor, edges: Tensor | None) -> Tensor:
        """All weights of a cell type in one vector: those of the operations, edge by edge, those of the edges, a 0."""
        zero = weights.new_zeros(1)
        if edges is None and self.partial > 1:  # what bypasses the operations is summed
            edges = weights.new_ones(len(weights))
        if edges is None:
            return torch.cat([weights.flatten(), zero])
        return torch.cat([(weights * edges[:, None]).flatten(), edges, zero])


class Cell(nn.Module):
    """A cell of the supernet: two inputs and four nodes, each a weighted sum over the edges from all earlier states.

    `forward` takes the weights of the cell type as `Supernet` lays them out, the rate of the dropout after skip
    connections, and the factors of drop path (`edge_factors`). It returns the concatenated nodes.

    Args:
        operations: names of the candidate operations of each edge.
        before, previous: number of channels of the outputs of the cell before the last, and of the last cell.
        channels: number of channels of each node.
        reduction: whether this cell halves height and width.
        reduced: whether the previous cell did, so that the first input is still twice as large.
        partial: K of PC-DARTS; 1/K of the channels pass through the operations.
    """

    def __init__(
        self,
        operations: Sequence[Sequence[str]],
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        reduced: bool,
        partial: int,
    ) -> None:
        super().__init__()
        self.reduction, self.partial = reduction, partial
        self.channels, self.bypassed = channels // partial, channels - channels // partial
        shrink = FactorizedReduce if reduced else ReLUConvBN
        self.preprocess = nn.ModuleList([shrink(before, channels, False), ReLUConvBN(previous, channels, False)])
        numbers = [[edge_number(INPUTS, node, state) for node in self.targets(state)] for state in range(1 + NODES)]
        strides = [2 if reduction and state < 2 else 1 for state in range(1 + NODES)]
        self.fans = nn.ModuleList(
            Fan([operations[edge] for edge in edges], self.channels, stride)
            for edges, stride in zip(numbers, strides, strict=True)
        )
        # wide operations are fewer for a GPU to start, and slower on a CPU
        self.plans = nn.ModuleDict({
            name: Plan(fronts, operations, numbers, self.fans, strides, self.channels, partial)
            for name, fronts in (("together", TOGETHER), ("apart", APART))
        })  # fmt: skip

    @staticmethod
    def targets(state: int) -> range:
        """The nodes that read `state` (0 and 1 are the inputs, 2 + i is node i)."""
        return range(max(0, state - 1), NODES)

    def forward(
        self, s0: Tensor, s1: Tensor, weights: Tensor, skip_dropout: Number, factors: Tensor | None = None
    ) -> Tensor:
        states = [layer(s) for layer, s in zip(self.preprocess, (s0, s1), strict=True)]
        # apart, each result of a bundle is that of an edge, which drop path needs
        plan = self.plans["together" if factors is None and not operations.narrow_form(s0) else "apart"]
        assert isinstance(plan, Plan)
        drops = iter(() if factors is None else factors.split([bundle.targets for bundle in plan.bundles]))
        through: Tensor | None = None  # what is known of the sums of the nodes to come
        around: Tensor | None = None
        gains, matrices = plan.pick(weights)
        kernels = iter(plan.kernels.joint(plan.kernels.vector()))
        with plan.norms.running(self.training) as norm:
            for front, bundle in zip(plan.fronts, plan.bundles, strict=True):
                x, bypassed = self._parts([states[state] for state in front])
                own = next(drops, None)
                rest, side = (through, around) if own is None else (None, None)
                through = dropped(through, bundle(x, rest, kernels, norm, gains, next(matrices), skip_dropout), own)
                if bypassed is not None:
                    bypassed = F.max_pool2d(bypassed, 2) if bundle.stride == 2 else bypassed
                    around = dropped(around, weighted(side, next(matrices), [bypassed]), own)
                if front[-1] > 0:  # both inputs and all nodes before it are summed, so the next node is complete
                    node, through = _first(through, self.channels)
                    if around is not None:
                        other, around = _first(around, self.bypassed)
                        # the shuffle is linear and the same on every edge, so it is done once, after the sum
                        node = F.channel_shuffle(torch.cat([node, other], 1), self.partial)
                    states.append(node)
        return torch.cat(states[2:], 1)

    def _parts(self, states: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The channels of all states that pass through the operations, and those that do not."""
        if self.partial == 1:
            return beside(states), None
        parts = zip(*(state.split([self.channels, self.bypassed], 1) for state in states), strict=True)
        through, around = (beside(part) for part in parts)
        return through, around


def _first(sums: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """The sum for the first node, and those for the others."""
    if sums.shape[1] == channels:
        return sums, None
    first, others = sums.split([channels, sums.shape[1] - channels], 1)
    return first, others


class Plan(nn.Module):
    """How a cell computes its edges: the bundles, and where the weights of each are found. It has no parameters."""

    index: Tensor

    def __init__(
        self,
        fronts: Sequence[Sequence[int]],
        operations: Sequence[Sequence[str]],
        numbers: Sequence[Sequence[int]],
        fans: nn.ModuleList,
        strides: Sequence[int],
        channels: int,
        partial: int,
    ) -> None:
        super().__init__()
        self.fronts, self.channels = fronts, channels
        self.bundles = [
            Bundle([cast(Fan, fans[state]) for state in states], len(numbers[states[0]]), channels, strides[states[0]])
            for states in fronts
        ]
        self.kernels = Pack("weight", [joint for bundle in self.bundles for joint in bundle.kernels])
        self.norms = Norms([module for bundle in self.bundles for module in bundle.norms])
        gains, matrices, self.rows = [], [], []
        for bundle, states in zip(self.bundles, fronts, strict=True):
            edges = [numbers[state] for state in states]  # of each fan
            targets = range(bundle.targets)
            gains += [
                [_position(operations, partial, edges[fan][place], name) for fan, place, name in joint]
                for joint in bundle.gains
            ]
            matrices.append([
                _position(operations, partial, edges[fan][target], name)
                for target in targets for fan, name in bundle.columns
            ])  # fmt: skip
            if partial > 1:
                matrices.append([EDGES * len(operations[0]) + fan[target] for target in targets for fan in edges])
            self.rows += [bundle.targets] * (2 if partial > 1 else 1)
        self.widths = [len(joint) * channels for joint in gains]
        self.sizes = [sum(map(len, gains)), *map(len, matrices)]
        # one gather serves all edges of the cell
        self.register_buffer("index", torch.tensor([i for part in (*gains, *matrices) for i in part]), persistent=False)

    def pick(self, weights: Tensor) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """The gains and the matrices that the bundles take, in their order."""
        gains, *matrices = weights[self.index].split(self.sizes)
        return (
            iter(for_channels(gains, self.channels).split(self.widths)),
            iter([m.view(rows, m.numel() // rows) for m, rows in zip(matrices, self.rows, strict=True)]),
        )


def _position(operations: Sequence[Sequence[str]], partial: int, edge: int, name: str) -> int:
    """Where `Supernet._flat` puts the weight of an operation on an edge, or 0 where the edge has no such operation."""
    names = operations[edge]
    if name in names:
        return edge * len(names) + names.index(name)
    return EDGES * (len(names) + (1 if partial > 1 else 0))
