"""ContraGAN's discriminator and its conditional contrastive loss (Kang & Park 2020, arXiv 2006.12681, section 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dasgm.gans._resnet import SpectralEmbedding, SpectralLinear, Trunk


class ContrastiveDiscriminator(Trunk):
    """(images [N, 3, size, size], y [N]) -> (logits [N], the images [N, D] and the proxies of their classes [N, D],
    both of length 1). The logit does not see the label."""

    def __init__(self, classes: int, size: int, width: int, dim: int) -> None:
        super().__init__(size, width, attention=True)
        self.linear = SpectralLinear(width, 1)
        self.projection = SpectralLinear(width, dim)
        self.proxies = SpectralEmbedding(classes, dim)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.features(x)
        return self.linear(h).squeeze(1), F.normalize(self.projection(h)), F.normalize(self.proxies(y))


def contrast(images: Tensor, proxies: Tensor, y: Tensor, temperature: float, positives: bool) -> Tensor:
    """The 2C loss (Eq. 8) of a batch: -log of the share that an image's like have in its similarity to all.

    With s the cosine / temperature, of image i the share is exp s(i, its proxy) over the same plus the sum of
    exp s(i, k) over all other images k; `positives`: the k of i's class are summed in the numerator too.

    Args:
        images, proxies: [N, D], of length 1; the proxy is that of the image's class.
        y: labels [N].
    """
    own = (images * proxies).sum(1, keepdim=True) / temperature
    others = images @ images.mT / temperature
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    unlike = itself | (y[:, None] != y)
    total = torch.cat([own, others.masked_fill(itself, -math.inf)], dim=1).logsumexp(1)
    like = torch.cat([own, others.masked_fill(unlike, -math.inf)], dim=1).logsumexp(1) if positives else own.squeeze(1)
    return (total - like).mean()
