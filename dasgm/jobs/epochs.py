"""Epochs of iterations: what the loop of a run, a GAN's warm-up and a search's proxy have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from dasgm.jobs.session import Interrupted


class Epochs(ABC):
    """Iterations, in epochs. They can be stopped anywhere; a run that continues them gets the same bits.

    Args:
        stop: filled when somebody asks to stop.
    """

    def __init__(self, stop: Sequence[int]):
        self.stop = stop
        self.epoch, self.done = 0, 0  # epochs that are done, and iterations of the next one
        self.spent, self._begun = 0.0, time.monotonic()  # seconds up to the last look at the clock, and when that was

    @property
    @abstractmethod
    def length(self) -> int:
        """Iterations of the epoch that is next or in progress."""

    @abstractmethod
    def more(self) -> bool:
        """Whether there is another epoch."""

    @abstractmethod
    def batches(self) -> Iterable[Any]:
        """What each iteration that this epoch has left is given."""

    @abstractmethod
    def watch(self, i: int) -> None:
        """Called before iteration `i` of the epoch."""

    @abstractmethod
    def take(self, i: int, batch: Any) -> None:
        """Take iteration `i` of the epoch."""

    @abstractmethod
    def cut_short(self) -> None:
        """Keep what is done of an epoch in which somebody asks to stop, or raise Interrupted with what begins anew."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Count the epoch that is done, and keep it."""

    def clock(self) -> float:
        """Seconds spent so far, up to now."""
        now = time.monotonic()
        self.spent, self._begun = self.spent + now - self._begun, now
        return self.spent

    def go_through(self) -> None:
        """Take all that is left. Interrupted: somebody asked to stop."""
        while self.more():
            self._begun = time.monotonic()
            for i, batch in enumerate(self.batches(), self.done):
                self.watch(i)
                self.take(i, batch)
                self.done = i + 1
                if self.stop and self.done < self.length:
                    self.clock()
                    self.cut_short()
                    raise Interrupted
            self.end_epoch()
            if self.stop:
                raise Interrupted
