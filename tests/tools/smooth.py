"""A smooth search in float64, and its step by differentiation through the whole iteration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import CLASSES, Alphas, differentiable_step, orthogonal

from dasgm.bilevel import Player, norm, replay, seed_of
from dasgm.config import SearchConfig
from dasgm.data._base import DataConfig
from dasgm.data._images import Data
from dasgm.gans._base import Gan, GanConfig
from dasgm.methods.darts import Config as Darts
from dasgm.search import Search

SIZE, BATCH = 16, 8


class SmoothSupernet(nn.Module):
    """The supernet's interface on a smooth classifier with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Linear(48, 6) for _ in range(3))
        self.norm, self.last = nn.BatchNorm1d(6), nn.Linear(6, CLASSES)
        self.calm, self.normed = False, True  # without random draws; with batch statistics

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 4).flatten(1)
        h = sum(w * torch.tanh(op(x)) for w, op in zip(weights, self.ops, strict=True))
        h = self.norm(h) if self.normed else h
        return self.last(h if self.calm else F.dropout(h, 0.2))


class SmoothGenerator(nn.Module):
    """Embedding, batch norm and layer noise; images [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(CLASSES, 4), nn.Linear(8, 9)
        self.norm, self.out = nn.BatchNorm1d(9), nn.Linear(9, 48)
        self.calm, self.normed = False, True

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.body(torch.cat([z, self.embed(y)], 1))
        h = self.norm(h) if self.normed else h
        h = h if self.calm else h + 0.1 * torch.randn_like(h)
        x = torch.tanh(self.out(torch.tanh(h))).view(-1, 3, 4, 4)
        return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


class SmoothDiscriminator(nn.Module):
    """Mixed edges weighed by b, and a vector that every live forward moves."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.Linear(48, 6) for _ in range(3))
        self.out, self.embed = nn.Linear(6, 1), nn.Embedding(CLASSES, 6)
        self.register_buffer("u", torch.ones(()))

    def forward(self, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 4).flatten(1)
        h = self.u * sum(w * F.softplus(edge(x)) for w, edge in zip(b, self.edges, strict=True))
        self.u = self.u * 1.02
        return self.out(h).squeeze(1) + (self.embed(y) * h).sum(1)


class SmoothGan(Gan):
    def __init__(self, searched: bool) -> None:
        self.z_dim, self.classes = 4, CLASSES
        self.generator, self.discriminator = SmoothGenerator(), SmoothDiscriminator()
        self.architecture = Alphas() if searched else Even()
        self.regularise = orthogonal

    def generator_loss(self, discriminate, fake, y):
        return F.softplus(-discriminate(fake, y)).mean()

    def discriminator_losses(self, turn):
        def logistic(discriminate, real, y, fake, y_fake):
            return F.softplus(-discriminate(real, y)).mean() + F.softplus(discriminate(fake, y_fake)).mean()

        return [logistic]

    def generator_optimizer(self, params):
        return torch.optim.Adam(params, 5e-3, (0.5, 0.99))

    discriminator_optimizer = generator_optimizer

    def average_decay(self, step):
        return 0.9


class Even(nn.Module):
    def forward(self) -> Tensor:
        return torch.full((3,), 1 / 3)


@dataclass(frozen=True)
class SmoothConfig(GanConfig):
    def build(self, classes: int, size: int, searched: bool) -> Gan:
        return SmoothGan(searched)


def images(n: int = 80) -> Data:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % CLASSES
    return Data("noise", [str(c) for c in range(CLASSES)], (x, y), (x[:10], y[:10]), DataConfig(image_size=SIZE))


