"""Processor time of two ways to do the same, in turns, so that other work on the machine meets both."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

LEAST = 3  # rounds

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Of the processor, all threads of this process."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def ratios(theirs: Work, ours: Work, budget: float) -> tuple[float, ...]:
    """How many times as long as `ours` `theirs` takes: one ratio a round, until the budget in seconds is spent.

    Which goes first changes from round to round. One thread; each is run once before.
    """
    torch.set_num_threads(1)
    theirs(), ours()
    found: list[float] = []
    until = time.perf_counter() + budget
    while len(found) < LEAST or time.perf_counter() < until:
        if len(found) % 2:
            fast = seconds(ours)
            slow = seconds(theirs)
        else:
            slow = seconds(theirs)
            fast = seconds(ours)
        found.append(slow / fast)
    return tuple(found)
