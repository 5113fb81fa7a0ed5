"""The supernet: each edge of a cell computes the weighted sum of all its candidate operations (DARTS, Section 2.2).

One class serves DARTS, P-DARTS (the operations differ from edge to edge, dropout after skip connections) and PC-DARTS
(edge weights, and only 1/K of the channels pass through the operations). Edges are numbered as in the papers: by node,
then by input.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel.draws import dropout
from dasgm.genotype import EDGES, INPUTS, NODES, SKIP
from dasgm.methods._base import Stage
from dasgm.networks.operations import (
    SEPARABLE,
    DepthwiseConv,
    FactorizedReduce,
    HalvingConv,
    ReLUConvBN,
    fast_layout,
    pool,
    reductions,
    stem,
)

POOLS = ("max_pool_3x3", "avg_pool_3x3")
BYPASS = "bypass"  # PC-DARTS: the channels that pass no operation, weighted by the edge alone


class Mixture(NamedTuple):
    """The weights of the relaxed architecture, as the supernet takes them."""

    normal: Tensor
    """[14, operations], each row a softmax."""
    reduce: Tensor
    normal_edges: Tensor | None = None
    """[14], a softmax over the edges into each node."""
    reduce_edges: Tensor | None = None


class Architecture(nn.Module):
    """A: the architecture parameters, shared by all cells of a type. They are initialised from 1e-3 N(0, 1)."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.alphas_normal = nn.Parameter(1e-3 * torch.randn(EDGES, _count(stage.normal_operations)))
        self.alphas_reduce = nn.Parameter(1e-3 * torch.randn(EDGES, _count(stage.reduce_operations)))
        self.edge_weights = stage.edge_weights
        if stage.edge_weights:
            self.betas_normal = nn.Parameter(1e-3 * torch.randn(EDGES))
            self.betas_reduce = nn.Parameter(1e-3 * torch.randn(EDGES))

    def forward(self) -> Mixture:
        normal, reduction = self.alphas_normal.softmax(1), self.alphas_reduce.softmax(1)
        if not self.edge_weights:
            return Mixture(normal, reduction)
        return Mixture(normal, reduction, _softmax_per_node(self.betas_normal), _softmax_per_node(self.betas_reduce))


def _softmax_per_node(betas: Tensor) -> Tensor:
    return torch.cat([incoming.softmax(0) for incoming in betas.split(INPUTS)])


def _count(operations: Sequence[Sequence[str]]) -> int:
    assert len(operations) == EDGES, len(operations)
    counts = {len(names) for names in operations}
    assert len(counts) == 1, f"edges have unequal numbers of operations: {sorted(counts)}"
    assert all(set(names) - {"none"} for names in operations), "an edge has no operation but none"
    return counts.pop()


class Supernet(nn.Module):
    """W: images [N, in_channels, H, W], with H and W divisible by 4, and a mixture -> logits [N, classes].

    Raises:
        ValueError: `stage.channels` is no multiple of 2 * `stage.partial`.
    """

    def __init__(self, stage: Stage, classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if stage.channels < 1 or stage.channels % (2 * stage.partial):
            raise ValueError(
                f"channels = {stage.channels}: the supernet needs a multiple of {2 * stage.partial}"
                + (f" (1/{stage.partial} of them pass through the operations)" if stage.partial > 1 else "")
            )
        self.partial = stage.partial
        self.skip_dropout_rate = stage.skip_dropout
        channels, before, previous = stage.channels, 3 * stage.channels, 3 * stage.channels
        self.stem = stem(in_channels, previous)
        self.cells = nn.ModuleList()
        reduced = False
        for index in range(stage.cells):
            reduction = index in reductions(stage.cells)
            channels *= 2 if reduction else 1
            operations = stage.reduce_operations if reduction else stage.normal_operations
            self.cells.append(Cell(operations, before, previous, channels, reduction, reduced, stage.partial))
            before, previous, reduced = previous, NODES * channels, reduction
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        rate = self.skip_dropout_rate if self.training else 0.0
        normal = self._flat(mixture.normal, mixture.normal_edges)
        reduction = self._flat(mixture.reduce, mixture.reduce_edges)
        s0 = s1 = self.stem(fast_layout(x))
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, reduction if cell.reduction else normal, rate)
        return self.head(s1.mean((2, 3)))

    def _flat(self, weights: Tensor, edges: Tensor | None) -> Tensor:
        """All weights of a cell type as one vector: those of the operations, edge by edge, then those of the edges."""
        if edges is None:
            edges = weights.new_ones(EDGES)
        else:
            weights = weights * edges[:, None]
        return torch.cat([weights.flatten(), edges]) if self.partial > 1 else weights.flatten()


