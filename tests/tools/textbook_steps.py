"""The steps of the textbook's networks: DARTS's two orders (Section 2.3), and the training of a found network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from textbook import Network, SearchNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.methods._base import Stage

RADIUS = 0.01  # of Eq. 8: epsilon = 0.01 / |gradient|
MOMENTUM, DECAY = 0.9, 3e-4


class Darts:
    """A search in progress. `iterate` takes an architecture step on (x2, y2), then a weight step on (x1, y1).

    Args:
        order: "first" or "second".
        lr: rate of the weights' SGD.
        clip: bound of the norm of the weights' gradient in their own step; the virtual step is not clipped.
        of: builds the supernet of a stage.
    """

    def __init__(
        self, stage: Stage, classes: int, order: str, lr: float = 0.025, clip: float = 5.0, of: Any = SearchNetwork
    ) -> None:
        self.network, self.order, self.lr, self.clip = of(stage, classes), order, lr, clip
        alphas = [(len(names), len(names[0])) for names in stage.operations]
        shapes = [*alphas, (14,), (14,)] if stage.edge_weights else alphas
        self.architecture = [nn.Parameter(1e-3 * torch.randn(shape)) for shape in shapes]
        self.weights = list(self.network.parameters())
        self.sgd = torch.optim.SGD(self.weights, lr, MOMENTUM, weight_decay=DECAY)
        self.adam = torch.optim.Adam(self.architecture, 3e-4, (0.5, 0.999), weight_decay=1e-3)

    def iterate(self, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> None:
        self.architecture_step(x1, y1, x2, y2)
        self.weight_step(x1, y1)

    def loss(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(network(x, self.architecture), y)

    def weight_step(self, x: Tensor, y: Tensor) -> None:
        self.sgd.zero_grad()
        self.loss(self.network, x, y).backward(inputs=self.weights)
        nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.sgd.step()

    def architecture_step(self, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> None:
        second = self.order == "second"
        gradient = self.second_order(x1, y1, x2, y2) if second else self.first_order(x2, y2)
        for a, g in zip(self.architecture, gradient, strict=True):
            a.grad = g
        self.adam.step()

    def first_order(self, x2: Tensor, y2: Tensor) -> Sequence[Tensor]:
        # as the papers' users do it, the gradient of the weights is taken too, and dropped
        loss = self.loss(self.network, x2, y2)
        return torch.autograd.grad(loss, [*self.architecture, *self.weights])[: len(self.architecture)]

    def second_order(self, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Sequence[Tensor]:
        """Eq. 7: the gradient at the virtual weights w', less the rate times the mixed derivative of Eq. 8."""
        virtual = self.virtual(x1, y1)
        places = [*self.architecture, *virtual.parameters()]
        found = torch.autograd.grad(self.loss(virtual, x2, y2), places)
        direct, v = found[: len(self.architecture)], found[len(self.architecture) :]
        mixed = self.mixed(v, x1, y1)
        return [d - self.lr * m for d, m in zip(direct, mixed, strict=True)]

    def virtual(self, x1: Tensor, y1: Tensor) -> nn.Module:
        """A copy of the network after one step of SGD with its momentum, w'."""
        gradient = torch.autograd.grad(self.loss(self.network, x1, y1), self.weights)
        found = copy.deepcopy(self.network)
        with torch.no_grad():
            for new, w, g in zip(found.parameters(), self.weights, gradient, strict=True):
                velocity = self.sgd.state[w].get("momentum_buffer")
                step = g + DECAY * w
                new -= self.lr * (step if velocity is None else step + MOMENTUM * velocity)
        return found

    def mixed(self, v: Sequence[Tensor], x1: Tensor, y1: Tensor) -> list[Tensor]:
        """Eq. 8: the difference of the architecture's gradients at w + epsilon v and w - epsilon v."""
        epsilon = RADIUS / torch.cat([t.flatten() for t in v]).norm()
        sides = []
        for move in (epsilon, -2 * epsilon):
            self._move(v, move)
            sides.append(torch.autograd.grad(self.loss(self.network, x1, y1), self.architecture))
        self._move(v, epsilon)
        return [(up - down) / (2 * epsilon) for up, down in zip(*sides, strict=True)]

    @torch.no_grad()
    def _move(self, v: Sequence[Tensor], by: Tensor) -> None:
        for w, direction in zip(self.weights, v, strict=True):
            w += by * direction


class Training:
    """The training of a found network from scratch: both heads, clipping, SGD."""

    def __init__(self, network: Network, lr: float = 0.025, clip: float = 5.0) -> None:
        self.network, self.clip = network, clip
        self.sgd = torch.optim.SGD(network.parameters(), lr, MOMENTUM, weight_decay=DECAY)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.sgd.zero_grad()
        logits, auxiliary = self.network(x)
        loss = F.cross_entropy(logits, y)
        if auxiliary is not None:
            loss = loss + 0.4 * F.cross_entropy(auxiliary, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.sgd.step()
        return loss.detach()
