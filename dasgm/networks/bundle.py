"""The mixed operations of the supernet, as few large operations instead of many small ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel.draws import Number, dropout
from dasgm.genotype import SKIP
from dasgm.networks import operations
from dasgm.networks.fan import POOLS, SKIPS, TWICE, Fan
from dasgm.networks.operations import LANES, SEPARABLE, depthwise, halve, interleave, phases, pointwise

Norm = Callable[..., Tensor]


class Pack:
    """The tensors called `name` of several modules in one vector, which a single concatenation makes.

    Args:
        joints: lists of modules. The tensors of a list become one, along their first dimension.
    """

    def __init__(self, name: str, joints: Sequence[Sequence[nn.Module]]) -> None:
        self.name, self.modules = name, [module for joint in joints for module in joint]
        shapes = [[getattr(module, name).shape for module in joint] for joint in joints]
        self.shapes = [(sum(shape[0] for shape in joint), *joint[0][1:]) for joint in shapes]
        self.sizes = [sum(shape.numel() for shape in joint) for joint in shapes]

    def tensors(self) -> list[Tensor]:
        """Those of the modules, as they are now."""
        return [getattr(module, self.name) for module in self.modules]

    def vector(self) -> Tensor:
        tensors = [t.flatten() for t in self.tensors()]
        return torch.cat(tensors) if tensors else torch.empty(0)

    def joint(self, vector: Tensor) -> list[Tensor]:
        """The joint tensors, views of `vector`."""
        return [t.view(shape) for t, shape in zip(vector.split(self.sizes), self.shapes, strict=True)]

    def write(self, vector: Tensor) -> None:
        tensors = self.tensors()
        torch._foreach_copy_(tensors, vector.split([len(t) for t in tensors]))


class Norms:
    """Batch norms without learned parameters, whose running statistics are kept in modules.

    Args:
        modules: these modules, in the order in which their channels are normalised.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        joints = [[module] for module in modules]
        self.packs = Pack("running_mean", joints), Pack("running_var", joints)

    @contextmanager
    def running(self, training: bool) -> Iterator[Norm]:
        """Gives a function (x, gain) -> x that normalises the next channels in each call. Where the modules have None
        for statistics, none are kept.
        """
        kept = not any(t is None for t in self.packs[0].tensors())
        vectors = [pack.vector() for pack in self.packs] if kept else []
        done = 0

        def norm(x: Tensor, gain: Tensor | None = None) -> Tensor:
            nonlocal done
            mean, variance = (v.narrow(0, done, x.shape[1]) for v in vectors) if kept else (None, None)
            done += x.shape[1]
            return F.batch_norm(x, mean, variance, gain, None, training, momentum=0.1, eps=1e-5)

        yield norm
        if kept and training:
            for pack, vector in zip(self.packs, vectors, strict=True):
                pack.write(vector)


