"""NAS-Bench-201 as its paper defines it: a module for each edge and operation, and nothing else.

It shares no layer with `dasgm.networks`; no line of it is another's code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.methods._base import Stage

EDGES = [(source, node) for node in (1, 2, 3) for source in range(node)]
OPERATIONS = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


def conv(before: int, channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    layer = nn.Conv2d(before, channels, kernel, stride, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(nn.ReLU(), layer, nn.BatchNorm2d(channels, affine=affine))


def operation(name: str, channels: int, affine: bool) -> nn.Module:
    if name == "none":
        return Zero()
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return conv(channels, channels, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[name], 1, affine)


class Cell(nn.Module):
    """Node i is the sum over its edges of the weighted operations. With one name an edge: of an architecture."""

    def __init__(self, names: Sequence[Sequence[str]], channels: int, affine: bool) -> None:
        super().__init__()
        self.names = names
        self.factors: Tensor | None = None  # [edges, N], by which drop path multiplies each edge's result
        self.edges = nn.ModuleList(
            nn.ModuleDict({name: operation(name, channels, affine) for name in own}) for own in names
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        states = [x]
        for node in (1, 2, 3):
            total = torch.zeros_like(x)
            for edge, (source, to) in enumerate(EDGES):
                if to == node:
                    mixed = torch.zeros_like(x)
                    for column, name in enumerate(self.names[edge]):
                        mixed = mixed + weights[edge, column] * self.edges[edge][name](states[source])
                    if self.training and self.factors is not None:
                        mixed = mixed * self.factors[edge].view(-1, 1, 1, 1)
                    total = total + mixed
            states.append(total)
        return states[3]


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = conv(channels, 2 * channels, 3, 2, True)
        self.conv_b = conv(2 * channels, 2 * channels, 3, 1, True)
        self.downsample = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(x) + self.conv_b(self.conv_a(x))


class Macro(nn.Module):
    """Stem, N cells, block, N cells, block, N cells, norm, ReLU, global average, linear."""

    def __init__(self, names: Sequence[Sequence[str]], channels: int, n: int, classes: int, affine: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.cells = nn.ModuleList()
        for stage in range(3):
            if stage:
                self.cells.append(Block(channels))
                channels *= 2
            self.cells.extend(Cell(names, channels, affine) for _ in range(n))
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def run(self, x: Tensor, weights: Tensor) -> Tensor:
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, weights) if isinstance(cell, Cell) else cell(x)
        return self.head(F.adaptive_avg_pool2d(F.relu(self.norm(x)), 1).flatten(1))


class SearchNetwork(Macro):
    """The supernet of a stage. `forward` takes images and the architecture, [alphas]."""

    def __init__(self, stage: Stage, classes: int) -> None:
        (names,) = stage.operations
        super().__init__(names, stage.channels, (stage.cells - 2) // 3, classes, affine=False)

    def forward(self, x: Tensor, architecture: Sequence[Tensor]) -> Tensor:
        return self.run(x, F.softmax(architecture[0], dim=-1))


class Network(Macro):
    """The network of an architecture, the operation of each edge."""

    def __init__(self, operations: Sequence[str], channels: int, n: int, classes: int) -> None:
        super().__init__([[name] for name in operations], channels, n, classes, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, torch.ones(6, 1, dtype=x.dtype))


Tensors = dict[str, Tensor]
BLOCK = {"first": "conv_a", "second": "conv_b", "shortcut": "downsample"}


def as_textbook201(stage: Stage, tensors: Tensors) -> Tensors:
    """The package's supernet (weights, gradients or running statistics, by name), by the textbook's names."""
    (operations,) = stage.operations
    found: Tensors = {}
    for name, t in tensors.items():
        match name.split("."):
            case ["cells", cell, "fans", state, "convolutions", operation, *_, leaf]:
                edges = [
                    e for e, (source, _) in enumerate(EDGES) if source == int(state) and operation in operations[e]
                ]
                layer = 1 if leaf == "weight" else 2
                for edge, part in zip(edges, t.chunk(len(edges)), strict=True):
                    found[f"cells.{cell}.edges.{edge}.{operation}.{layer}.{leaf}"] = part
            case ["cells", cell, block, *rest] if block in BLOCK:
                found[".".join(["cells", cell, BLOCK[block], *rest])] = t
            case _:
                found[name] = t
    return found