def make(**changes: Any) -> Search:
    """A `Search` whose networks are smooth; everything else is the real thing."""
    config = SearchConfig(
        method=Darts(epochs=3, cells=3, channels=4),
        gan=SmoothConfig(generator_lr=5e-3, discriminator_lr=5e-3),
        data=DataConfig(image_size=SIZE),
        val_portion=0.3,
        batch_size=BATCH,
        classifier_clip=0.05,
        classifier_lr=0.1,
    )
    search = Search(replace(config, **changes), images())
    torch.manual_seed(11)
    W, A = SmoothSupernet(), Alphas()
    momentum = {"momentum": 0.9, "weight_decay": 3e-3}
    search.W = Player(W, lambda p: torch.optim.SGD(p, search.config.classifier_lr, **momentum), clip=0.05)
    search.A = Player(A, lambda p: torch.optim.Adam(p, 1e-2, (0.5, 0.999), weight_decay=1e-3))
    second = search.config.order == "second"
    search.unrolled = (search.W if second else search.W.fixed, *search.unrolled[1:])
    if search.config.gan:
        search.gan.G.clip = 0.02
    return search


def batches(search: Search) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data, i = search.data, search.iteration
    i1, i2 = search.batch(data.J1, "J1", i), search.batch(data.J2, "J2", i)
    return data.to_classifier(data.raw(i1)).double(), data.labels[i1], data.raw(i2).double(), data.labels[i2]


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def brute_force(
    search: Search, *parts: Batch, of_W: Callable[[Any], Any] = lambda mixture: mixture
) -> tuple[Tensor, Tensor, Tensor]:
    """(dL/dA, its direct part, dL/dB) by autograd through Eq. 3 and 4 written out with their graphs.

    Each part is a worker's batch: its losses are drawn from that rank's streams, and all are averaged. `of_W` makes the
    mixture at which W steps.
    """
    W, A, (G, E, B) = search.W, search.A, search.gan.players
    gan, data = search.gan, search.data

    def average(loss: Any) -> Tensor:
        return sum(
            loss(partial(seed_of, search.config.seed, r, search.iteration), *p) for r, p in enumerate(parts)
        ) / len(parts)

    def moved(player: Player, loss: Any) -> Any:
        place = {k: p.detach().clone().requires_grad_() for k, p in player.params.items()}
        point = player.state()
        point.params = place
        total = average(lambda *a: loss(point, *a))
        grads = dict(zip(place, torch.autograd.grad(total, place.values(), create_graph=True), strict=True))
        if player.clip:
            assert float(norm({k: g.detach() for k, g in grads.items()})) > player.clip, "clipping must be active"
        after = player.state()
        after.params = differentiable_step(player, place, grads)
        return after

    def L_class(W: Any, stream: Any, x1: Tensor, y1: Tensor, *_: Tensor) -> Tensor:
        with replay(stream("class")):
            return F.cross_entropy(W(x1, of_W(A())), y1)

    def L_GAN(G: Any, stream: Any, *_: Tensor) -> Tensor:
        z, y = gan.draw(BATCH, stream("z"))
        with replay(stream("gan")):
            return gan.gan.generator_loss(lambda *a: E(B(), *a), G(z, y), y)

    def L_DASGM(W: Any, G: Any, stream: Any, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
        z, y = gan.draw(BATCH, stream("z3"))
        n = round(search.config.val_portion * BATCH)
        with replay(stream("dasgm")):
            x3 = torch.cat([x2[:n], G(z[: BATCH - n], y[: BATCH - n])])
            x3 = data.augment(data.to_classifier(x3), False)
            return F.cross_entropy(W(x3, A()), torch.cat([y2[:n], y[: BATCH - n]]))

    W1, G1 = moved(W, L_class), moved(G, L_GAN)
    loss = average(lambda *a: L_DASGM(W1, G1, *a))
    gA, gB = torch.autograd.grad(loss, [A.params["alphas"], B.params["alphas"]], retain_graph=True)
    W2 = W1.moved({}, 0.0)
    W2.params = {k: p.detach() for k, p in W1.params.items()}
    (direct,) = torch.autograd.grad(average(lambda *a: L_DASGM(W2, G1, *a)), [A.params["alphas"]])
    return gA, direct, gB


def spy(player: Player) -> list[dict[str, Tensor]]:
    """The gradients that a player's step is handed, beside the real step."""
    handed, step = [], player.step

    def recording(grads):
        handed.append({k: g.clone() for k, g in grads.items()})
        return step(grads)

    player.step = recording
    return handed


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())
