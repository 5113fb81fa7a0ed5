"""Small GANs for tests, of every kind in the folder."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dasgm.gans
from dasgm.gans._base import Gan

KEYS = [m.name for m in pkgutil.iter_modules(dasgm.gans.__path__) if not m.name.startswith("_")]
SIZES = (16, 32, 64)
LINEAR = ("stylegan2ada",)  # no tanh: images go beyond [-1, 1]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def weights(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def one_hot(b):
    return tuple(F.one_hot(torch.tensor(0), len(w)).to(w) for w in b)


def small(key: str, size: int = 16, searched: bool = True, classes: int = 3) -> Gan:
    return import_module(f"dasgm.gans.{key}").Config(channels=4).build(classes, size, searched)


def draw(gan: Gan, n: int = 6, size: int = 16):
    """z, labels, and real images of n."""
    return torch.randn(n, gan.z_dim), torch.arange(n) % gan.classes, torch.rand(n, 3, size, size) * 2 - 1


def losses(gan: Gan, b, size: int = 16, turn: int = 0):
    """(L of G, [L of E]) on a batch."""
    z, y, real = draw(gan, size=size)
    discriminate = lambda *a: gan.discriminator(b, *a)  # noqa: E731
    fake = gan.generator(z, y)
    of_e = [loss(discriminate, real, y, fake.detach(), y) for loss in gan.discriminator_losses(turn)]
    return gan.generator_loss(discriminate, fake, y), of_e


def flat(out) -> torch.Tensor:
    """All that a discriminator returns, in one row."""
    return torch.cat([t.flatten() for t in (out if isinstance(out, tuple) else (out,))])


def clones(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: t.detach().clone() for k, t in module.state_dict().items()}


def same(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
