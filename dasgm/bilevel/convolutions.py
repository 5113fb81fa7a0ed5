"""Convolutions that are differentiated any number of times by convolutions of the same number of groups.

torch takes the second derivative of a grouped convolution group by group: thousands of calls for the depthwise
convolutions of a supernet.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

INPUT, WEIGHT, OUTPUT = range(3)


class Settings(NamedTuple):
    """Of a convolution, [height, width] each."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


class Form(torch.autograd.Function):
    """The derivative of <g, convolution of x with w> by one of x, w and g; of this one only the shape matters.

    By g it is the convolution itself, by x its input gradient (a transposed convolution), by w its weight gradient. The
    form is linear in each of the three. Hence each derivative is linear in the other two tensors, and its own
    derivatives are those of the form again, with the incoming gradient in the place of the missing tensor.
    """

    @staticmethod
    def forward(ctx: Any, by: int, settings: Settings, x: Tensor, w: Tensor, g: Tensor | None) -> Tensor:
        ctx.by, ctx.settings = by, settings
        ctx.save_for_backward(x, w, g)
        stride, padding, dilation, groups = settings
        where = (stride, padding, dilation, False, [0, 0], groups)
        if by == OUTPUT:
            return torch.ops.aten.convolution(x, w, None, *where)
        wanted = [by == INPUT, by == WEIGHT, False]
        return torch.ops.aten.convolution_backward(g, x, w, None, *where, wanted)[by]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        tensors = list(ctx.saved_tensors)
        tensors[ctx.by] = grads[0]

        def derivative(by: int) -> Tensor | None:
            if by == ctx.by or not ctx.needs_input_grad[2 + by]:
                return None
            given = [t.detach() if i == by else t for i, t in enumerate(tensors)]
            return Form.apply(by, ctx.settings, *given)

        return None, None, derivative(INPUT), derivative(WEIGHT), derivative(OUTPUT)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv2d`, with derivatives that are grouped convolutions where it is one."""
    if groups == 1 or input.dim() != 4:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    dilation = _pair(dilation)
    if padding == "same":
        around = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(n % 2 for n in around):  # the odd pixel lies at the right and at the bottom
            input = F.pad(input, [0, around[1] % 2, 0, around[0] % 2])
        padding = [n // 2 for n in around]
    settings = Settings(_pair(stride), [0, 0] if padding == "valid" else _pair(padding), dilation, groups)
    return _with_bias(Form.apply(OUTPUT, settings, input, weight, None), bias)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """`F.conv_transpose2d`, likewise."""
    if groups == 1 or input.dim() != 4:
        return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    settings = Settings(_pair(stride), _pair(padding), _pair(dilation), groups)
    more, sizes = _pair(output_padding), zip(*settings[:3], input.shape[2:], weight.shape[2:], strict=True)
    shape = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + o for (s, p, d, n, k), o in zip(sizes, more, strict=True)]
    x = input.new_empty((len(input), weight.shape[1] * groups, *shape))
    return _with_bias(Form.apply(INPUT, settings, x, weight, input), bias)


def _pair(value: Any) -> list[int]:
    pair = [value, value] if isinstance(value, int) else list(value)
    return pair * 2 if len(pair) == 1 else pair


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else y + bias[:, None, None]