class Bundle:
    """The mixed operations of all edges that leave states which are known at the same time.

    One operation on all these edges is a grouped convolution on as many times the channels; the last pointwise
    convolutions and norms of all operations are one, and so are all sums. What has no weights (pooling, the ReLU before
    a convolution) is computed once for a state. The results are those of separate edges, up to rounding.

    Args:
        fans: what the edges learn, a fan a state. Edge i of each leads to the same node.
        targets: number of these nodes.
        channels: number of channels that pass through the operations.
        stride: 2 where the edges halve the map, else 1.

    Attributes:
        kernels: modules whose weights `forward` takes, those of a list side by side.
        norms: modules whose running statistics its norms use, likewise.
        gains: (fan, edge, operation) of the weights that it takes as `gains`, those of a list side by side.
        columns: (fan, operation) of the columns of its `matrix`.
    """

    def __init__(self, fans: Sequence[Fan], targets: int, channels: int, stride: int) -> None:
        self.fans, self.targets, self.channels, self.stride = fans, targets, channels, stride
        self.separable = [name for name in SEPARABLE if any(name in fan.convolutions for fan in fans)]
        self.reduces = [name for name in SKIPS if any(name in fan.convolutions for fan in fans)]
        self.pools = [name for name in POOLS if any(name in fan.pools for fan in fans)]
        self.skips = [name for name in SKIPS if stride == 1 and any(name in fan.having for fan in fans)]
        self.gains = [
            [
                (number, edge, name)
                for name in names
                for number, fan in enumerate(fans)
                for edge in self._edges(name, fan)
            ]
            for names in (self.separable, self.reduces)
            if names
        ]
        shared = (*self.pools, *self.skips)
        self.columns = [(number, name) for name in shared for number, fan in enumerate(fans) if name in fan.having]
        self.kernels, self.norms = self._joints()
        self._skips: Tensor | None = None  # places of the weights of the skips that are dropped

    def _joints(self) -> tuple[list[list[Any]], list[Any]]:
        kernels: list[list[Any]] = []
        norms: list[Any] = []
        last: tuple[list[Any], list[Any]] = [], []
        for name in self.separable:
            layers: list[Any] = [fan.convolutions[name] for fan in self.fans if name in fan.convolutions]
            kernels.append([layer.depthwise[0] for layer in layers])
            if name in TWICE:
                kernels += [[layer.pointwise[0] for layer in layers], [layer.depthwise[1] for layer in layers]]
                norms += [layer.norms[0] for layer in layers]
            last[0].extend(layer.pointwise[-1] for layer in layers)
            last[1].extend(layer.norms[-1] for layer in layers)
        if self.separable:
            kernels.append(last[0])
            norms += last[1]
        for name in self.reduces:
            layers = [fan.convolutions[name] for fan in self.fans if name in fan.convolutions]
            kernels += [[convolution] for layer in layers for convolution in (layer.even, layer.odd)]
            norms += [layer.norm for layer in layers]
        if self.pools:
            norms += [fan.pool(name)[1] for name in self.pools for fan in self.fans if name in fan.pools]
        return kernels, norms

    def __call__(
        self,
        x: Tensor,
        rest: Tensor | None,
        kernels: Iterator[Tensor],
        norm: Norm,
        gains: Iterator[Tensor],
        matrix: Tensor,
        skip_dropout: Number,
    ) -> Tensor:
        """The sum of all results for each target, [N, targets * channels, H, W].

        Args:
            x: the states side by side, [N, fans * channels, H, W].
            rest: what else is summed for the targets, shaped like the result.
            kernels: goes over the joint weights that `kernels` lists.
            norm: is one after the other of the batch norms that `norms` lists, (x, gain) -> x.
            gains: goes over the joint weights of results that `gains` lists, each for all channels.
            matrix: [targets, columns], the weights of what has one result for all targets.
            skip_dropout: gives the rate of the dropout after skip connections.
        """
        terms = [] if rest is None else [rest]
        if self.gains:
            terms += self._own(x.relu(), kernels, norm, gains)
        pooled = [self._pool(name, x) for name in self.pools]
        if pooled and (self.channels < LANES or not operations.narrow_form(x)):
            pooled = [beside(pooled)]
        columns = [norm(maps) for maps in pooled]
        skips = self.skips
        if SKIP in skips and skip_dropout() > 0:
            places, skips = matrix.shape[1] - len(self._having(SKIP)), skips[:-1]  # its columns are the last
            matrix, weights = matrix[:, :places], matrix[:, places:]
            terms.append(self._dropped(x, weights, skip_dropout))
        columns += [self._of(name, x) for name in skips]
        total = reduce(torch.add, terms) if terms else None
        if columns:
            return weighted(total, matrix, columns)
        assert total is not None
        return total

    def _own(self, x: Tensor, kernels: Iterator[Tensor], norm: Norm, gains: Iterator[Tensor]) -> Iterator[Tensor]:
        """What has a result of its own for each edge. Takes the state after its ReLU."""
        if self.separable:
            yield from self._convolved(x, kernels, norm, next(gains))
        if self.reduces:
            parts: list[Tensor] = []
            for number in (number for name in self.reduces for number in self._having(name)):
                state = x.split(self.channels, 1)[number]
                even, odd = (halve(y, next(kernels)) for y in (state, state[:, :, 1:, 1:]))
                half = self.channels // 2
                parts += chain(*zip(even.split(half, 1), odd.split(half, 1), strict=True))
            rows = [edge for name in self.reduces for fan in self.fans for edge in self._edges(name, fan)]
            yield self._by_target(norm(torch.cat(parts, 1), next(gains)), rows)

    def _convolved(self, x: Tensor, kernels: Iterator[Tensor], norm: Norm, gain: Tensor) -> Iterator[Tensor]:
        """What the separable and dilated convolutions give."""
        # on a CPU dilated convolutions go over phases (see `depthwise`): what follows is done in them as well
        apart = operations.narrow_form(x) and self.stride == 1 and not (x.shape[2] % 2 or x.shape[3] % 2)
        phased = [apart and SEPARABLE[name][1] == 2 for name in self.separable]
        states, results = {False: x, True: phases(x) if any(phased) else x}, []
        wide: dict[Any, Tensor] = {}
        for name, in_phases in zip(self.separable, phased, strict=True):
            counts = tuple(len(self._edges(name, fan)) for fan in self.fans)
            key = in_phases, counts if operations.narrow_form(x) else None
            if key not in wide:
                wide[key] = self._copies(states[in_phases], counts)
            y = self._of_edges(counts, wide[key])
            y = depthwise(y, next(kernels), self.stride, 1 if in_phases else SEPARABLE[name][1])
            if name in TWICE:
                y = depthwise(norm(pointwise(y, next(kernels))).relu(), next(kernels), 1, 1)
            results.append(y)
        rows = [[edge for fan in self.fans for edge in self._edges(name, fan)] for name in self.separable]
        weight = next(kernels)
        if not operations.narrow_form(x):
            yield self._by_target(norm(pointwise(beside(results), weight), gain), [*chain(*rows)])
            return
        widths = [y.shape[1] for y in results]
        found: dict[bool, list[Tensor]] = {False: [], True: []}
        for y, own, w, g, p in zip(results, rows, weight.split(widths), gain.split(widths), phased, strict=True):
            found[p].append(self._by_target(norm(pointwise(y, w), g), own))
        yield from found[False]
        if found[True]:
            yield interleave(reduce(torch.add, found[True]))

    def _of_edges(self, counts: Sequence[int], wide: Tensor) -> Tensor:
        """Of the copies of the states one for each edge that has an operation."""
        width, total = sum(counts) * self.channels, wide.shape[1]
        # the last copies of a state, and the first of the next one
        return wide if width == total else wide.narrow(1, (self.targets - counts[0]) * self.channels, width)

    def _copies(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """Copies of each state side by side: on a CPU as many as are asked for, else as many as there are targets."""
        if operations.narrow_form(x):  # channels last, which `expand` would not keep
            states = zip(x.split(self.channels, 1), counts, strict=True)
            return beside([state for state, count in states for _ in range(count)])
        return x.unflatten(1, (-1, 1, self.channels)).expand(-1, -1, self.targets, -1, -1, -1).flatten(1, 3)

    def _pool(self, name: str, x: Tensor) -> Tensor:
        return operations.pooled(self.fans[self._having(name)[0]].pool(name)[0], self._of(name, x))

    def _dropped(self, x: Tensor, weights: Tensor, rate: Number) -> Tensor:
        """The skip connections, with a dropout drawn anew for each edge."""
        states, having = self._of(SKIP, x).split(self.channels, 1), self._having(SKIP)
        places = [(edge, i) for i, fan in enumerate(having) for edge in self.fans[fan].having[SKIP]]
        if self._skips is None or self._skips.device != x.device:  # copied to the device once
            self._skips = torch.tensor([edge * len(having) + i for edge, i in places], device=x.device)
        gain = weights.flatten()[self._skips][:, None].expand(-1, self.channels).reshape(-1, 1, 1)
        dropped = torch.cat([dropout(states[i], rate) for _, i in places], 1)
        return self._by_target(dropped * gain, [edge for edge, _ in places])

    def _by_target(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """[N, len(rows) * channels, H, W] -> [N, targets * channels, H, W]: the sum of the results for each target."""
        if list(rows) == [*range(self.targets)]:
            return x
        if list(rows) == [*range(self.targets)] * (len(rows) // self.targets):
            parts = x.split(self.targets * self.channels, 1)
            return reduce(torch.add, parts) if operations.narrow_form(x) else x.unflatten(1, (len(parts), -1)).sum(1)
        parts = x.split(self.channels, 1)  # P-DARTS: edges differ
        found: list[list[Tensor]] = [[] for _ in range(self.targets)]
        for part, row in zip(parts, rows, strict=True):
            found[row].append(part)
        return torch.cat([reduce(torch.add, some) if some else torch.zeros_like(parts[0]) for some in found], 1)

    @staticmethod
    def _edges(name: str, fan: Fan) -> list[int]:
        return fan.having.get(name, [])

    def _having(self, name: str) -> list[int]:
        """Numbers of the fans that have an operation."""
        return [number for number, fan in enumerate(self.fans) if name in fan.having]

    def _of(self, name: str, x: Tensor) -> Tensor:
        """The states whose fans have an operation."""
        having = self._having(name)
        return x if len(having) == len(self.fans) else x.narrow(1, having[0] * self.channels, self.channels)


def weighted(total: Tensor | None, matrix: Tensor, columns: Sequence[Tensor]) -> Tensor:
    """total + matrix @ columns, where each row and each column is a map of several channels.

    Args:
        total: [N, rows * channels, H, W]; None is 0.
        matrix: [rows, columns].
        columns: tensors [N, some columns * channels, H, W] with all columns together.
    """
    rows, n, size = len(matrix), len(columns[0]), columns[0].shape[2:]
    if not operations.narrow_form(matrix):
        maps = beside(columns)
        if 1 in matrix.shape:  # torch gives products of vectors to Triton, which compiles at their first use
            product = (maps.unflatten(1, (1, matrix.shape[1], -1)) * matrix[..., None, None, None]).sum(2).flatten(1, 2)
            return product if total is None else total + product
        flat, batch = maps.reshape(n, matrix.shape[1], -1), matrix.expand(n, -1, -1)
        if total is None:
            return torch.bmm(batch, flat).view(n, -1, *size)
        return torch.baddbmm(total.reshape(n, rows, -1), batch, flat).view(n, -1, *size)
    # channels last. While it is narrow, the columns of a pixel are a row of a product with the matrix, repeated for
    # each channel. Its zeros cost too much for more channels.
    width = sum(column.shape[1] for column in columns) // matrix.shape[1]
    if width < 32:
        maps = beside(columns).permute(0, 2, 3, 1).flatten(0, 2)
        repeated = torch.kron(matrix.contiguous(), torch.eye(width, dtype=matrix.dtype)).t()
        if total is None:
            product = maps @ repeated
        else:
            product = torch.addmm(total.permute(0, 2, 3, 1).flatten(0, 2), maps, repeated)
        return product.view(n, *size, -1).permute(0, 3, 1, 2)
    parts = [part for column in columns for part in column.permute(0, 2, 3, 1).unflatten(3, (-1, width)).split(1, 3)]
    sums = None if total is None else total.permute(0, 2, 3, 1).unflatten(3, (rows, width))
    for part, factor in zip(parts, matrix[..., None].unbind(1), strict=True):
        sums = part * factor if sums is None else torch.addcmul(sums, part, factor)
    assert sums is not None
    return sums.flatten(3).permute(0, 3, 1, 2)


def for_channels(weights: Tensor, channels: int) -> Tensor:
    """Each weight as often as there are channels: the gains of a batch norm."""
    # copied: of one weight it is a view of stride 0, which torch 2.14 misreads in its backward on a CPU
    return weights[:, None].expand(-1, channels).flatten().contiguous()


def dropped(total: Tensor | None, results: Tensor, factors: Tensor | None) -> Tensor:
    """total + the results of several edges side by side, each times its factors (`edge_factors`).

    Args:
        total, results: [N, edges * channels, H, W]. `total` None is 0.
        factors: [edges, N, 1, 1, 1]. None drops nothing, and `results` is the sum already.
    """
    if factors is None:
        return results
    left = (results.unflatten(1, (len(factors), -1)) * factors.transpose(0, 1)).flatten(1, 2)
    return left if total is None else total + left


def beside(tensors: Sequence[Tensor]) -> Tensor:
    """[N, C_i, H, W], ... -> [N, sum of C_i, H, W]."""
    return torch.cat(list(tensors), 1) if len(tensors) > 1 else tensors[0]
