"""A GAN alone on J_2, Eq. 4 and 5 without the rest: the iteration, and the warm-up that small searches begin with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dasgm.adversary import Adversary, by_name
from dasgm.bilevel import InProgress, Iterations, Stream, Tensors, draw, replay
from dasgm.config import SearchConfig, mathematics
from dasgm.distributed import alone
from dasgm.jobs.epochs import Epochs
from dasgm.options import option
from dasgm.search import Search, SearchFailed
from dasgm.store.files import printable, write_atomic
from dasgm.store.records import digest
from dasgm.store.replica import fetch, offer, withdraw
from dasgm.store.tensors import cached, packed, why_not_loaded

if TYPE_CHECKING:
    from dasgm.data._images import Data

EVERY = 10.0  # seconds between two lines that tell how far a warm-up is, and between two of its checkpoints
SHARE = 0.1  # of the time at most goes into these checkpoints


def iterate(gan: Adversary, data: Data, j: Tensor, n: int, *stream: object) -> Tensors:
    """One iteration of Eq. 4 and 5 in batches of n on the images `j` of J_2, n for all discriminator steps or n for
    each, with the draws named by `stream`. Returns the losses."""
    with replay(*stream, "augment"):
        x = data.flip_raw(data.raw(j))
    z, y = gan.draw(n, Stream((*stream, "z")))
    fake, _, generator = gan.generator_step(z, y, Stream((*stream, "gan")))
    discriminator = gan.discriminator_step(x, data.labels[j], fake, y, Stream((*stream, "discriminator")))
    assert generator is not None and discriminator is not None
    return {"generator": generator, "discriminator": discriminator}


def warm_up(search: Search, cache: Path, say: Callable[[str], None] = print, stop: Sequence[int] = ()) -> float:
    """Train G and E for `gan.warmup` iterations on J_2, or take them from `cache`.

    One warm-up serves every search with the same GAN, data and seed: one process trains it, others wait. Who comes
    after one that was stopped goes on where it was. Returns the device seconds that it cost, all parts together.

    Raises:
        SearchFailed: the weights are not finite.
        Interrupted: `stop` was filled.
    """
    config = search.config
    if config.gan is None or not config.gan.warmup:
        return 0.0
    path = cache / f"gan-{_key(config, search)[:16]}.safetensors"
    training = WarmUp(search, path.with_suffix(".part"), say, stop)
    cached("GAN warm-up", path, training.state, training.restore, training.make, say)
    training.forget()
    return training.spent


def _key(config: SearchConfig, search: Search) -> str:
    """What the warm-up depends on: not what trials vary afterwards."""
    assert config.gan is not None
    gan = replace(config.gan, generator_lr=config.gan.warmup_lr)
    settings = mathematics(replace(config, gan=gan))
    kept = ("gan.", "data.", "seed", "discriminator_steps")
    relevant = {k: v for k, v in settings.items() if k.startswith(kept)}
    searched = config.searches_discriminator
    return digest([relevant, search.data.digest, search.data.J2.tolist(), searched])


class WarmUp(Epochs):
    """One epoch of `gan.warmup` iterations, which can be gone on with by another search.

    Args:
        part: the file of what is done so far; None: nothing is kept.
        stop: filled when somebody asks to stop.
    """

    def __init__(self, search: Search, part: Path | None, say: Callable[[str], None] = print, stop: Sequence[int] = ()):
        super().__init__(stop)
        assert search.config.gan is not None
        self.search, self.config, self.part, self.say = search, search.config.gan, part, say
        self.players = by_name(search.gan)

    # the whole, as the cache keeps it

    def state(self) -> dict[str, Any]:
        """Plain data and tensors."""
        return {letter: player.state_dict() for letter, player in self.players.items()} | {"seconds": self.spent}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken. ValueError: its seconds are none."""
        seconds = float(state["seconds"])
        if not 0 <= seconds < math.inf:
            raise ValueError(f"{seconds} seconds")
        for letter, player in self.players.items():
            player.load_state_dict(state[letter])
        self.spent = seconds

    def make(self) -> None:
        """Take the iterations that are left, by this worker alone."""
        if not self._go_on():
            self.say(f"GAN warm-up: {self.length} iterations on J_2, once for all searches with this GAN")
        with alone():
            self.train()
        if not all(p.isfinite().all() for player in self.players.values() for p in player.params.values()):
            self.forget()
            raise SearchFailed(f"GAN warm-up: the weights are not finite; lower {option('gan.warmup_lr')}")

    def train(self) -> None:
        """The same, on all workers."""
        G = self.players["G"]
        lr, G.lr = G.lr, self.config.warmup_lr
        self._iterations = Iterations(self._iterate, self.search.gan.players, self, self.search.device)
        self._told = self._saved = time.monotonic()
        self._pause, self._kept = EVERY, self.done
        self.go_through()
        G.lr = lr

    # its iterations

    @property
    def length(self) -> int:
        return self.config.warmup

    def more(self) -> bool:
        return self.epoch == 0

    def batches(self) -> range:
        return range(self.done, self.length)  # an iteration draws its own

    def watch(self, i: int) -> None:
        if time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            self.say(f"GAN warm-up: iteration {i} of {self.length}")
        if i > self._kept and time.monotonic() - self._saved > self._pause:
            self._save()

    def take(self, i: int, batch: Any) -> None:
        self.iteration = i
        self._iterations(self.search.gan.phase)

    def _iterate(self) -> Tensors:
        search, seed = self.search, self.search.config.seed
        n = min(self.config.warmup_batch_size, len(search.data.J2))
        j = draw(lambda: search.batch(search.data.J2, "warm-up", self.iteration, n), search.device)
        return iterate(search.gan, search.data, j, n, "warm-up", seed, InProgress(self))

    def cut_short(self) -> None:
        self._save()

    def end_epoch(self) -> None:
        if self.search.data.images.is_cuda:
            torch.cuda.synchronize()
        self.clock()
        self.epoch = 1
        if self.stop:
            self._save()

    # what is done so far, in a file

    def _save(self) -> None:
        """Keep what is done."""
        if self.part is None:
            return
        begun = time.monotonic()
        self.clock()
        write_atomic(self.part, packed(self._state_so_far()))
        offer(self.part)
        self._saved, self._kept = time.monotonic(), self.done
        self._pause = max(EVERY, (self._saved - begun) / SHARE)

    def _go_on(self) -> bool:
        """Take up what another has left; a torn file is said in one line."""
        if self.part is None:
            return False
        for left_over in self.part.parent.glob(f".{self.part.name}.*.tmp"):  # by one that was killed as it wrote
            left_over.unlink()
        fetch(self.part)
        if not self.part.exists():
            return False
        if why := why_not_loaded(self.part, self._state_so_far, self._restore_so_far):
            self.say(printable(f"GAN warm-up {self.part}: it is torn or none of ours ({why}); it is begun anew"))
            return False
        self.say(f"GAN warm-up: going on after iteration {self.done} of {self.length}")
        return True

    def _state_so_far(self) -> dict[str, Any]:
        return self.state() | {"iteration": self.done}

    def _restore_so_far(self, state: dict[str, Any]) -> None:
        done = int(state["iteration"])
        if not 0 <= done <= self.length:
            raise ValueError(f"iteration {done} of {self.length}")
        self.restore(state)
        self.done = done

    def forget(self) -> None:
        """Remove what was kept, in object storage too: another machine may have left it there."""
        if self.part is not None:
            withdraw(self.part)
