"""The networks of NAS-Bench-201 (arXiv 2001.00326): the supernet, and the network of a genotype.

Both are a stem, cells of one type in three stages, and a residual block between two stages, which halves the map and
doubles the number of channels. `cells` counts the two residual blocks, which stand at a third and two thirds of the
depth like DARTS's reduction cells: the benchmark's 5 cells a stage are 17.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.genotype import SKIP, edge_number
from dasgm.networks.bundle import dropped, for_channels, weighted
from dasgm.networks.fan import AUXILIARY, Statistics
from dasgm.networks.network import DerivedNetwork, check_image_size, edge_factors
from dasgm.networks.operations import fast_layout, pool, reductions, stem
from dasgm.networks.regularisation import Regularisation
from dasgm.options import option

if TYPE_CHECKING:
    from dasgm.methods._base import Stage
    from dasgm.networks.supernet import Mixture
    from dasgm.spaces.nasbench201 import CellGenotype

KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
SHARED = ("avg_pool_3x3", SKIP, AUXILIARY)
"""What has no weights, and so one result for all edges that leave a state. No edge halves the map, so an auxiliary skip
connection is the identity as well."""
NODES = 3
INPUTS = range(1, 1 + NODES)
"""Number of edges into each node."""
EDGES = sum(INPUTS)
Choice = tuple[list[Tensor], Tensor]
"""The weights of the edges that leave a state: [edges] of each convolution, and [edges, shared operations]."""


def edges_of(state: int) -> list[int]:
    """Numbers of the edges that leave `state`, one to each later node."""
    return [edge_number(INPUTS, node, state) for node in range(state, NODES)]


class Supernet(nn.Module):
    """W: images [N, 3, H, W], with H and W divisible by 4, and a mixture -> logits [N, classes].

    Raises:
        ValueError: the stage has partial channels, edge weights or a dropout after skip connections, which are not
            defined here, or another number of cells than 5, 8, 11 and so on.
    """

    def __init__(self, stage: Stage, classes: int) -> None:
        super().__init__()
        if stage.partial > 1 or stage.edge_weights or stage.skip_dropout:
            raise ValueError(
                "search-space nasbench201: partial channels, edge weights and skip dropout are not defined for it; set "
                f"{option('method.partial')} 1 if there is such an option, or choose another {option('method')}"
            )
        (operations,) = stage.operations
        if stage.auxiliary_skip:
            operations = tuple((*names, AUXILIARY) for names in operations)
        self.regularisation = Regularisation()
        channels = stage.channels
        self.stem = stem(3, channels)
        self.cells, channels = in_stages(stage.cells, channels, lambda width: Cell(operations, width))
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)
        self.choices = Choices(operations)

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        choices = self.choices(mixture.cells[0])
        factors = iter(edge_factors(x, len(self.cells) - 2, EDGES, self.drop_path))
        x = self.stem(fast_layout(x))
        for cell in self.cells:
            x = cell(x, choices, next(factors)) if isinstance(cell, Cell) else cell(x)
        return self.head(self.norm(x).relu().mean((2, 3)))

    def drop_path(self) -> float:
        """Rate of drop path on edges."""
        return self.regularisation.drop_path if self.training else 0.0


class Choices(nn.Module):
    """Sorts the weights of the edges [6, operations] by the state that an edge leaves. It has no parameters."""

    index: Tensor

    def __init__(self, operations: Sequence[Sequence[str]]) -> None:
        super().__init__()
        width = len(operations[0])
        self.absent = len(operations) * width  # place of a 0
        self.shared = SHARED if AUXILIARY in operations[0] else SHARED[:2]
        index: list[int] = []
        self.sizes: list[int] = []

        def places(edges: Sequence[int], name: str) -> list[int]:
            having = (operations[edge] for edge in edges)
            return [edge * width + names.index(name) if name in names else self.absent
                    for edge, names in zip(edges, having, strict=True)]  # fmt: skip

        for state in range(NODES):
            edges = edges_of(state)
            for name in KERNELS:
                own = [place for place in places(edges, name) if place != self.absent]
                index += own
                self.sizes.append(len(own))
            rows = [places([edge], name)[0] for edge in edges for name in self.shared]
            index += rows
            self.sizes.append(len(rows))
        self.register_buffer("index", torch.tensor(index), persistent=False)

    def forward(self, weights: Tensor) -> list[Choice]:
        flat = torch.cat([weights.flatten(), weights.new_zeros(1)])
        parts = iter(flat[self.index].split(self.sizes))
        return [([next(parts) for _ in KERNELS], next(parts).view(-1, len(self.shared))) for _ in range(NODES)]


class Cell(nn.Module):
    """A cell of the supernet: its input is state 0, and each node is a weighted sum over the edges from all earlier
    states. [N, channels, H, W] -> the last node, of the same shape.

    `forward` takes the weights of its edges (`Choices`) and the factors of drop path (`edge_factors`).
    """

    def __init__(self, operations: Sequence[Sequence[str]], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fans = nn.ModuleList(
            Fan([operations[edge] for edge in edges_of(state)], channels) for state in range(NODES)
        )

    def forward(self, x: Tensor, choices: Sequence[Choice], factors: Tensor | None = None) -> Tensor:
        later: Tensor | None = None  # what is known of the sums of the nodes to come
        drops = iter(() if factors is None else factors.split([NODES - state for state in range(NODES)]))
        for fan, (gains, matrix) in zip(self.fans, choices, strict=True):
            own = next(drops, None)
            later = dropped(later, fan(x, later if own is None else None, gains, matrix), own)
            x, later = later[:, : self.channels], later[:, self.channels :]
        return x


class Fan(nn.Module):
    """The operations of all edges that leave one state.

    A convolution on m edges is one convolution with m times the channels. Its batch norm, which learns nothing, takes
    the weights of the edges as its gains. What has no weights is computed once. `none` adds nothing.

    Args:
        candidates: names of the candidate operations of each edge that leaves this state.

    Attributes:
        having: convolution -> the edges that have it.
    """

    def __init__(self, candidates: Sequence[Sequence[str]], channels: int) -> None:
        super().__init__()
        self.channels, self.targets = channels, len(candidates)
        having = {name: [row for row, names in enumerate(candidates) if name in names] for name in KERNELS}
        self.having = {name: rows for name, rows in having.items() if rows}
        self.convolutions = nn.ModuleDict({
            name: Convolution(channels, len(rows), KERNELS[name]) for name, rows in self.having.items()
        })  # fmt: skip
        self.pool = pool("avg_pool_3x3", 1)

    def forward(self, x: Tensor, later: Tensor | None, gains: Sequence[Tensor], matrix: Tensor) -> Tensor:
        """The sums for the nodes after this state, [N, nodes * channels, H, W]; `later` is added to them."""
        total, rectified = later, x.relu()
        for name, gain in zip(KERNELS, gains, strict=True):
            if name in self.having:
                found = self._by_target(self.convolutions[name](rectified, gain), self.having[name])
                total = found if total is None else total + found
        return weighted(total, matrix, [self.pool(x), x, x][: matrix.shape[1]])

    def _by_target(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """[N, len(rows) * channels, H, W] -> [N, targets * channels, H, W], with zeros for the other targets."""
        if len(rows) == self.targets:
            return x
        parts = dict(zip(rows, x.split(self.channels, 1), strict=True))
        zeros = torch.zeros_like(next(iter(parts.values())))
        return torch.cat([parts.get(row, zeros) for row in range(self.targets)], 1)


class Convolution(nn.Module):
    """A convolution on several edges that leave one state, and a batch norm: [N, edges * channels, H, W], edge after
    edge, each times its weight.
    """

    def __init__(self, channels: int, edges: int, kernel: int) -> None:
        super().__init__()
        self.channels = channels
        self.convolution = nn.Conv2d(channels, edges * channels, kernel, padding=kernel // 2, bias=False)
        self.norm = Statistics(edges * channels)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        mean, variance, gains = self.norm.running_mean, self.norm.running_var, for_channels(weights, self.channels)
        return F.batch_norm(self.convolution(x), mean, variance, gains, training=self.training)


class ResidualBlock(nn.Module):
    """[N, channels, H, W] -> [N, 2 * channels, H / 2, W / 2], for even H and W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = relu_conv_norm(channels, 2 * channels, 3, 2)
        self.second = relu_conv_norm(2 * channels, 2 * channels, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.shortcut(x)


def in_stages(cells: int, channels: int, cell: Callable[[int], nn.Module]) -> tuple[nn.ModuleList, int]:
    """The cells of three stages with the residual blocks between them, and the number of channels after them.

    Args:
        cells: number of cells and residual blocks together.
        channels: number of channels of the first stage.
        cell: makes a cell of a number of channels.

    Raises:
        ValueError: the stages would not have equally many cells, or none.
    """
    if cells < 5 or cells % 3 != 2:
        raise ValueError(
            f"cells = {cells}: networks of nasbench201 have 3 N + 2, N cells in each stage and two residual blocks; "
            "expected 5, 8, 11 or so on for the cells of the method, of the proxy and of an evaluation"
        )
    found = nn.ModuleList()
    for index in range(cells):
        if index in reductions(cells):
            found.append(ResidualBlock(channels))
            channels *= 2
        else:
            found.append(cell(channels))
    return found, channels


def relu_conv_norm(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels))


