"""StyleGAN2's networks (Karras et al.

2020, arXiv 1912.04958): generator with skips, discriminator without residuals.

All resolutions have the same width. Learning rates are equalised (weights from N(0, 1) are scaled at run time), and all
computation is in float32. Nothing is changed in place, and everything can be differentiated twice, with respect to B,
the images and the weights.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasgm.bilevel.draws import draw
from dasgm.gans._ada import Augmentation
from dasgm.gans._searchable import Alternatives, Term, none, skip

MAPPING_RATE = 0.01  # relative learning rate of the mapping networks


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU, scaled to preserve the second moment."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def normalise(x: Tensor) -> Tensor:
    """Features [N, F], scaled to a second moment of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate, times `rate`."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.gain = rate, rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


class EqualConv2d(nn.Module):
    """Convolution with an equalised learning rate: stride 1, odd kernel, padded to keep the size."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.dilation, self.gain = dilation, 1 / math.sqrt(inputs * kernel_size**2)

    def kernel(self) -> tuple[Tensor, Tensor | None]:
        """The scaled kernel [out, in, k, k] and the bias."""
        return self.weight * self.gain, self.bias

    def term(self) -> Term:
        return Term(self.weight, self.gain, self.bias, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, padding="same", dilation=self.dilation)


class Blur(nn.Module):
    """Filters each channel by [1, 3, 3, 1] in both directions, with zero padding: S pixels become S + 2 padding - 3."""

    taps: Tensor

    def __init__(self, padding: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("taps", taps.outer(taps)[None, None], persistent=False)
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.taps.expand(x.shape[1], -1, -1, -1), padding=self.padding, groups=x.shape[1])

    def upsampled(self, x: Tensor) -> Tensor:
        """[N, C, S, S] -> [N, C, 2S, 2S]: inserts zeros between the pixels, then filters with 4 times the gain."""
        return F.conv_transpose2d(x, 4 * self.taps.expand(x.shape[1], -1, -1, -1), None, 2, 1, groups=x.shape[1])


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by a style, an affine map of w [N, w_dim].

    Both scales are applied to the activations. This equals a kernel of its own for each sample (appendix B of the
    paper), without building it.

    Args:
        demodulate: whether each output channel of each sample is scaled back to unit variance.
        up: whether height and width are doubled.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, w_dim: int, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel_size, kernel_size))
        self.gain, self.demodulate = 1 / math.sqrt(inputs * kernel_size**2), demodulate
        self.blur = Blur(padding=1) if up else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style, weight = self.affine(w), self.weight * self.gain
        x = x * style[:, :, None, None]
        if self.blur is None:
            x = F.conv2d(x, weight, padding="same")
        else:
            x = 4 * self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if not self.demodulate:
            return x
        variance = style.square() @ weight.square().sum((2, 3)).T
        return x * (variance + 1e-8).rsqrt()[:, :, None, None]


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, then noise of a learned strength (the same for all channels), bias and activation."""

    def __init__(self, channels: int, w_dim: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, channels, 3, w_dim, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w)
        n, _, *size = x.shape
        noise = draw(lambda: torch.randn(n, 1, *size), x.device)
        return activate(x + self.strength * noise + self.bias[:, None, None])


class ToRGB(nn.Module):
    """The image [N, 3, S, S] that a map [N, C, S, S] contributes."""

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, 3, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w) + self.bias[:, None, None]


