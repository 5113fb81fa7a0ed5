"""Candidate operations of the DARTS search space, and the layers that all networks of it share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel.convolutions import conv2d
from dasgm.genotype import SKIP

SEPARABLE = {"sep_conv_3x3": (3, 1), "sep_conv_5x5": (5, 1), "dil_conv_3x3": (3, 2), "dil_conv_5x5": (5, 2)}
"""Kernel size and dilation of the convolutions that are depthwise, then pointwise."""


LANES = 16
"""Channels of a map below which the kernels of a CPU do not fill the lanes of a vector."""


def operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """The operation `name`, [N, channels, H, W] -> [N, channels, H / stride, W / stride].

    Args:
        name: one of `genotype.PRIMITIVES`.
        affine: whether its batch norms have learned gains and biases.
    """
    if name == "none":
        return Zero(stride)
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        return pool(name, stride)
    if name == SKIP:
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    assert name in SEPARABLE, name
    kernel, dilation = SEPARABLE[name]
    layers = _separable(channels, kernel, stride, dilation, affine)
    if name.startswith("sep"):  # a separable convolution is applied twice, a dilated one once
        layers += _separable(channels, kernel, 1, dilation, affine)
        layers[4] = nn.ReLU(inplace=True)
    return ReLUFirst(*layers)


def pool(name: str, stride: int) -> nn.Module:
    """3x3 max or average pooling; the average does not count padding."""
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)


def _separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    return [
        nn.ReLU(),
        DepthwiseConv(channels, kernel, stride, dilation),
        PointwiseConv(channels, channels),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class ReLUFirst(nn.Sequential):
    """Layers of which the first is a ReLU."""

    def rectified(self, x: Tensor) -> Tensor:
        """The result where x has been through the ReLU already, which several edges may share."""
        for layer in list(self)[1:]:
            x = layer(x)
        return x


def narrow_form(x: Tensor) -> bool:
    """Whether `x` is computed by many narrow operations, channels last, which are fastest on a CPU. A GPU gets few wide
    ones. The results are equal up to rounding.
    """
    return x.device.type == "cpu"


class Zero(nn.Module):
    """The operation `none`: zeros of the output's shape."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class DepthwiseConv(nn.Conv2d):
    """One k x k filter per channel, padded to keep the size (apart from the stride), without bias."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():  # an exported model keeps the convolution as it is defined
            return super().forward(x)
        return depthwise(x, self.weight, self.stride[0], self.dilation[0])


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """A filter `weight` [channels, 1, k, k] per channel, padded to keep the size (apart from the stride)."""
    # oneDNN has no fast gradient for dilated depthwise convolutions. Dilation 2 couples only pixels whose coordinates
    # have the same parity, so on a CPU each of the four phases is convolved without dilation, which gives the same
    # numbers.
    odd = x.shape[2] % 2 or x.shape[3] % 2
    if dilation == 1 or not narrow_form(x) or odd:
        return _filtered(x, weight, stride, dilation)
    assert dilation == 2
    if stride == 2:  # only the phase of even coordinates is read
        return _filtered(x[:, :, ::2, ::2], weight)
    return interleave(_filtered(phases(x), weight))


def _filtered(x: Tensor, weight: Tensor, stride: int = 1, dilation: int = 1) -> Tensor:
    # torch is slow on a CPU to find the gradient of a filter with more than three columns, `conv2d` is not. It costs
    # more calls, which small maps do not repay (measured). Autocast converts what torch's own convolution is given.
    repays = weight.shape[3] > 3 and weight.requires_grad and x.numel() >= 2**16 and x.shape[3] >= 8
    ours = repays and narrow_form(x) and not torch.is_autocast_enabled("cpu")
    convolution = conv2d if ours else F.conv2d
    return convolution(x, weight, None, stride, dilation * (weight.shape[3] // 2), dilation, len(weight))


class PointwiseConv(nn.Conv2d):
    """1x1 convolution without bias. On a CPU it is a product of matrices, which takes three quarters of the time."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting() or not narrow_form(x):
            return super().forward(x)
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """The 1x1 convolution by `weight` [channels, channels of a group, 1, 1]."""
    (n, c, h, w), groups = x.shape, x.shape[1] // weight.shape[1]
    if not narrow_form(x) or n >= 16 or n * h * w % 16:
        return F.conv2d(x, weight, groups=groups)
    # torch leaves smaller batches to slow kernels; a 1x1 convolution takes any 16 parts of the pixels for images
    y = F.conv2d(x.permute(0, 2, 3, 1).reshape(16, 1, -1, c).permute(0, 3, 1, 2), weight, groups=groups)
    return y.permute(0, 2, 3, 1).reshape(n, h, w, -1).permute(0, 3, 1, 2)