class Network(DerivedNetwork):
    """The network of a genotype: images [N, 3, H, W], with H and W divisible by 4, -> logits [N, classes].

    Args:
        channels: number of channels of the first stage. Each residual block doubles it.
        cells: number of cells and residual blocks together: 5, 8, 11 and so on.

    Raises:
        ValueError: a size that the network cannot have; in `forward`, an image whose size is not divisible.
    """

    def __init__(self, genotype: CellGenotype, channels: int, cells: int, classes: int) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels = {channels}: the network needs at least 1")
        self.stem = stem(3, channels)
        self.cells, channels = in_stages(cells, channels, lambda width: DerivedCell(genotype, width))
        built: Any = self.cells
        self.paths = sum(sum(cell.droppable) for cell in built if isinstance(cell, DerivedCell))
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)
        self.auxiliary = None

    def forward(self, x: Tensor) -> Tensor:
        check_image_size("cifar", *x.shape[2:])
        x = self.body(fast_layout(x), self.factors(x))
        return self.head(self.pool(self.norm(x).relu()).flatten(1))

    def body(self, x: Tensor, factors: Tensor | None) -> Tensor:
        x = self.stem(x)
        paths = iter(() if factors is None else factors.to(x.dtype).unbind())
        for cell in self.cells:
            x = cell(x, paths) if isinstance(cell, DerivedCell) else cell(x)
        return x


