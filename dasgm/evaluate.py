"""Trains a genotype's network from scratch. Here the proxy: briefly on J_1, measured on J_val, to rank genotypes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from dasgm.bilevel import Player, grad, replay, seed_of
from dasgm.config import ProxyConfig
from dasgm.distributed import rank, world_size
from dasgm.networks.network import Network

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.genotype import Genotype


def proxy(
    genotype: Genotype, data: Data, config: ProxyConfig, seed: int, give_way: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Accuracy of the discretised network after a brief training on J_1, and its standard error.

    Measured on J_val; on J_2 where no J_val is set aside. The recipe is DARTS's (SGD, cosine to 0, clip 5). The error
    is Agresti and Coull's, which is not 0 where every image is right. `give_way` is called between steps.
    """
    device = data.images.device
    with replay(seed, "proxy"):
        network = Network(genotype, config.channels, config.cells, len(data.classes)).to(device)
    W = Player(network, lambda p: torch.optim.SGD(p, config.lr, 0.9, weight_decay=3e-4), clip=5.0)
    b, n = config.batch_size, config.batch_size * world_size()
    batches = max(1, len(data.J1) // n)
    for epoch in range(config.epochs):
        W.lr = config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
        generator = torch.Generator().manual_seed(seed_of(seed, "proxy", epoch))
        order = data.J1[torch.randperm(len(data.J1), generator=generator)]
        for i in range(batches):
            give_way()
            some = order[i * n + rank() * b :][:b]
            with replay(seed, "proxy", epoch, i, rank()):
                x = data.augment(data.to_classifier(data.raw(some)), cutout=True)
                W.step(*grad(F.cross_entropy(W.live(x), data.labels[some]), W))
    held_out = data.Jval if len(data.Jval) else data.J2
    network.eval()
    with torch.no_grad():
        right = [network(data.to_classifier(data.raw(i))).argmax(1) == data.labels[i] for i in held_out.split(256)]
    accuracy = torch.cat(right).double().mean().item()
    n = len(held_out) + 4
    adjusted = (accuracy * len(held_out) + 2) / n
    return accuracy, math.sqrt(adjusted * (1 - adjusted) / n)
