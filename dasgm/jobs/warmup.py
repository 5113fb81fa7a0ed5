"""A GAN alone on J_2, Eq. 4 and 5 without the rest: the iteration, and the warm-up that small searches begin with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dasgm.adversary import Adversary
from dasgm.bilevel import Tensors, replay, seed_of
from dasgm.config import SearchConfig, mathematics
from dasgm.distributed import alone
from dasgm.search import Search, SearchFailed
from dasgm.store.records import digest
from dasgm.store.tensors import cached

if TYPE_CHECKING:
    from dasgm.data._images import Data


def iterate(gan: Adversary, data: Data, j: Tensor, n: int, *stream: object) -> Tensors:
    """One iteration of Eq. 4 and 5 in batches of n on the images `j` of J_2, n for all discriminator steps or n for
    each, with the draws named by `stream`. Returns the losses."""
    with replay(*stream, "augment"):
        x = data.flip_raw(data.raw(j))
    z, y = gan.draw(n, seed_of(*stream, "z"))
    fake, _, generator = gan.generator_step(z, y, seed_of(*stream, "gan"))
    discriminator = gan.discriminator_step(x, data.labels[j], fake, y, seed_of(*stream, "discriminator"))
    assert generator is not None and discriminator is not None
    return {"generator": generator, "discriminator": discriminator}


def warm_up(
    search: Search, cache: Path, say: Callable[[str], None] = print, give_way: Callable[[], None] = lambda: None
) -> float:
    """Train G and E for `gan.warmup` iterations on J_2, or take them from `cache`.

    One warm-up serves every search with the same GAN, data and seed: one process trains it, others wait.
    Returns the device seconds that it cost. `give_way` is called between steps.
    """
    config = search.config
    if config.gan is None or not config.gan.warmup:
        return 0.0
    name = f"gan-{_key(config, search)[:16]}"
    iterations = config.gan.warmup
    players, seconds = dict(zip("GEB", search.gan.players, strict=True)), 0.0

    def state() -> dict[str, Any]:
        return {letter: player.state_dict() for letter, player in players.items()} | {"seconds": seconds}

    def load(state: dict[str, Any]) -> None:
        nonlocal seconds
        for letter, player in players.items():
            player.load_state_dict(state[letter])
        seconds = float(state["seconds"])

    def make() -> None:
        nonlocal seconds
        say(f"GAN warm-up: {iterations} iterations on J_2, once for all searches with this GAN")
        with alone():
            seconds = train(search, say, give_way)
        if not all(p.isfinite().all() for player in players.values() for p in player.params.values()):
            raise SearchFailed("GAN warm-up: the weights are not finite; lower --gan.warmup-lr")

    cached("GAN warm-up", cache / f"{name}.pt", state, load, make, say)
    return seconds


def _key(config: SearchConfig, search: Search) -> str:
    """What the warm-up depends on: not what trials vary afterwards."""
    assert config.gan is not None
    gan = replace(config.gan, generator_lr=config.gan.warmup_lr)
    settings = mathematics(replace(config, gan=gan))
    kept = ("gan.", "data.", "seed", "discriminator_steps")
    relevant = {k: v for k, v in settings.items() if k.startswith(kept)}
    searched = config.searches_discriminator
    return digest([relevant, search.data.digest, search.data.J2.tolist(), searched])


def train(search: Search, say: Callable[[str], None], give_way: Callable[[], None]) -> float:
    """The warm-up itself; returns its device seconds."""
    config, data, gan = search.config, search.data, search.gan
    assert config.gan is not None
    G, begun, told = gan.players[0], time.monotonic(), time.monotonic()
    lr, G.lr = G.lr, config.gan.warmup_lr
    for i in range(config.gan.warmup):
        give_way()
        j = search.batch(data.J2, "warm-up", i, min(config.gan.warmup_batch_size, len(data.J2)))
        iterate(gan, data, j, len(j), "warm-up", config.seed, i)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"GAN warm-up: iteration {i + 1} of {config.gan.warmup}")
    G.lr = lr
    if data.images.is_cuda:
        torch.cuda.synchronize()
    return time.monotonic() - begun