class GeneratorBlock(nn.Module):
    """Doubles the map x [N, C, S, S] and the image [N, 3, S, S]."""

    def __init__(self, channels: int, w_dim: int) -> None:
        super().__init__()
        self.layer0 = SynthesisLayer(channels, w_dim, up=True)
        self.layer1 = SynthesisLayer(channels, w_dim)
        self.rgb = ToRGB(channels, w_dim)
        self.blur = Blur(padding=1)

    def forward(self, x: Tensor, image: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer1(self.layer0(x, w), w)
        return x, self.blur.upsampled(image) + self.rgb(x, w)


class Mapping(nn.Module):
    """Labels [N], and z [N, z_dim] if z_dim is not 0 -> w [N, w_dim]."""

    def __init__(self, classes: int, z_dim: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.embedding = EqualLinear(classes, w_dim)
        widths = [z_dim + w_dim] + [w_dim] * layers
        self.layers = nn.ModuleList(EqualLinear(i, o, MAPPING_RATE) for i, o in pairwise(widths))

    def forward(self, y: Tensor, z: Tensor | None = None) -> Tensor:
        weight = self.embedding.weight
        x = normalise(self.embedding(F.one_hot(y, weight.shape[1]).to(weight)))
        x = x if z is None else torch.cat([normalise(z), x], 1)
        for layer in self.layers:
            x = activate(layer(x))
        return x


class Generator(nn.Module):
    """(z [N, z_dim], y [N]) -> images [N, 3, size, size].

    They lie around [-1, 1]; the output is linear and not bounded.
    """

    def __init__(self, classes: int, size: int, channels: int, z_dim: int, w_dim: int) -> None:
        super().__init__()
        self.mapping = Mapping(classes, z_dim, w_dim, layers=2)
        self.constant = nn.Parameter(torch.randn(channels, 4, 4))
        self.layer = SynthesisLayer(channels, w_dim)
        self.rgb = ToRGB(channels, w_dim)
        self.blocks = nn.ModuleList(GeneratorBlock(channels, w_dim) for _ in range(doublings(size)))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        w = self.mapping(y, z)
        x = self.layer(self.constant.expand(len(z), -1, -1, -1), w)
        image = self.rgb(x, w)
        for block in self.blocks:
            x, image = block(x, image, w)
        return image


class DiscriminatorBlock(nn.Module):
    """Halves the map, [N, C, S, S] -> [N, C, S/2, S/2]: a 3x3 convolution, then a blurred one of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = EqualConv2d(channels, channels, 3)
        self.blur = Blur(padding=2)
        self.conv1 = EqualConv2d(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blur(activate(self.conv0(x)))  # S + 1 pixels, each in the middle of four of the previous map
        kernel, bias = self.conv1.kernel()
        return activate(F.conv2d(x, kernel, bias, stride=2, padding=(kernel.shape[-1] - 3) // 2))


class Discriminator(nn.Module):
    """(images [N, 3, size, size], y [N]) -> logits [N].

    Every image is augmented, if there is an augmentation. The label enters by projection, through a mapping network of
    its own. With `real`, the augmentation adapts to these logits.
    """

    def __init__(self, classes: int, size: int, channels: int, augmentation: Augmentation | None) -> None:
        super().__init__()
        self.augmentation = augmentation
        self.rgb = EqualConv2d(3, channels, 1)
        self.blocks = nn.ModuleList(DiscriminatorBlock(channels) for _ in range(doublings(size)))
        self.conv = EqualConv2d(channels + 1, channels, 3)
        self.linear = EqualLinear(16 * channels, channels)
        self.output = EqualLinear(channels, channels)
        self.mapping = Mapping(classes, 0, channels, layers=8)

    def forward(self, x: Tensor, y: Tensor, real: bool = False) -> Tensor:
        x = activate(self.rgb(x if self.augmentation is None else self.augmentation(x)))
        for block in self.blocks:
            x = block(x)
        x = activate(self.conv(with_deviation(x)))
        x = self.output(activate(self.linear(x.flatten(1))))
        logits = (x * self.mapping(y)).sum(1) / math.sqrt(x.shape[1])
        if real and self.augmentation is not None:
            self.augmentation.observe(logits)
        return logits


def with_deviation(x: Tensor, most: int = 32) -> Tensor:
    """Appends a channel to x [N, C, S, S]: the standard deviation over a group of the batch, averaged over the map.

    The size of a group is the largest divisor of the batch size that is at most `most`. Sample n is in group n modulo
    the number of groups.
    """
    size = next(g for g in range(min(most, len(x)), 0, -1) if len(x) % g == 0)
    groups = x.unflatten(0, (size, -1))
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return torch.cat([x, deviation.repeat(size)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


def doublings(size: int) -> int:
    """Number of blocks between maps of 4x4 and of `size`."""
    return (size // 4).bit_length() - 1


def edges(discriminator: Discriminator) -> dict[str, Alternatives]:
    """The search space of B: both convolutions of every block, and the filter before the map is halved."""
    space: dict[str, Alternatives] = {}
    for name, block in discriminator.named_modules():
        if isinstance(block, DiscriminatorBlock):
            convolutions = partial(_convolutions, len(block.conv0.bias))
            space |= {f"{name}.conv0": convolutions, f"{name}.blur": _filters, f"{name}.conv1": convolutions}
    return space


def _convolutions(channels: int) -> dict[str, nn.Module]:
    """The alternatives to a 3x3 convolution. Activation and stride are the block's."""
    return {
        "none": none(channels, channels),
        "skip": skip(channels),
        "conv_1x1": EqualConv2d(channels, channels, 1),
        "conv_5x5": EqualConv2d(channels, channels, 5),
        "dil_conv_3x3": EqualConv2d(channels, channels, 3, dilation=2),
    }


def _filters() -> dict[str, nn.Module]:
    """The alternatives to the blur: the average or the maximum of the four pixels around a place."""
    return {"average": nn.AvgPool2d(2, 1, 1), "max": nn.MaxPool2d(2, 1, 1)}