class Cell(nn.Module):
    """A cell of the supernet: two inputs and four nodes, each a weighted sum over the edges from all earlier states.

    `forward` takes the weights of the cell type as `Supernet` lays them out, and returns the concatenated nodes.

    Args:
        operations: names of the candidate operations of each edge.
        before, previous: number of channels of the outputs of the cell before the last, and of the last cell.
        channels: number of channels of each node.
        reduction: whether this cell halves height and width.
        reduced: whether the previous cell did, so that the first input is still twice as large.
        partial: K of PC-DARTS; 1/K of the channels pass through the operations.
    """

    index: Tensor

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
        shrink = FactorizedReduce if reduced else ReLUConvBN
        self.preprocess = nn.ModuleList([shrink(before, channels, False), ReLUConvBN(previous, channels, False)])
        fans = []
        for state in range(1 + NODES):
            edges = [sum(INPUTS[:node]) + state for node in self.targets(state)]
            fans.append(Fan(operations, edges, channels, 2 if reduction and state < 2 else 1, partial))
        self.fans = nn.ModuleList(fans)
        self.sizes = [len(fan.index) for fan in fans]
        # one gather serves all fans of the cell
        self.register_buffer("index", torch.tensor([place for fan in fans for place in fan.index]), persistent=False)

    @staticmethod
    def targets(state: int) -> range:
        """The nodes that read `state` (0 and 1 are the inputs, 2 + i is node i)."""
        return range(max(0, state - 1), NODES)

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, skip_dropout: float) -> Tensor:
        states = [layer(s) for layer, s in zip(self.preprocess, (s0, s1), strict=True)]
        through: list[list[Tensor]] = [[] for _ in range(NODES)]
        around: list[list[Tensor]] = [[] for _ in range(NODES)]
        picked = weights[self.index].split(self.sizes)
        for state, (fan, w) in enumerate(zip(self.fans, picked, strict=True)):
            if state >= 2:
                states.append(self._node(through[state - 2], around[state - 2]))
            terms = fan(states[state], w, skip_dropout)
            for node, (mixed, bypass) in zip(self.targets(state), terms, strict=True):
                through[node] += mixed
                around[node] += bypass
        return torch.cat([*states[2:], self._node(through[-1], around[-1])], 1)

    def _node(self, through: list[Tensor], around: list[Tensor]) -> Tensor:
        if self.partial == 1:
            return _total(through)
        # the shuffle is linear and the same on every edge, so it is done once, after the sum
        return F.channel_shuffle(torch.cat([_total(through), _total(around)], 1), self.partial)


