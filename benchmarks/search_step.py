"""Where an iteration's processor time goes, stage by stage of Algorithm 1, with full BigGAN.

A stage's time is the difference between iterations with it and iterations without it, taken in turns on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import configured, search
from benchmarks._timing import LEAST, seconds
from dasgm.search import Search

NEVER = 99  # an epoch that is not reached
STAGES: list[tuple[str, dict[str, Any]]] = [
    ("Eq. 3, classifier weights", {"gan": "none", "method.arch_start_epoch": NEVER}),
    ("Eq. 4 and 5, GAN weights", {"search_discriminator": False, "method.arch_start_epoch": NEVER}),
    ("Eq. 6, architecture, first order", {"search_discriminator": False, "order": "first"}),
    ("Eq. 6, second-order term", {"search_discriminator": False}),
    ("Eq. 7, discriminator architecture", {}),
]


def rows(options: Options) -> Iterator[Row]:
    torch.set_num_threads(1)
    batch = min(options.batches)
    searches = [search(configured("dasgm-darts", options, batch, **changes)) for _, changes in STAGES]
    rounds = list(timed(searches, options.seconds))
    for place, (name, _) in enumerate(STAGES):
        parts = [(each[place] - (each[place - 1] if place else 0.0)) / each[-1] for each in rounds]
        yield measured(f"{name}, batch {batch}", *(100 * part for part in parts), unit="%")
    yield measured(f"the whole iteration, batch {batch}", *(each[-1] for each in rounds), unit="s of processor time")


def timed(searches: list[Search], budget: float) -> Iterator[list[float]]:
    """Seconds of one iteration of each, round after round."""
    for one in searches:
        one.iterate()
    until, found = time.perf_counter() + budget, 0
    while found < LEAST or time.perf_counter() < until:
        yield [seconds(one.iterate) for one in searches]
        found += 1
