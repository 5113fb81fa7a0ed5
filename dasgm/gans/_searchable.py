"""The discriminator's architecture B: selected modules of a stock discriminator are replaced by mixed operations.

The stock discriminator is plain torch and does not know B. With B at its default one-hot, the searchable discriminator
computes exactly what the stock one does, so the default and the searched architecture are one code path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Alternatives = Callable[[], dict[str, nn.Module]]


class FixedConv2d(nn.Module):
    """Convolution with a constant kernel [out, in, k, k] and no bias."""

    fixed: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", kernel)

    def kernel(self) -> tuple[Tensor, Tensor | None]:
        return self.fixed, None

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


def fold(weights: Tensor, kernels: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Kernel and bias of the one convolution that equals sum_k weights_k conv(x; kernel_k, bias_k).

    The kernels have odd sizes and are centred in the largest one.
    """
    size = max(kernel.shape[-1] for kernel, _ in kernels)
    kernel = weighted(weights, (F.pad(k, [(size - k.shape[-1]) // 2] * 4) for k, _ in kernels))
    biases = [(w, bias) for w, (_, bias) in zip(weights, kernels, strict=True) if bias is not None]
    return kernel, weighted(*zip(*biases, strict=True)) if biases else None


def dilated(kernel: Tensor, dilation: int) -> Tensor:
    """A kernel [out, in, k, k] with the zeros of its dilation written out."""
    gap = dilation - 1
    if not gap:
        return kernel
    spread = F.pad(kernel[:, :, :, None, :, None], (0, gap, 0, 0, 0, gap)).flatten(4, 5).flatten(2, 3)
    return spread[:, :, :-gap, :-gap]


class Choice(nn.Module):
    """A mixed operation, the stock one first: sum_k weights_k operation_k(x).

    While `weights` is None, the stock one alone.

    Where every operation is a convolution of stride 1 with a method `kernel() -> (kernel, bias)`, the sum is computed
    as a single convolution. This is exact, since convolution is linear in its kernel; it takes the memory of the stock
    operation and half the time of a sum.
    """

    def __init__(self, operations: dict[str, nn.Module]) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(operations)
        self.folds = all(hasattr(operation, "kernel") for operation in operations.values())
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
        return fold(self.weights, [operation.kernel() for operation in operations])

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
