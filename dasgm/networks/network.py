"""The network that a genotype stands for, trained from scratch (DARTS, Section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dasgm.genotype import Edge, Genotype
from dasgm.networks.operations import FactorizedReduce, ReLUConvBN, fast_layout, operation, reductions, stem


class Network(nn.Module):
    """Images [N, in_channels, H, W] (H, W divisible by 4) -> logits [N, classes]."""

    def __init__(self, genotype: Genotype, channels: int, cells: int, classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels = {channels}: the network needs an even number")
        before, previous = 3 * channels, 3 * channels
        self.stem = stem(in_channels, previous)
        self.cells = nn.ModuleList()
        reduced = False
        for index in range(cells):
            reduction = index in reductions(cells)
            channels *= 2 if reduction else 1
            edges = genotype.reduce if reduction else genotype.normal
            concat = genotype.reduce_concat if reduction else genotype.normal_concat
            self.cells.append(Cell(edges, concat, before, previous, channels, reduction, reduced))
            before, previous, reduced = previous, len(concat) * channels, reduction
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor) -> Tensor:
        s0 = s1 = self.stem(fast_layout(x))
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return self.head(s1.mean((2, 3)))


class Cell(nn.Module):
    """Each node is the sum of two operations on earlier states; the output concatenates the states of `concat`."""

    def __init__(
        self,
        edges: Sequence[Edge],
        concat: Sequence[int],
        before: int,
        previous: int,
        channels: int,
        reduction: bool,
        reduced: bool,
    ) -> None:
        super().__init__()
        self.inputs = [state for _, state in edges]
        self.concat = list(concat)
        shrink = FactorizedReduce if reduced else ReLUConvBN
        self.preprocess = nn.ModuleList([shrink(before, channels, True), ReLUConvBN(previous, channels, True)])
        self.operations = nn.ModuleList(
            operation(name, channels, 2 if reduction and state < 2 else 1, affine=True) for name, state in edges
        )

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [layer(s) for layer, s in zip(self.preprocess, (s0, s1), strict=True)]
        for edge in range(0, len(self.inputs), 2):
            a, b = (self.operations[e](states[self.inputs[e]]) for e in (edge, edge + 1))
            states.append(a + b)
        return torch.cat([states[i] for i in self.concat], 1)