class DerivedCell(nn.Module):
    """A cell of the network: each node is the sum of the edges into it, 0 where all of them are `none`."""

    def __init__(self, genotype: CellGenotype, channels: int) -> None:
        super().__init__()
        (cell,) = genotype.graphs.values()
        self.edges = [(source, target) for name, source, target in cell.edges if name != "none"]
        names = [name for name, _, _ in cell.edges if name != "none"]
        self.operations = nn.ModuleList(operation(name, channels) for name in names)
        self.droppable = [name != SKIP for name in names]

    def forward(self, x: Tensor, factors: Iterator[Tensor]) -> Tensor:
        """`factors` gives what each path but skip connections is multiplied by, [N, 1, 1, 1]; 1 where it ends."""
        states = [x]
        for node in range(1, 1 + NODES):
            into = [self._path(edge, states, factors) for edge, (_, to) in enumerate(self.edges) if to == node]
            states.append(reduce(torch.add, into) if into else torch.zeros_like(x))
        return states[-1]

    def _path(self, edge: int, states: Sequence[Tensor], factors: Iterator[Tensor]) -> Tensor:
        result: Tensor = self.operations[edge](states[self.edges[edge][0]])
        factor = next(factors, None) if self.droppable[edge] else None
        return result if factor is None else result * factor


def operation(name: str, channels: int) -> nn.Module:
    """The operation `name` of the derived network, which keeps the shape."""
    if name == SKIP:
        return nn.Identity()
    if name in KERNELS:
        return relu_conv_norm(channels, channels, KERNELS[name])
    assert name == "avg_pool_3x3", name
    return pool(name, 1)
