"""BigGAN's networks for small images (Brock et al.

2019, appendix B): residual blocks with spectral norm, conditional batch norm and self-attention. All layers have the
same width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dasgm.bilevel import keeps_writes
from dasgm.gans._searchable import Alternatives, Term, in_use, none, skip


class Spectral(nn.Module):
    """Mixin for layers whose `weight`, initialised from N(0, 0.02), is divided by its spectral norm, estimated as |W^T
    u|.

    A pass uses u and then updates it by one power iteration, so that passes from the same state use the same u. For a
    constant u the gradient of the norm is the usual u v^T.
    """

    weight: Tensor
    u: Tensor
    place: tuple[Norms, int] | None = None  # among the layers of a network's pass, see `normalised`

    def start(self, fill: Callable[[Tensor], Tensor] = lambda w: nn.init.normal_(w, std=0.02)) -> None:
        fill(self.weight)
        self.register_buffer("u", F.normalize(torch.randn(len(self.weight)), dim=0))
        for _ in range(15):
            Norms([self])

    def scale(self) -> Tensor:
        """1 / spectral norm."""
        norms, i = self.place or (Norms([self]), 0)
        return norms.scale[i]

    def normalised(self) -> Tensor:
        """W divided by its spectral norm, in the shape of W."""
        norms, i = self.place or (Norms([self]), 0)
        return norms.normalised[i].view_as(self.weight)


class Norms:
    """The spectral norms of layers with matrices of one shape, in one pass, computed together."""

    def __init__(self, layers: list[Spectral]) -> None:
        self.matrices = [layer.weight.flatten(1) for layer in layers]
        u = torch.stack([layer.u for layer in layers])  # autograd keeps this copy; the buffers are updated below
        v = torch.stack([w.mT.mv(one) for one, w in zip(u, self.matrices, strict=True)])
        self.scales = v.norm(dim=1).reciprocal()
        self.scale = self.scales.unbind()
        if keeps_writes() and any(layer.training for layer in layers):
            self._iterate(layers, v)

    @torch.no_grad()
    def _iterate(self, layers: list[Spectral], v: Tensor) -> None:
        images = [w.detach().mv(one) for w, one in zip(self.matrices, v.detach(), strict=True)]
        iterated = F.normalize(torch.stack(images), dim=1)
        kept = [(layer.u, u) for layer, u in zip(layers, iterated, strict=True) if layer.training]
        torch._foreach_copy_([old for old, _ in kept], [new for _, new in kept])

    @cached_property
    def normalised(self) -> tuple[Tensor, ...]:
        """The matrices divided by their norms."""
        return (torch.stack(self.matrices) * self.scales[:, None, None]).unbind()


@contextmanager
def normalised(network: nn.Module) -> Iterator[None]:
    """Inside, the spectral layers of a network share their norms: they are computed, and updated, once."""
    shapes: dict[tuple[int, int], list[Spectral]] = {}
    for layer in in_use(network):
        if isinstance(layer, Spectral):
            shapes.setdefault((len(layer.weight), layer.weight.numel()), []).append(layer)
    try:
        for layers in shapes.values():
            norms = Norms(layers)
            for i, layer in enumerate(layers):
                layer.place = norms, i
        yield
    finally:
        for layers in shapes.values():
            for layer in layers:
                layer.place = None


class SpectralConv2d(Spectral, nn.Conv2d):
    """Convolution of stride 1 with an odd kernel, padded to keep the size."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding="same", dilation=dilation, bias=bias)
        self.start()

    def term(self) -> Term:
        return Term(self.weight, self.scale(), self.bias, self.dilation[0])

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised(), self.bias, padding="same", dilation=self.dilation)

    def of_doubled(self, x: Tensor) -> Tensor:
        """The 3x3 convolution of x with each pixel doubled in both directions, in 4/9 of the arithmetic."""
        kernel = boxed(self.normalised()).flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)

    def averaged(self, x: Tensor) -> Tensor:
        """The average of the 3x3 convolution of x over 2x2 pixels, in 4/9 of the arithmetic."""
        return F.conv2d(x, boxed(self.normalised()) / 4, self.bias, stride=2, padding=1)


def boxed(kernel: Tensor) -> Tensor:
    """[out, in, 3, 3] -> [out, in, 4, 4]: the kernel of the sums over 2x2 pixels of its convolution."""
    return (kernel.flatten(2) @ _box(kernel.dtype, kernel.device)).unflatten(2, (4, 4))


