"""Draws from a Dirichlet law whose parameters depend on A, with their gradient, for draws that are made beforehand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dasgm.bilevel.draws import draw

ROUNDS = 8
"""Proposals of a gamma draw. Each is accepted with probability above 0.95, so all fail once in 10^10 draws; then the
last is taken."""


def dirichlet(concentration: Tensor) -> Tensor:
    """A draw for each row of `concentration` [rows, n], positive; its gradient is the one of torch.distributions.

    What is drawn does not depend on `concentration`: normal and uniform numbers, of which gamma draws are made by the
    method of Marsaglia and Tsang (2000), always for the concentration + 1 (their Section 6).
    """
    shape, dtype = concentration.shape, concentration.dtype
    normal = draw(lambda: torch.randn(ROUNDS, *shape, dtype=dtype), concentration.device)
    uniform = draw(lambda: 1 - torch.rand(ROUNDS + 1, *shape, dtype=dtype), concentration.device)  # never 0
    logs = _log_gamma(concentration.detach(), normal, uniform)
    sample: Tensor = _Reparametrised.apply(concentration, logs.softmax(1))
    return sample


def _log_gamma(concentration: Tensor, normal: Tensor, uniform: Tensor) -> Tensor:
    """Logarithms of gamma draws, so that small concentrations do not underflow."""
    d = concentration + 1 - 1 / 3
    root = 1 + normal / (3 * d.sqrt())
    log_v = 3 * root.clamp_min(torch.finfo(root.dtype).tiny).log()
    bound = normal.square() / 2 + d * (1 - log_v.exp() + log_v)
    accepted = (root > 0) & (uniform[:ROUNDS].log() < bound)
    accepted[-1] = True
    first = accepted.to(torch.uint8).argmax(0, keepdim=True)
    return d.log() + log_v.gather(0, first)[0] + uniform[ROUNDS].log() / concentration


class _Reparametrised(torch.autograd.Function):
    """The implicit derivative of a Dirichlet draw (Figurnov et al. 2018), as torch.distributions has it."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, sample: Tensor) -> Tensor:
        ctx.save_for_backward(concentration, sample)
        return sample

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        concentration, sample = ctx.saved_tensors
        total = concentration.sum(1, keepdim=True).expand_as(concentration)
        # torch divides by the sample, which is 0 where it has underflowed
        slope = torch._dirichlet_grad(sample.clamp_min(torch.finfo(sample.dtype).tiny), concentration, total)
        return slope * (grad - (sample * grad).sum(1, keepdim=True)), None


def kl_to_uniform(concentration: Tensor) -> Tensor:
    """KL(Dir(concentration) || Dir(1)) of each row of [rows, n]."""
    n, total = concentration.shape[1], concentration.sum(1)
    digammas = concentration.digamma() - total.digamma()[:, None]
    return total.lgamma() - concentration.lgamma().sum(1) - math.lgamma(n) + ((concentration - 1) * digammas).sum(1)
