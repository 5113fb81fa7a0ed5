"""Smooth toys in float64, small enough to differentiate through whole iterations, and the optimisers' update rules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel import Player

CLASSES, WIDTH = 5, 7


class Classifier(nn.Module):
    """Two smooth mixed layers with a batch norm and dropout: buffers and random draws, as the supernet has."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(WIDTH, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        h = sum(w * torch.tanh(op(x)) for w, op in zip(weights, self.first, strict=True))
        return self.last(F.dropout(self.norm(h), 0.2))


class Alphas(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(0.3 * torch.randn(3))

    def forward(self) -> Tensor:
        return self.alphas.softmax(0)


class Generator(nn.Module):
    """Label embedding, layer noise, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 4)
        self.body = nn.Linear(8, 9)
        self.norm = nn.BatchNorm1d(9)
        self.out = nn.Linear(9, WIDTH)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.norm(self.body(torch.cat([z, self.embed(y)], 1)))
        return torch.tanh(self.out(torch.tanh(h + 0.1 * torch.randn_like(h))))


class Discriminator(nn.Module):
    """Mixed edges weighed by b, and a vector that every forward moves (as a spectral norm's)."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.Linear(WIDTH, 6) for _ in range(3))
        self.out, self.embed = nn.Linear(6, 1), nn.Embedding(CLASSES, 6)
        self.register_buffer("u", torch.ones(()))

    def forward(self, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        h = self.u * sum(w * F.softplus(edge(x)) for w, edge in zip(b, self.edges, strict=True))
        self.u = self.u * 1.01  # a new tensor: the old one is part of the graph
        return self.out(h).squeeze(1) + (self.embed(y) * h).sum(1)


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=3e-3)


def nesterov(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=3e-3, nesterov=True)


def adam(params):
    return torch.optim.Adam(params, lr=5e-3, betas=(0.5, 0.999), weight_decay=1e-2)


def orthogonal(params):
    """A stand-in for orthogonal regularisation: some function of the raw weights."""
    return {k: 1e-2 * p.detach().pow(3) for k, p in params.items()}


def differentiable_step(player: Player, place: dict[str, Tensor], grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """The optimiser's published update rule, written out with its graph: the independent computation."""
    (group,) = player.optimizer.param_groups
    if player.clip:
        total = torch.sqrt(sum((g * g).sum() for g in grads.values()))
        k = player.clip / (total + 1e-6)
        grads = {n: g * k for n, g in grads.items()} if k < 1 else grads
    extra = player.regularise(place) if player.regularise else {}
    new = {}
    for name, g in grads.items():
        p, state = place[name], player.optimizer.state.get(player.params[name], {})
        h = g + group["weight_decay"] * p + extra.get(name, 0)
        if isinstance(player.optimizer, torch.optim.SGD):
            buffer = state.get("momentum_buffer")
            step = h if buffer is None else group["momentum"] * buffer.clone() + h
            step = h + group["momentum"] * step if group["nesterov"] else step
        else:
            b1, b2 = group["betas"]
            t = int(state["step"]) + 1 if state else 1
            m = (1 - b1) * h + (b1 * state["exp_avg"].clone() if state else 0)
            v = (1 - b2) * h * h + (b2 * state["exp_avg_sq"].clone() if state else 0)
            # sqrt has no derivative at 0; entries whose gradient is identically 0 answer to nothing
            v = torch.where(v == 0, 1.0, v)
            step = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + group["eps"])
        new[name] = p - group["lr"] * step
    return new