@cache
def _box(dtype: torch.dtype, device: torch.device) -> Tensor:
    box = torch.zeros(3, 3, 4, 4, dtype=dtype)
    for i, j in product(range(3), repeat=2):
        box[i, j, i : i + 2, j : j + 2] = 1
    return box.view(9, 16).to(device)


class SpectralLinear(Spectral, nn.Linear):
    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.start()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SpectralEmbedding(Spectral, nn.Embedding):
    def __init__(self, classes: int, features: int) -> None:
        super().__init__(classes, features)
        self.start()

    def forward(self, y: Tensor) -> Tensor:
        return F.embedding(y, self.normalised())


def start_orthogonal(*networks: nn.Module) -> None:
    """Initialises every spectral layer with an orthogonal weight, whose singular values are all 1, and a bias of 0."""
    for layer in (module for network in networks for module in network.modules() if isinstance(module, Spectral)):
        layer.start(nn.init.orthogonal_)
        bias = getattr(layer, "bias", None)
        if bias is not None:
            nn.init.zeros_(bias)


class Attention(nn.Module):
    """Self-attention [N, C, S, S] -> the same shape: x + sigma * attention(x) (Zhang et al. 2019, arXiv 1805.08318).

    As in BigGAN, keys and values are max-pooled to S/2 and sigma starts at 0. It is written out because torch's fused
    attention has neither a second derivative nor forward mode on a CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.theta = SpectralConv2d(channels, narrow, 1, bias=False)
        self.phi = SpectralConv2d(channels, narrow, 1, bias=False)
        self.value = SpectralConv2d(channels, half, 1, bias=False)
        self.output = SpectralConv2d(half, channels, 1, bias=False)
        self.sigma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2)
        key, value = (F.max_pool2d(layer(x), 2).flatten(2) for layer in (self.phi, self.value))
        share = torch.bmm(query.mT, key).softmax(2)  # [N, S*S, S*S/4]
        return x + self.sigma * self.output(torch.bmm(value, share.mT).view(-1, value.shape[1], *x.shape[2:]))


class ConditionalNorm(nn.Module):
    """Batch norm whose gain and bias [N, channels] are linear maps of a condition [N, features]; 1 is added to the
    gain. The block computes the maps of all its norms at once.
    """

    def __init__(self, channels: int, features: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps, affine=False)
        self.gain = SpectralLinear(features, channels, bias=False)
        self.bias = SpectralLinear(features, channels, bias=False)

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return torch.addcmul(bias[:, :, None, None], self.norm(x), 1 + gain[:, :, None, None])


class GeneratorBlock(nn.Module):
    """Residual block that doubles the image: [N, C, S, S] -> [N, C, 2S, 2S]."""

    def __init__(self, channels: int, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = ConditionalNorm(channels, features, eps)
        self.conv1 = SpectralConv2d(channels, channels, 3)
        self.norm2 = ConditionalNorm(channels, features, eps)
        self.conv2 = SpectralConv2d(channels, channels, 3)
        self.shortcut = SpectralConv2d(channels, channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        maps = (self.norm1.gain, self.norm1.bias, self.norm2.gain, self.norm2.bias)
        gain1, bias1, gain2, bias2 = (condition @ torch.cat([m.normalised() for m in maps]).mT).chunk(4, dim=1)
        h = self.conv1.of_doubled(self.norm1(x, gain1, bias1).relu())
        h = self.conv2(self.norm2(h, gain2, bias2).relu())
        return h + F.interpolate(self.shortcut(x), scale_factor=2)  # a 1x1 convolution commutes with doubling


class Generator(nn.Module):
    """(z [N, z_dim], y [N]) -> images [N, 3, size, size] in [-1, 1].

    z is hierarchical: its first chunk gives the 4x4 map, and each block is conditioned on one further chunk and on the
    class embedding, which all blocks share.

    Args:
        chunk: length of a chunk of z.
        attention: whether there is self-attention on the map that is half as large as the image.
        eps: of batch norm.
    """

    def __init__(
        self,
        classes: int,
        size: int,
        width: int,
        shared_dim: int,
        chunk: int,
        embedding_std: float,
        attention: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.shared = nn.Embedding(classes, shared_dim)
        nn.init.normal_(self.shared.weight, std=embedding_std)
        self.linear = SpectralLinear(chunk, 16 * width)
        count = generator_blocks(size)
        self.blocks = nn.ModuleList(GeneratorBlock(width, shared_dim + chunk, eps) for _ in range(count))
        self.attention = Attention(width) if attention else nn.Identity()
        self.norm = nn.BatchNorm2d(width, eps)
        self.output = SpectralConv2d(width, 3, 3)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        first, *chunks = z.split(self.chunk, dim=1)
        shared = self.shared(y)
        with normalised(self):
            h = self.linear(first).unflatten(1, (-1, 4, 4))
            for block, part in zip(self.blocks, chunks, strict=True):
                h = self.attention(h) if block is self.blocks[-1] else h
                h = block(h, torch.cat([shared, part], dim=1))
            return self.output(self.norm(h).relu()).tanh()


class DiscriminatorBlock(nn.Module):
    """Residual block [N, in, S, S] -> [N, out, S, S], or S/2 where `down`.

    The `first` block reads an image, without an activation before its first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, down: bool, first: bool) -> None:
        super().__init__()
        self.first = first
        self.conv1 = SpectralConv2d(in_channels, out_channels, 3)
        self.conv2 = SpectralConv2d(out_channels, out_channels, 3)
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()
        self.shortcut_pool = nn.AvgPool2d(2) if down else nn.Identity()
        learned = down or in_channels != out_channels
        self.shortcut = SpectralConv2d(in_channels, out_channels, 1) if learned else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else x.relu()).relu()
        stock = isinstance(self.pool, nn.AvgPool2d) and isinstance(self.conv2, SpectralConv2d)
        h = self.conv2.averaged(h) if stock else self.pool(self.conv2(h))
        return h + self.shortcut(self.shortcut_pool(x))  # a 1x1 convolution commutes with the average


