"""The network of a genotype, which is trained from scratch (DARTS, Section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel.draws import Number, draw
from dasgm.data._base import STEP
from dasgm.genotype import Edge
from dasgm.networks.operations import (
    FactorizedReduce,
    ReLUConvBN,
    ReLUFirst,
    fast_layout,
    operation,
    reductions,
    stem,
)

if TYPE_CHECKING:
    from dasgm.spaces.darts import DartsGenotype

Form = Literal["cifar", "imagenet"]
SHRINKS: dict[Form, int] = {"cifar": 4, "imagenet": 32}  # by how much the last map is smaller than the image


def check_image_size(form: Form, *sizes: int) -> None:
    """Raises ValueError where a network of this form cannot take images of these heights and widths, in pixels."""
    for size in sizes:
        if size < SHRINKS[form] or size % STEP:
            raise ValueError(
                f"image size {size}: a network of the {form} form needs a multiple of {STEP} pixels, at least "
                f"{SHRINKS[form]}"
            )


class DerivedNetwork(nn.Module):
    """The network of a genotype: images [N, in_channels, H, W] -> logits [N, classes]."""

    drop_path_rate: float = 0.0
    """Rate of drop-path in training, at least 0 and below 1. The training sets it every epoch."""
    paths: int
    """Number of paths that drop-path may drop."""
    auxiliary: nn.Module | None  # a class's value would hide the module
    """The auxiliary head, which only `forward_with_auxiliary` uses."""

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the head and of the auxiliary head, [N, classes] each, for a training loss of both."""
        raise NotImplementedError

    def body(self, x: Tensor, factors: Tensor | None) -> Any:
        """Stems and cells, which the training may have compiled. `factors` are those of the paths, or None."""
        raise NotImplementedError

    def factors(self, x: Tensor) -> Tensor | None:
        """By what the paths of this batch are multiplied, cell by cell, [paths, N, 1, 1, 1]; None drops nothing."""
        if not self.training or self.drop_path_rate == 0 or self.paths == 0:
            return None
        n = len(x)  # the draw is kept for later iterations, and must not keep this batch
        return draw(lambda: drop_paths(self.paths, n, self.drop_path_rate), x.device)


