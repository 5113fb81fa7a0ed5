"""What share of a search's processor time is not spent in `Search.step`, and on what."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import configured, images
from dasgm.cli.main import main
from dasgm.data import cifar10
from dasgm.jobs import search as job
from dasgm.jobs.inspection import Inspection
from dasgm.jobs.loop import Loop
from dasgm.jobs.session import Hooks
from dasgm.search import Search

SMALL = {
    "quickstart": ["search", "quickstart"],
    "quickstart without a GAN": ["search", "quickstart", "--gan", "none"],
    "the same, first order": ["search", "quickstart", "--gan", "none", "--order", "first"],
}
PAPER: dict[str, dict[str, Any]] = {
    "full BigGAN": {},
    "without a GAN": {"gan": "none"},
    "without a GAN, first order": {"gan": "none", "order": "first"},
}
PARTS = {
    "step": (Search, "step"),
    "batches": (Search, "_iterate"),
    "accuracy": (Search, "accuracy"),
    "the generator's figures": (Inspection, "look"),
    "its pictures": (Inspection, "draw"),
    "the cells' picture": (job, "draw"),
    "checkpoint": (Loop, "save"),
    "judge": (job, "Inspection"),
    "warm-up": (job, "warm_up"),
    "the network's training that ranks": (job.SearchLoop, "_proxy"),
}
PICTURES, HELD_OUT, TAKEN = 50_000, 1_024, 2
"""Of CIFAR-10: images; images of J_2 whose accuracy is measured; iterations that are taken of an epoch."""


def rows(options: Options) -> Iterator[Row]:
    for what, words in SMALL.items():
        clock = Clock()
        with clock.watching(), contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as folder:
            if code := main([*words, "--storage", folder, "--name", "run"]):
                raise ValueError(f"dasgm {' '.join(words)} ended with exit code {code}")
            clock.stop()
        first, *epochs = clock.epochs
        shares = [outside(epoch) for epoch in epochs]
        yield measured(f"{what}, an epoch", *shares, unit="%", goal="15 %", note=largest(epochs[-1]))
        whole = sum(clock.epochs, clock.now)
        note = f"{whole.total():.1f} s: {largest(whole)}"
        yield measured(f"{what}, the whole search", outside(whole), unit="%", note=note)
    for what, changes in PAPER.items():
        epoch = of_paper(options, **changes)
        note = f"{epoch.total() / 3600:.1f} h, from {TAKEN} iterations: {largest(epoch)}"
        size = f"{options.cells} cells of {options.channels} channels, batch 64, CIFAR-10's size"
        yield measured(f"{size}, {what}, an epoch", outside(epoch), unit="%", goal="2 %", note=note)


def outside(seconds: Counter[str]) -> float:
    return 100 * (1 - seconds["step"] / seconds.total())


def largest(seconds: Counter[str]) -> str:
    """The parts outside the step, each with its share, but for those below a hundredth of them."""
    others = {name: spent / seconds.total() for name, spent in seconds.most_common() if name != "step"}
    least = sum(others.values()) / 100
    return ", ".join(f"{name} {100 * share:.2g} %" for name, share in others.items() if share > least)


def of_paper(options: Options, **changes: Any) -> Counter[str]:
    """Seconds of an epoch's parts: those of its iterations from a few, the accuracy from some of J_2, the others whole.

    It is the second epoch: what is done once is done in the first.
    """
    size = {"method.epochs": 2, "proxy.epochs": 0, "gan.warmup": 0, "threads": 1, "pictures_every": 1}
    size = {name: value for name, value in size.items() if name != "gan.warmup" or "gan" not in changes}
    config, data, clock = configured("dasgm-darts", options, 64, **size, **changes), images(PICTURES), Clock()
    accuracy, whole = Search.accuracy, len(data.J1) // config.batch_size
    some = patch.object(Search, "accuracy", lambda self, J: accuracy(self, J[:HELD_OUT]))
    few, load = patch.object(Search, "batches", TAKEN), patch.object(cifar10.Config, "load", lambda *_: data)
    with load, few, some, clock.watching(), tempfile.TemporaryDirectory() as folder:
        job.main(config, Path(folder) / "run", Hooks(say=lambda line: None))
    found = clock.epochs[1]
    for name in ("step", "batches"):
        found[name] *= whole / TAKEN
    found["accuracy"] *= len(data.Jval if len(data.Jval) else data.J2) / HELD_OUT
    return found


@dataclass
class Clock:
    """Processor seconds by part, of each epoch and of what came since. A part within a part counts as itself alone."""

    epochs: list[Counter[str]] = field(default_factory=list)
    now: Counter[str] = field(default_factory=Counter)
    inside: list[str] = field(default_factory=lambda: ["else"])
    since: float = field(default_factory=time.process_time)

    def stop(self) -> None:
        now = time.process_time()
        self.now[self.inside[-1]] += now - self.since
        self.since = now

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the parts are told apart."""
        with contextlib.ExitStack() as stack:
            for name, (owner, function) in PARTS.items():
                own = getattr(owner, function)
                stack.enter_context(patch.object(owner, function, self._part(name, own)))
            stack.enter_context(patch.object(Loop, "end_epoch", self._marking(Loop.end_epoch)))
            yield

    def _part(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.stop()
            self.inside.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.stop()
                self.inside.pop()

        return timed

    def _marking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.stop()
            self.epochs.append(self.now)
            self.now = Counter()
            return result

        return marked
