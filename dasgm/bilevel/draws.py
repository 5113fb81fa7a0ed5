"""Random draws that can be repeated: each stream has a name, and the name alone determines its draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: object) -> int:
    """A 63-bit seed computed from `parts`, such as (seed, rank, iteration, name of the stream).

    A stream has no state that a checkpoint would have to hold, so a resumed run repeats the draws exactly.
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def replay(*parts: object) -> Iterator[None]:
    """Inside, torch draws from the stream that `parts` name; entering it again repeats the same draws.

    The generators' states are restored on exit.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*parts))
        yield