class Fan(nn.Module):
    """The mixed operations of all edges that leave one state.

    These edges read the same tensor. What has no weights (pooling, the ReLU before a convolution) is therefore
    computed once, and one operation on m edges is a grouped convolution on m times the channels. The results are
    those of separate edges, with a quarter of the kernel launches. The operation `none` is not computed; its softmax
    weight is missing from the sum.

    Args:
        operations: names of the candidate operations of every edge of the cell.
        edges: numbers, within the cell, of the edges that leave this state.
        channels: number of channels of the state.
        stride: 2 where the edges halve the map, else 1.
        partial: K of PC-DARTS; 1/K of the channels pass through the operations.

    Attributes:
        having: operation -> places in `edges` that have it. Convolutions come first, then what the edges share, then
            PC-DARTS's bypass.
        index: where `Supernet` keeps the weights that `forward` takes: operation by operation as in `having`.
    """

    def __init__(
        self, operations: Sequence[Sequence[str]], edges: Sequence[int], channels: int, stride: int, partial: int
    ) -> None:
        super().__init__()
        self.edges, self.channels, self.stride, self.partial = len(edges), channels // partial, stride, partial
        self.bypassed = channels - self.channels
        learned = SEPARABLE if stride == 1 else (*SEPARABLE, SKIP)
        shared = (*POOLS, SKIP) if stride == 1 else POOLS
        candidates = [[*operations[edge], BYPASS] if partial > 1 else operations[edge] for edge in edges]
        having = {
            name: [place for place, names in enumerate(candidates) if name in names]
            for name in (*learned, *shared, BYPASS)
        }
        self.having = {name: places for name, places in having.items() if places}
        self.convolutions = nn.ModuleDict({
            name: self._convolution(name, len(self.having[name])) for name in learned if name in self.having
        })  # fmt: skip
        self.pools = nn.ModuleDict({
            name: nn.Sequential(pool(name, stride), WeightedNorm(self.channels))
            for name in POOLS if name in self.having
        })  # fmt: skip
        self.shared = [name for name in shared if name in self.having]
        self.index = [
            _position(operations, edges[place], name) for name, places in self.having.items() for place in places
        ]

    def _convolution(self, name: str, edges: int) -> nn.Module:
        if name == SKIP:
            return Reduce(self.channels, edges)
        return Separable(name, self.channels, edges, self.stride)

    def forward(self, x: Tensor, weights: Tensor, skip_dropout: float) -> list[tuple[list[Tensor], list[Tensor]]]:
        """For each edge the weighted results to be summed, and those of the bypass.

        Args:
            x: the state, [N, channels, H, W].
            weights: [len(index)], in the order of `index`.
            skip_dropout: rate of the dropout after skip connections.
        """
        parts = weights.split([len(places) for places in self.having.values()])
        weight_of = dict(zip(self.having, parts, strict=True))
        x, around = x.split([self.channels, self.bypassed], 1)
        terms: list[list[Tensor]] = [[] for _ in range(self.edges)]
        if self.convolutions:
            self._add_convolutions(terms, x.relu(), weight_of)
        self._add_shared(terms, x, weight_of, skip_dropout)
        if self.partial == 1:
            return [(term, []) for term in terms]
        if self.stride == 2:
            around = F.max_pool2d(around, 2)
        return [(term, [around * weight]) for term, weight in zip(terms, weight_of[BYPASS].unbind(), strict=True)]

    def _add_convolutions(self, terms: list[list[Tensor]], x: Tensor, weight_of: dict[str, Tensor]) -> None:
        """What has a result of its own for each edge."""
        wide = torch.cat([x] * self.edges, 1)
        on_all_edges: list[Tensor] = []
        for name, convolution in self.convolutions.items():
            places = self.having[name]
            gain = weight_of[name][:, None].expand(-1, self.channels).flatten()
            result = convolution(x if name == SKIP else wide[:, : len(places) * self.channels], gain)
            if len(places) == self.edges:
                on_all_edges.append(result)
            else:  # P-DARTS: edges differ
                for place, term in zip(places, result.split(self.channels, 1), strict=True):
                    terms[place].append(term)
        if on_all_edges:
            for place, term in enumerate(_total(on_all_edges).split(self.channels, 1)):
                terms[place].append(term)

    def _add_shared(
        self, terms: list[list[Tensor]], x: Tensor, weight_of: dict[str, Tensor], skip_dropout: float
    ) -> None:
        """What has one result for all edges."""
        results = {name: layer(x) for name, layer in self.pools.items()} | {SKIP: x}
        for name in self.shared:
            for place, weight in zip(self.having[name], weight_of[name].unbind(), strict=True):
                result = results[name]
                if name == SKIP and skip_dropout > 0:
                    result = dropout(result, skip_dropout)  # drawn anew for each edge
                terms[place].append(result * weight)


def _position(operations: Sequence[Sequence[str]], edge: int, name: str) -> int:
    """Where `Supernet._flat` puts the weight of an operation on an edge."""
    count = len(operations[edge])
    return EDGES * count + edge if name == BYPASS else edge * count + operations[edge].index(name)


class Separable(nn.Module):
    """A separable or dilated convolution on several edges, without its (first) ReLU.

    Input and output are [N, edges * channels, H, W], edge after edge. Each output channel is multiplied by its gain.
    """

    def __init__(self, name: str, channels: int, edges: int, stride: int) -> None:
        super().__init__()
        kernel, dilation = SEPARABLE[name]
        width = edges * channels
        strides = [stride, 1] if name.startswith("sep") else [stride]
        self.depthwise = nn.ModuleList(DepthwiseConv(width, kernel, stride, dilation) for stride in strides)
        self.pointwise = nn.ModuleList(nn.Conv2d(width, width, 1, groups=edges, bias=False) for _ in strides)
        self.norms = nn.ModuleList(WeightedNorm(width) for _ in strides)

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        *first, last = zip(self.depthwise, self.pointwise, self.norms, strict=True)
        for depthwise, pointwise, norm in first:
            x = norm(pointwise(depthwise(x))).relu()
        depthwise, pointwise, norm = last
        return norm(pointwise(depthwise(x)), gain)


class Reduce(nn.Module):
    """FactorizedReduce on several edges that read the same [N, channels, H, W], without its ReLU."""

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.half_width = channels // 2
        self.even = HalvingConv(channels, edges * self.half_width)
        self.odd = HalvingConv(channels, edges * self.half_width)
        self.norm = WeightedNorm(edges * channels)

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        halves = self.even(x).split(self.half_width, 1), self.odd(x[:, :, 1:, 1:]).split(self.half_width, 1)
        return self.norm(torch.cat(list(chain(*zip(*halves, strict=True))), 1), gain)


class WeightedNorm(nn.Module):
    """Batch norm without learned parameters. `forward` takes an optional gain, [channels]."""

    statistics_as_torch = True  # in training mode its running statistics are written and not read
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        if gain is not None:
            gain = gain.contiguous()  # an expanded tensor has stride 0, which torch's channels-last kernel misreads
        return F.batch_norm(x, self.running_mean, self.running_var, gain, None, self.training, momentum=0.1, eps=1e-5)


def _total(tensors: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, tensors)
