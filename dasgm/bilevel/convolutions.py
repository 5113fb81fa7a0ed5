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
        if five_wide(w, settings) and x.device.type == "cpu" and x.dtype == torch.float32:
            assert g is not None
            if by == INPUT and stride == [1, 1]:  # the same, and 1.1 to 2 times as fast
                return torch.ops.aten.convolution(g, w.flip(2, 3), None, *where)
            if by == WEIGHT and x.shape[3] % 2 == 0:
                return in_pairs(x, g, stride[0])
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


def five_wide(w: Tensor, settings: Settings) -> bool:
    """Whether it is a 5x5 filter per channel that keeps the size, or halves it."""
    stride, padding, dilation, groups = settings
    filters = w.shape[1:] == (1, 5, 5) and groups == len(w)
    return filters and padding == [2, 2] and dilation == [1, 1] and stride in ([1, 1], [2, 2])


def in_pairs(x: Tensor, g: Tensor, stride: int) -> Tensor:
    """The weight gradient of a 5x5 filter per channel, by filters with three columns.

    For more than three columns oneDNN (3.12) takes its kernel for groups of 16 channels, which needs 13 times as long
    as the convolution. Two neighbouring pixels are taken for one of twice the channels: three columns then reach as far
    as five.
    """

    def three_columns(x: Tensor, g: Tensor, strides: list[int]) -> Tensor:
        c, where = x.shape[1], (None, strides, [2, 1], [1, 1], False, [0, 0], x.shape[1], [False, True, False])
        return torch.ops.aten.convolution_backward(g, x, x.new_empty(c, 1, 5, 3), *where)[1]

    def pairs(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.permute(0, 2, 3, 1).reshape(n, h, w // 2, 2 * c).permute(0, 3, 1, 2)

    if stride == 2:  # even columns of the filter meet the first pixels of pairs, odd ones the second
        both = three_columns(pairs(x), torch.cat([g, g], 1), [2, 1]).unflatten(0, (2, -1))
        return both.movedim(0, -1).flatten(3)[..., :5]
    near = three_columns(x, g, [1, 1])
    far = three_columns(pairs(x), pairs(g), [1, 1]).unflatten(0, (2, -1)).sum(0)  # columns 0, 2 and 4
    return torch.cat([far[..., :1], near, far[..., 2:]], 3)


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
