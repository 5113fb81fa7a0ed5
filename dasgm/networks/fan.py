"""What the edges that leave one state of the supernet learn. `bundle` computes with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dasgm.genotype import SKIP
from dasgm.networks.operations import SEPARABLE, DepthwiseConv, HalvingConv, pool

POOLS = ("max_pool_3x3", "avg_pool_3x3")
AUXILIARY = "auxiliary_skip"
"""A second skip connection with weights of its own where it halves the map (`Stage.auxiliary_skip`)."""
SKIPS = (AUXILIARY, SKIP)
TWICE = tuple(name for name in SEPARABLE if name.startswith("sep"))
"""The convolutions that an edge applies twice."""


class Fan(nn.Module):
    """The operations of all edges that leave one state.

    One operation on m edges is a grouped convolution on m times the channels; its weights lie side by side. The
    operation `none` is not computed; its softmax weight is missing from the sum.

    Args:
        candidates: names of the candidate operations of each edge that leaves this state.
        channels: number of channels that pass through the operations.
        stride: 2 where the edges halve the map, else 1.

    Attributes:
        having: operation -> the edges that have it. Those with a result of its own for each edge come first.
    """

    def __init__(self, candidates: Sequence[Sequence[str]], channels: int, stride: int) -> None:
        super().__init__()
        learned = SEPARABLE if stride == 1 else (*SEPARABLE, *SKIPS)
        having = {
            name: [edge for edge, names in enumerate(candidates) if name in names]
            for name in (*SEPARABLE, *SKIPS, *POOLS)
        }
        self.having = {name: edges for name, edges in having.items() if edges}
        self.convolutions = nn.ModuleDict({
            name: Reduce(channels, len(edges)) if name in SKIPS else Separable(name, channels, len(edges), stride)
            for name, edges in self.having.items() if name in learned
        })  # fmt: skip
        self.pools = nn.ModuleDict({
            name: nn.Sequential(pool(name, stride), Statistics(channels)) for name in POOLS if name in self.having
        })  # fmt: skip

    def pool(self, name: str) -> nn.Sequential:
        """The pooling, then its norm's statistics."""
        found = self.pools[name]
        assert isinstance(found, nn.Sequential)
        return found


class Separable(nn.Module):
    """A separable or dilated convolution on several edges: [N, edges * channels, H, W], edge after edge."""

    def __init__(self, name: str, channels: int, edges: int, stride: int) -> None:
        super().__init__()
        kernel, dilation = SEPARABLE[name]
        width = edges * channels
        strides = [stride, 1] if name in TWICE else [stride]
        self.depthwise = nn.ModuleList(DepthwiseConv(width, kernel, stride, dilation) for stride in strides)
        self.pointwise = nn.ModuleList(nn.Conv2d(width, width, 1, groups=edges, bias=False) for _ in strides)
        self.norms = nn.ModuleList(Statistics(width) for _ in strides)


class Reduce(nn.Module):
    """FactorizedReduce on several edges that read the same state."""

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.even = HalvingConv(channels, edges * (channels // 2))
        self.odd = HalvingConv(channels, edges * (channels // 2))
        self.norm = Statistics(edges * channels)


class Statistics(nn.Module):
    """The running statistics of a batch norm without learned parameters."""

    statistics_as_torch = True  # in training mode they are written and not read
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
