"""A score of a genotype that needs no training: NASWOT (Mellor et al. 2021, arXiv 2006.04647)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dasgm.bilevel import full_precision, replay

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.genotype import Genotype

IMAGES = 64


class Rectified(TorchDispatchMode):
    """Counts, for each two images of a batch, how many units of the ReLUs in the block have both of them above 0 or
    neither.
    """

    RELU = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)

    def __init__(self) -> None:
        super().__init__()
        self.agreeing: Tensor | None = None
        """[N, N], float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.RELU:
            above = (args[0] > 0).flatten(1).float()
            found = (above @ above.T + (1 - above) @ (1 - above).T).cpu().double()  # whole numbers, below 2^24
            self.agreeing = found if self.agreeing is None else self.agreeing + found
        return func(*args, **(kwargs or {}))


@torch.no_grad()
@full_precision()
def naswot(genotype: Genotype, data: Data, channels: int, cells: int) -> float:
    """log det(K + 1) of the network as it is initialised, for a batch of images of J_1. Larger is better.

    K is `Rectified.agreeing`. The 1 keeps equal images from making it minus infinity, and K has no negative eigenvalue,
    so the least that it can be is 0. Images and weights are drawn from fixed streams, so that all genotypes of one
    search space, size and data set are scored alike. What it is worth: `python -m benchmarks.ranking`.

    Args:
        channels, cells: the size of the network.

    Returns:
        0 of a network that has no ReLU, or whose classifier no image reaches.
    """
    if not genotype.connected:
        return 0.0
    with replay("naswot"):
        network = genotype.build(channels, cells, len(data.classes))
        some = data.J1[torch.randperm(len(data.J1))[:IMAGES]]
    counting = Rectified()
    with counting:
        network.to(data.images.device)(data.to_classifier(data.raw(some)))
    if (K := counting.agreeing) is None:
        return 0.0
    return torch.linalg.slogdet(K + torch.eye(len(K), dtype=K.dtype)).logabsdet.item()