class Network(DerivedNetwork):
    """The network of a genotype of DARTS's space: images [N, in_channels, H, W] -> logits [N, classes].

    Args:
        genotype: both cells.
        channels: number of channels of the first cells, an even number. It doubles at each of the two reduction cells.
        cells: number of cells, at least 3.
        form: `cifar` has a stem that keeps the size (H and W from 4). `imagenet` has one that divides it by 8 (H and W
            from 32), and its first cell counts as the one after a reduction (DARTS, Section 3.3). H and W are multiples
            of 4; maps of odd size are halved to the next whole number.
        auxiliary: whether there is a second head after the second reduction cell, for `forward_with_auxiliary`.

    Raises:
        ValueError: a size that the network cannot have; in `forward`, an image whose size is not divisible.
    """

    def __init__(
        self,
        genotype: DartsGenotype,
        channels: int,
        cells: int,
        classes: int,
        in_channels: int = 3,
        form: Form = "cifar",
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"channels = {channels}: the network needs an even number")
        if cells < 3:
            raise ValueError(f"cells = {cells}: the network needs at least 3, two of them reductions")
        if form not in SHRINKS:
            raise ValueError(f"form {form!r}: expected {' or '.join(SHRINKS)}")
        self.form = form
        large = form == "imagenet"
        before = previous = channels if large else 3 * channels
        self.stem = imagenet_stem(in_channels, channels) if large else stem(in_channels, previous)
        self.second_stem = _second_stem(channels) if large else nn.Identity()
        self.cells = nn.ModuleList()
        reduced = large
        for index in range(cells):
            reduction = index in reductions(cells)
            channels *= 2 if reduction else 1
            edges = genotype.reduce if reduction else genotype.normal
            concat = genotype.reduce_concat if reduction else genotype.normal_concat
            self.cells.append(Cell(edges, concat, before, previous, channels, reduction, reduced))
            before, previous, reduced = previous, len(concat) * channels, reduction
        built: Any = self.cells
        self.paths = sum(sum(cell.droppable) for cell in built)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(previous, classes)
        self.auxiliary_index = max(reductions(cells))
        width = len(genotype.reduce_concat) * channels  # no reduction comes after that cell
        self.auxiliary = AuxiliaryHead(width, classes, form) if auxiliary else None

    def forward(self, x: Tensor) -> Tensor:
        """The logits, without the auxiliary head."""
        return self._logits(self._maps(x)[1])

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.auxiliary is not None, "the network was built without auxiliary=True"
        middle, last = self._maps(x)
        return self._logits(last), self.auxiliary(middle)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the second reduction cell and of the last cell; in training their ReLU, but for the last."""
        check_image_size(self.form, *x.shape[2:])
        return self.body(fast_layout(x), self.factors(x))

    def body(self, x: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor]:
        s0 = self.stem(x)
        s1 = middle = self.second_stem(s0)
        if self.training:  # every state is read by two cells, which share its ReLU
            s0, s1 = (s0.relu(),) * 2 if s1 is s0 else (s0.relu(), s1.relu())
        paths = iter(() if factors is None else factors.to(s0.dtype).unbind())
        cells: Any = self.cells
        for index, cell in enumerate(cells):
            last = index == len(self.cells) - 1
            s0, s1 = s1, cell.shared(s0, s1, paths, not last) if self.training else cell(s0, s1)
            if index == self.auxiliary_index:
                middle = s1
        return middle, s1

    def _logits(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x).flatten(1))


class Cell(nn.Module):
    """A cell of the network.

    Each node is the sum of two operations on earlier states; the output concatenates `concat`.
    """

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
        self.droppable = [not isinstance(layers, nn.Identity) for layers in self.operations]

    def forward(self, s0: Tensor, s1: Tensor, factors: Iterator[Tensor] | None = None) -> Tensor:
        """The cell by its definition.

        Args:
            factors: gives what each path but those of identities is multiplied by, [N, 1, 1, 1]; 1 where it ends.
        """
        states = [layer(s) for layer, s in zip(self.preprocess, (s0, s1), strict=True)]
        self._add_nodes(states, lambda layers, state: layers(states[state]), factors or iter(()))
        return torch.cat([states[i] for i in self.concat], 1)

    def shared(self, s0: Tensor, s1: Tensor, factors: Iterator[Tensor], rectify: bool) -> Tensor:
        """The same with a single ReLU for each state, in training.

        Args:
            s0, s1: they have been through their ReLU.
            rectify: whether the result goes through it too.
        """
        preprocess: Any = self.preprocess
        states = [layer.rectified(s) for layer, s in zip(preprocess, (s0, s1), strict=True)]
        rectified: dict[int, Tensor] = {}

        def relu(state: int) -> Tensor:
            if state not in rectified:
                rectified[state] = states[state].relu()
            return rectified[state]

        def path(layers: Any, state: int) -> Tensor:
            starts = isinstance(layers, ReLUFirst | FactorizedReduce)
            return layers.rectified(relu(state)) if starts else layers(states[state])

        self._add_nodes(states, path, factors)
        return torch.cat([relu(i) if rectify else states[i] for i in self.concat], 1)

    def _add_nodes(self, states: list[Tensor], path: Callable[[Any, int], Tensor], factors: Iterator[Tensor]) -> None:
        """Appends the nodes, each the sum of two paths, to the states."""

        def result(edge: int) -> tuple[bool, Tensor, Tensor | None]:
            own = self.droppable[edge]
            return own, path(self.operations[edge], self.inputs[edge]), next(factors, None) if own else None

        for edge in range(0, len(self.inputs), 2):
            states.append(_sum(result(edge), result(edge + 1)))


def _sum(*paths: tuple[bool, Tensor, Tensor | None]) -> Tensor:
    """The sum of two paths, each times its factor if it has one. It is written into a path that is no state itself."""
    (own, x, of_x), (_, y, of_y) = sorted(paths, key=lambda path: not path[0])
    if not own:
        return x + y
    if of_x is not None:
        x.mul_(of_x)
    return x.add_(y) if of_y is None else x.addcmul_(y, of_y)


def drop_paths(paths: int, samples: int, rate: float) -> Tensor:
    """A factor for each path and sample, [paths, samples, 1, 1, 1]: 0 with probability `rate`, else 1 / (1 - rate)
    (arXiv 1605.07648).
    """
    assert 0 <= rate < 1, rate
    keep = 1 - rate
    return torch.stack([torch.empty(samples, 1, 1, 1).bernoulli_(keep) for _ in range(paths)]) / keep


def edge_factors(x: Tensor, cells: int, edges: int, rate: Number) -> Sequence[Tensor | None]:
    """By what drop path multiplies the results of a supernet's edges for the images x, cell by cell.

    Returns:
        [edges, N, 1, 1, 1] of each cell, by the state that an edge leaves, then by its node. None drops nothing.

    Args:
        edges: number of edges of a cell.
        rate: may change between iterations.
    """
    if not rate():
        return [None] * cells
    samples = len(x)  # what is drawn keeps no images
    factors = draw(lambda: drop_paths(cells * edges, samples, rate()), x.device)
    return factors.to(x.dtype).chunk(cells)


class AuxiliaryHead(nn.Module):
    """Maps [N, in_channels, H, W] -> logits [N, classes], as in DARTS's code; the ImageNet form has no second norm.

    The map is averaged to 2x2. Where it has the size of the original's (8x8 with stride 3 for images of 32 pixels, 7x7
    with stride 2 for 224), the windows are the original's 5x5; at all other sizes the average is adaptive.
    """

    def __init__(self, in_channels: int, classes: int, form: Form) -> None:
        super().__init__()
        self.stride, size = (3, 8) if form == "cifar" else (2, 7)
        self.original = torch.Size((size, size))
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        norms = [nn.BatchNorm2d(768)] if form == "cifar" else []
        self.features = nn.Sequential(nn.Conv2d(128, 768, 2, bias=False), *norms, nn.ReLU())
        self.head = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        x = F.avg_pool2d(x, 5, self.stride) if x.shape[2:] == self.original else F.adaptive_avg_pool2d(x, 2)
        return self.head(self.features(self.reduce(x)).flatten(1))


def imagenet_stem(in_channels: int, channels: int) -> nn.Sequential:
    """The first of the two stems of the ImageNet form: [N, in_channels, H, W] -> [N, channels, H / 4, W / 4]."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _second_stem(channels: int) -> nn.Sequential:
    """The second stem of the ImageNet form, which halves the map."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels))
