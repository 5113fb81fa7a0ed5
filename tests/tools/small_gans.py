"""Small GANs for tests, of every kind in the folder."""

from __future__ import annotations

from dasgm.gans._base import Gan
from dasgm.plugins import plugin


def small(key: str) -> Gan:
    return plugin("gans", key)(channels=4).build(3, 16, searched=True)
