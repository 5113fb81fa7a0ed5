"""The discriminator's architecture B: selected modules of a stock discriminator are replaced by mixed operations.

The stock discriminator is plain torch and does not know B. With B at its default one-hot, the searchable discriminator
computes exactly what the stock one does, so the default and the searched architecture are one code path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Alternatives = Callable[[], dict[str, nn.Module]]


class Term(NamedTuple):
    """A convolution of stride 1 as a term of a folded one: its kernel is scale * weight."""

    weight: Tensor  # [out, in, k, k] with an odd k
    scale: Tensor | float = 1.0
    bias: Tensor | None = None
    dilation: int = 1


class FixedConv2d(nn.Module):
    """Convolution with a constant kernel [out, in, k, k] and no bias."""

    fixed: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", kernel)

    def term(self) -> Term:
        return Term(self.fixed)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.fixed, padding="same")


def none(in_channels: int, out_channels: int) -> FixedConv2d:
    """The operation `none` as a convolution with a kernel of zeros."""
    return FixedConv2d(torch.zeros(out_channels, in_channels, 1, 1))


def skip(channels: int) -> FixedConv2d:
    """The identity as a 1x1 convolution."""
    return FixedConv2d(torch.eye(channels)[:, :, None, None])


def weighted(weights: Iterable[Tensor], terms: Iterable[Tensor]) -> Tensor:
    """The weighted sum of `terms`."""
    first, *others = [w * term for w, term in zip(weights, terms, strict=True)]
    return sum(others, first)


def fold(weights: Tensor, terms: list[Term]) -> tuple[Tensor, Tensor | None]:
    """Kernel and bias of the one convolution that equals sum_k weights_k term_k(x).

    The kernels are centred in the largest one. All taps of all terms, side by side, are placed and scaled by a single
    matrix product.
    """
    out, inputs = terms[0].weight.shape[:2]
    like = partial(_constant, weights.dtype, weights.device)
    scales = torch.stack([t.scale if isinstance(t.scale, Tensor) else like(t.scale, ()) for t in terms])
    places = _places(weights.dtype, weights.device, *((t.weight.shape[-1], t.dilation) for t in terms))
    taps = torch.cat([t.weight.flatten(2) for t in terms], dim=2)
    matrix = ((weights * scales) @ places.flatten(1)).view(places.shape[1:])
    size = math.isqrt(len(matrix[0]))
    kernel = (taps @ matrix).view(out, inputs, size, size)
    if all(t.bias is None for t in terms):
        return kernel, None
    return kernel, weights @ torch.stack([like(0.0, (out,)) if t.bias is None else t.bias for t in terms])


@cache
def _constant(dtype: torch.dtype, device: torch.device, value: float, shape: tuple[int, ...]) -> Tensor:
    return torch.full(shape, value, dtype=dtype, device=device)


@cache
def _places(dtype: torch.dtype, device: torch.device, *kernels: tuple[int, int]) -> Tensor:
    """Where the taps of kernels, given by size and dilation, lie in the folded one: 0 or 1 [kernels, taps of all, taps
    of the folded one]."""
    reach = max(dilation * (k // 2) for k, dilation in kernels)
    rows = [
        (term, (reach + dilation * (i - k // 2)) * (2 * reach + 1) + reach + dilation * (j - k // 2))
        for term, (k, dilation) in enumerate(kernels)
        for i in range(k)
        for j in range(k)
    ]
    places = torch.zeros(len(kernels), len(rows), (2 * reach + 1) ** 2, dtype=dtype)
    for row, (term, place) in enumerate(rows):
        places[term, row, place] = 1
    return places.to(device)


class Choice(nn.Module):
    """A mixed operation, the stock one first: sum_k weights_k operation_k(x).

    While `weights` is None, the stock one alone.

    Where every operation is a convolution of stride 1 with a method `term() -> Term`, the sum is computed as a single
    convolution. This is exact, since convolution is linear in its kernel; it takes the memory of the stock operation
    and half the time of a sum.
    """

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)
        self.folds = all(hasattr(operation, "term") for operation in operations.values())
        self.weights: Tensor | None = None  # set by Searchable for the duration of a forward

    def in_use(self) -> Iterable[nn.Module]:
        """The operations that the next forward computes."""
        operations = list(self.operations.values())
        return operations if self.weights is not None else operations[:1]

    def kernel(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias of the single convolution, for a caller that applies it with another stride."""
        operations: list[Any] = list(self.operations.values())
        if self.weights is None:
            return operations[0].kernel()
        return fold(self.weights, [operation.term() for operation in operations])

    def forward(self, x: Tensor) -> Tensor:
        operations: list[Any] = list(self.operations.values())
        if self.weights is None:
            return operations[0](x)
        if self.folds:
            return F.conv2d(x, *self.kernel(), padding="same")
        return weighted(self.weights, (operation(x) for operation in operations))


def in_use(module: nn.Module) -> Iterator[nn.Module]:
    """A module and the modules in it, without the operations of choices that its next forward leaves out."""
    yield module
    for part in module.in_use() if isinstance(module, Choice) else module.children():
        yield from in_use(part)


class Architecture(nn.Module):
    """B: logits of the operations of each edge, that of the default one larger by `init`. () -> softmax weights of each
    edge.
    """

    def __init__(self, operations: dict[str, list[str]], init: float) -> None:
        super().__init__()
        self.operations = operations
        self.logits = nn.ParameterList(1e-3 * torch.randn(len(names)) for names in operations.values())
        for logits in self.logits:
            logits.data[0] += init

    def forward(self) -> tuple[Tensor, ...]:
        return tuple(logits.softmax(0) for logits in self.logits)

    def chosen(self) -> dict[str, str]:
        """The strongest operation of each edge, for reports."""
        pairs = zip(self.operations.items(), self.logits, strict=True)
        return {edge: names[int(logits.argmax())] for (edge, names), logits in pairs}


class Searchable(nn.Module):
    """(b, *args) -> stock(*args) with the weights b of its choices. b = () is the stock discriminator."""

    def __init__(self, stock: nn.Module, edges: Iterable[str]) -> None:
        super().__init__()
        self.stock = stock
        self.edges = tuple(edges)

    def forward(self, b: tuple[Tensor, ...], *args: Any) -> Any:
        choices = [self.stock.get_submodule(edge) for edge in self.edges] if b else []
        try:
            for choice, weights in zip(choices, b, strict=True):
                choice.weights = weights
            return self.stock(*args)
        finally:
            for choice in choices:
                choice.weights = None  # type: ignore[assignment]


def relax(
    stock: nn.Module, edges: dict[str, Alternatives], searched: bool, init: float
) -> tuple[Searchable, Architecture]:
    """Makes a stock discriminator searchable.

    Args:
        edges: name of a module -> what builds the alternatives to it. The module itself is the choice "default".
        searched: whether to build the choices; if not, B has no parameters.
        init: how far the logit of the default operation is ahead.

    Returns:
        The discriminator and its architecture B.
    """
    operations: dict[str, list[str]] = {}
    for edge, alternatives in edges.items() if searched else ():
        choice = Choice({"default": stock.get_submodule(edge), **alternatives()})
        stock.set_submodule(edge, choice)
        operations[edge] = list(choice.operations)
    return Searchable(stock, operations), Architecture(operations, init)
