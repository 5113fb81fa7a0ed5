"""ContraGAN's discriminator and its conditional contrastive loss 2C (Kang & Park 2020, arXiv 2006.12681, Section 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dasgm.gans._resnet import SpectralEmbedding, SpectralLinear, Trunk, normalised


class ContrastiveDiscriminator(Trunk):
    """(images [N, 3, size, size], y [N]) -> logits [N], embeddings of the images [N, D] and proxies of their classes
    [N, D].

    Embeddings and proxies have length 1. The logit does not depend on the label.
    """

    def __init__(self, classes: int, size: int, width: int, dim: int) -> None:
        super().__init__(size, width, attention=True)
        self.linear = SpectralLinear(width, 1)
        self.projection = SpectralLinear(width, dim)
        self.proxies = SpectralEmbedding(classes, dim)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with normalised(self):
            h = self.features(x)
            return self.linear(h).squeeze(1), F.normalize(self.projection(h)), F.normalize(self.proxies(y))


def contrast(images: Tensor, proxies: Tensor, y: Tensor, temperature: float, positives: bool) -> Tensor:
    """The 2C loss of a batch (Eq. 8).

    With s the cosine divided by the temperature, the loss of image i is -log of exp s(i, its proxy) divided by the same
    plus the sum of exp s(i, k) over all other images k.

    Args:
        images, proxies: [N, D], of length 1; each proxy is that of the image's class.
        y: labels [N].
        positives: whether the numerator also sums over the other images of the class of i.
    """
    own = (images * proxies).sum(1, keepdim=True) / temperature
    others = images @ images.mT / temperature
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    unlike = itself | (y[:, None] != y)
    total = torch.cat([own, others.masked_fill(itself, -math.inf)], dim=1).logsumexp(1)
    like = torch.cat([own, others.masked_fill(unlike, -math.inf)], dim=1).logsumexp(1) if positives else own.squeeze(1)
    return (total - like).mean()