class Trunk(nn.Module):
    """A discriminator without its head.

    Args:
        attention: whether there is self-attention on the map that is half as large as the image.
    """

    def __init__(self, size: int, width: int, attention: bool = False) -> None:
        super().__init__()
        count = generator_blocks(size) + 1
        downs = max(2, count - 2)  # to a map of 4x4 at 16 pixels, 8x8 above
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(width if i else 3, width, down=i < downs, first=i == 0) for i in range(count)
        )
        self.attention = Attention(width) if attention else nn.Identity()

    def features(self, x: Tensor) -> Tensor:
        """Images [N, 3, size, size] -> [N, width], summed over the last map."""
        for block in self.blocks:
            x = block(x)
            x = self.attention(x) if block is self.blocks[0] else x
        return x.relu().sum((2, 3))


class Discriminator(Trunk):
    """(images [N, 3, size, size], y [N]) -> logits [N], with a projection head."""

    def __init__(self, classes: int, size: int, width: int) -> None:
        super().__init__(size, width)
        self.linear = SpectralLinear(width, 1)
        self.embedding = SpectralEmbedding(classes, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with normalised(self):
            h = self.features(x)
            return self.linear(h).squeeze(1) + (self.embedding(y) * h).sum(1)


def generator_blocks(size: int) -> int:
    """Number of doublings from 4x4 to `size`."""
    return (size // 4).bit_length() - 1


def edges(discriminator: nn.Module) -> dict[str, Alternatives]:
    """The search space of B: both convolutions of every block, and the pooling of the blocks that halve the map."""
    space: dict[str, Alternatives] = {}
    for name, module in discriminator.named_modules():
        leaf = name.rpartition(".")[2]
        if leaf in ("conv1", "conv2") and isinstance(module, SpectralConv2d):
            space[name] = partial(_convolutions, module.in_channels, module.out_channels)
        elif leaf == "pool" and isinstance(module, nn.AvgPool2d):
            space[name] = lambda: {"max": nn.MaxPool2d(2)}
    return space


def _convolutions(inputs: int, outputs: int) -> dict[str, nn.Module]:
    """The alternatives to a spectrally normalised 3x3 convolution."""
    return {
        "none": none(inputs, outputs),
        **({"skip": skip(inputs)} if inputs == outputs else {}),
        "sn_conv_1x1": SpectralConv2d(inputs, outputs, 1),
        "sn_conv_5x5": SpectralConv2d(inputs, outputs, 5),
        "sn_dil_conv_3x3": SpectralConv2d(inputs, outputs, 3, dilation=2),
    }