def pooled(pooling: nn.Module, x: Tensor) -> Tensor:
    """The pooling of x. On a CPU it takes as long for one channel as for 16, so the channels of several images are
    taken for those of one if there are few.
    """
    n, c, h, w = x.shape
    repays = c < LANES and x.numel() >= 2**15 and narrow_form(x)
    images = math.gcd(n, 4 * LANES // c) if repays else 1
    if images == 1:
        return pooling(x)
    wide = x.permute(0, 2, 3, 1).reshape(images, -1, h, w, c).permute(1, 2, 3, 0, 4).flatten(3)
    y = pooling(wide.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y.unflatten(3, (images, c)).permute(3, 0, 1, 2, 4).flatten(0, 1).permute(0, 3, 1, 2)


def phases(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [4 N, C, H / 2, W / 2], by the parity of the coordinates. The channels-last layout is kept."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c)
    return x.permute(2, 4, 0, 1, 3, 5).reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def interleave(x: Tensor) -> Tensor:
    """The inverse of `phases`."""
    n, c, h, w = x.shape
    x = x.permute(0, 2, 3, 1).reshape(2, 2, n // 4, h, w, c)
    return x.permute(2, 3, 0, 4, 1, 5).reshape(n // 4, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


class ReLUConvBN(ReLUFirst):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, in_channels: int, channels: int, affine: bool) -> None:
        super().__init__(nn.ReLU(), PointwiseConv(in_channels, channels), nn.BatchNorm2d(channels, affine=affine))


class HalvingConv(nn.Conv2d):
    """1x1 convolution of stride 2 without bias: [N, in_channels, H, W] -> [N, channels, ceil(H / 2), ceil(W / 2)]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if torch.compiler.is_exporting() else halve(x, self.weight)


def halve(x: Tensor, weight: Tensor) -> Tensor:
    """The 1x1 convolution of stride 2, [N, in_channels, H, W] -> [N, channels, ceil(H / 2), ceil(W / 2)]."""
    # oneDNN's weight gradient of a strided 1x1 convolution writes out of bounds on processors with AVX2 if the input
    # has fewer channels than a vector has lanes (oneDNN issue 6035). A convolution of stride 1 over every second pixel
    # gives the same result.
    if not narrow_form(x):
        return F.conv2d(x, weight, stride=2)
    return F.conv2d(fast_layout(x[:, :, ::2, ::2]), weight)


class FactorizedReduce(nn.Module):
    """Halves H and W by two 1x1 convolutions of stride 2, one of them shifted by a pixel.

    Each gives half of the `channels`, an even number. Where H or W is odd, the shifted one sees a line of zeros behind
    the last, and the result is rounded up as that of the other operations.
    """

    def __init__(self, in_channels: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = HalvingConv(in_channels, channels // 2)
        self.odd = HalvingConv(in_channels, channels // 2)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.rectified(self.relu(x))

    def rectified(self, x: Tensor) -> Tensor:
        """The result where x has been through the ReLU already."""
        shifted = x[:, :, 1:, 1:]
        if x.shape[2] % 2 or x.shape[3] % 2:
            shifted = F.pad(shifted, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))


def stem(in_channels: int, channels: int) -> nn.Sequential:
    """The stem of the CIFAR form: 3x3 convolution and batch norm without ReLU. The norm is affine in a search too."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))


def reductions(cells: int) -> set[int]:
    """Indices of the reduction cells, at a third and two thirds of the depth. The number of channels doubles there."""
    return {cells // 3, 2 * cells // 3}


def fast_layout(x: Tensor) -> Tensor:
    """`x` in the memory format in which narrow convolutions are fastest: channels last on a CPU (2
    to 5 times faster).
    """
    return x.contiguous(memory_format=torch.channels_last) if narrow_form(x) else x
