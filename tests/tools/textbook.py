"""DARTS, PC-DARTS and P-DARTS as their papers define them: a module for each edge and operation, and nothing else.

This is the yardstick of the benchmarks and the oracle of the tests. It is written for reading, from the papers' text
and a list of facts; no line of it is another's code, and it shares no layer with `dasgm.networks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.genotype import Edge, Genotype
from dasgm.methods._base import Stage

NODES = 4
AROUND = {"sep_conv_3x3": (3, 1), "sep_conv_5x5": (5, 1), "dil_conv_3x3": (3, 2), "dil_conv_5x5": (5, 2)}
EDGES = [(state, node) for node in range(NODES) for state in range(2 + node)]
"""(input, node) of each edge, in the order of the papers."""


class Zero(nn.Module):
    """The operation `none`."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


class Halving(nn.Module):
    """Factorized reduction: two 1x1 convolutions of stride 2 side by side, one of which begins a pixel later."""

    def __init__(self, before: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.even = nn.Conv2d(before, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(before, channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def relu_conv_norm(before: int, channels: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine))


def separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    depthwise = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    return [nn.ReLU(), depthwise, *relu_conv_norm(channels, channels, affine)[1:]]


def operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halving(channels, channels, affine)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    kernel, dilation = AROUND[name]
    layers = separable(channels, kernel, stride, dilation, affine)
    if name.startswith("sep"):
        layers += separable(channels, kernel, 1, dilation, affine)
    return nn.Sequential(*layers)


def halves(cells: int) -> tuple[int, int]:
    """The reduction cells: at a third and at two thirds of the depth."""
    return cells // 3, 2 * cells // 3


# the search: Section 2.2 of DARTS


class Mixed(nn.Module):
    """An edge: the weighted sum of its operations; with K > 1 on the first 1/K of the channels (PC-DARTS, 3.1)."""

    def __init__(self, names: Sequence[str], channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.stride, self.partial, self.names = stride, partial, list(names)
        self.skip_dropout = 0.0
        self.operations = nn.ModuleDict()
        for name in names:
            layers = operation(name, channels // partial, stride, affine=False)
            if "pool" in name:  # the norm without gains keeps pools comparable to convolutions
                layers = nn.Sequential(layers, nn.BatchNorm2d(channels // partial, affine=False))
            self.operations[name] = layers

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        selected = x[:, : x.shape[1] // self.partial]
        mixed = sum(weight * self._result(name, selected) for name, weight in zip(self.names, weights, strict=True))
        assert isinstance(mixed, Tensor)
        if self.partial == 1:
            return mixed
        others = x[:, x.shape[1] // self.partial :]
        joined = torch.cat([mixed, others if self.stride == 1 else F.max_pool2d(others, 2)], dim=1)
        n, c, h, w = joined.shape
        return joined.view(n, self.partial, c // self.partial, h, w).transpose(1, 2).reshape(n, c, h, w)

    def _result(self, name: str, x: Tensor) -> Tensor:
        result = self.operations[name](x)
        if name == "skip_connect" and self.stride == 1 and self.skip_dropout:  # P-DARTS, 3.3
            result = F.dropout(result, self.skip_dropout, self.training)
        return result


class SearchCell(nn.Module):
    def __init__(self, names: Sequence[Sequence[str]], before: int, previous: int, channels: int, reduction: bool,
                 reduced: bool, partial: int) -> None:  # fmt: skip
        super().__init__()
        self.reduction = reduction
        self.factors: Tensor | None = None  # [edges, N], by which drop path multiplies each edge's result (R-DARTS)
        self.preprocess0 = (Halving if reduced else relu_conv_norm)(before, channels, affine=False)
        self.preprocess1 = relu_conv_norm(previous, channels, affine=False)
        self.edges = nn.ModuleList(
            Mixed(own, channels, 2 if reduction and state < 2 else 1, partial)
            for own, (state, _) in zip(names, EDGES, strict=True)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, edge_weights: Tensor | None) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in range(NODES):
            total: Tensor | int = 0
            for index, (state, of) in enumerate(EDGES):
                if of == node:
                    result = self.edges[index](states[state], weights[index])
                    if self.training and self.factors is not None:
                        result = result * self.factors[index].view(-1, 1, 1, 1)
                    total = total + (result if edge_weights is None else edge_weights[index] * result)
            assert isinstance(total, Tensor)
            states.append(total)
        return torch.cat(states[2:], dim=1)


class SearchNetwork(nn.Module):
    """The supernet of a stage. `forward` takes images and the architecture: the alphas of the normal and of the
    reduction cells, with PC-DARTS followed by the betas of both.
    """

    def __init__(self, stage: Stage, classes: int) -> None:
        super().__init__()
        channels, before, previous = stage.channels, 3 * stage.channels, 3 * stage.channels
        self.stem = nn.Sequential(nn.Conv2d(3, previous, 3, padding=1, bias=False), nn.BatchNorm2d(previous))
        self.cells = nn.ModuleList()
        reduced = False
        for index in range(stage.cells):
            reduction = index in halves(stage.cells)
            channels = 2 * channels if reduction else channels
            names = stage.operations[reduction]
            self.cells.append(SearchCell(names, before, previous, channels, reduction, reduced, stage.partial))
            before, previous, reduced = previous, NODES * channels, reduction
        self.head = nn.Linear(previous, classes)

    def forward(self, x: Tensor, architecture: Sequence[Tensor]) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            alphas, *betas = architecture[cell.reduction :: 2]
            s0, s1 = s1, cell(s0, s1, F.softmax(alphas, dim=-1), by_node(betas[0]) if betas else None)
        return self.head(F.adaptive_avg_pool2d(s1, 1).flatten(1))

    def set_skip_dropout(self, rate: float) -> None:
        for module in self.modules():
            if isinstance(module, Mixed):
                module.skip_dropout = rate


def by_node(betas: Tensor) -> Tensor:
    """A softmax over the edges into each node (PC-DARTS, 3.2)."""
    return torch.cat([F.softmax(part, dim=-1) for part in betas.split([2, 3, 4, 5])])


# the network of a genotype: Section 2.4 and 3


class Cell(nn.Module):
    def __init__(self, edges: Sequence[Edge], concat: Sequence[int], before: int, previous: int, channels: int,
                 reduction: bool, reduced: bool) -> None:  # fmt: skip
        super().__init__()
        self.inputs, self.concat = [state for _, state in edges], list(concat)
        self.preprocess0 = (Halving if reduced else relu_conv_norm)(before, channels, affine=True)
        self.preprocess1 = relu_conv_norm(previous, channels, affine=True)
        self.operations = nn.ModuleList(
            operation(name, channels, 2 if reduction and state < 2 else 1, affine=True) for name, state in edges
        )

    def forward(self, s0: Tensor, s1: Tensor, drop_path_rate: float) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for first in range(0, len(self.inputs), 2):
            paths = []
            for edge in (first, first + 1):
                path = self.operations[edge](states[self.inputs[edge]])
                if self.training and drop_path_rate > 0 and not isinstance(self.operations[edge], nn.Identity):
                    keep = 1 - drop_path_rate
                    mask = torch.bernoulli(torch.full((len(path), 1, 1, 1), keep, dtype=path.dtype, device=path.device))
                    path = path / keep * mask
                paths.append(path)
            states.append(paths[0] + paths[1])
        return torch.cat([states[i] for i in self.concat], dim=1)


class Network(nn.Module):
    """The network that is trained from scratch. `forward` gives the logits of the head and of the auxiliary head,
    which is there in training alone.
    """

    def __init__(self, genotype: Genotype, channels: int, cells: int, classes: int, form: str, auxiliary: bool) -> None:
        super().__init__()
        self.large, self.drop_path_rate, width = form == "imagenet", 0.0, channels
        before = previous = channels if self.large else 3 * channels
        if self.large:
            self.stem = nn.Sequential(
                *_conv_norm(3, channels // 2, stride=2), nn.ReLU(), *_conv_norm(channels // 2, channels, stride=2)
            )
            self.second_stem = nn.Sequential(nn.ReLU(), *_conv_norm(channels, channels, stride=2))
        else:
            self.stem = nn.Sequential(*_conv_norm(3, previous, stride=1))
        self.cells = nn.ModuleList()
        reduced = self.large
        for index in range(cells):
            reduction = index in halves(cells)
            width = 2 * width if reduction else width
            edges, concat = (
                (genotype.reduce, genotype.reduce_concat) if reduction else (genotype.normal, genotype.normal_concat)
            )
            self.cells.append(Cell(edges, concat, before, previous, width, reduction, reduced))
            before, previous, reduced = previous, len(concat) * width, reduction
            if index == halves(cells)[1]:
                self.middle, middle_channels = index, previous
        self.head = nn.Linear(previous, classes)
        self.auxiliary = auxiliary_head(middle_channels, classes, self.large) if auxiliary else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None
        s0 = s1 = self.stem(x)
        if self.large:
            s1 = self.second_stem(s0)
        for index, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.drop_path_rate)
            if index == self.middle and self.auxiliary is not None and self.training:
                auxiliary = self.auxiliary(s1)
        return self.head(F.adaptive_avg_pool2d(s1, 1).flatten(1)), auxiliary


def _conv_norm(before: int, channels: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(before, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels)]


def auxiliary_head(channels: int, classes: int, large: bool) -> nn.Sequential:
    """For maps of 8x8 (CIFAR at 32 pixels) or 7x7 (ImageNet at 224, where the second norm is missing)."""
    return nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride=2 if large else 3),
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
        *([] if large else [nn.BatchNorm2d(768)]),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, classes),
    )
