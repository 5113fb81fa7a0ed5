"""What share of a small search's processor time is not spent in `Search.step`."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from benchmarks._rows import Options, Row, measured
from dasgm.cli.main import main
from dasgm.jobs.loop import Loop
from dasgm.search import Search

COMMANDS = {
    "quickstart": ["search", "quickstart"],
    "quickstart without a GAN": ["search", "quickstart", "--gan", "none"],
}


def rows(options: Options) -> Iterator[Row]:
    for what, words in COMMANDS.items():
        whole, step, epochs = spent(words)
        share, note = 100 * (1 - step / whole), f"{whole:.1f} s of processor time"
        yield measured(f"outside Search.step, {what}, the whole search", share, unit="%", goal="15 %", note=note)
        shares = [100 * (1 - inside / both) for both, inside in epochs[1:]]
        yield measured(f"outside Search.step, {what}, an epoch but the first", *shares, unit="%", goal="15 %")


def spent(words: list[str]) -> tuple[float, float, list[tuple[float, float]]]:
    """Processor seconds of a command, of all its steps, and of each of its epochs with its steps."""
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(Search, "step", clock.adding(Search.step)),
        patch.object(Loop, "end_epoch", clock.marking(Loop.end_epoch)),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        begun = time.process_time()
        code = main([*words, "--storage", folder, "--name", "run"])
        whole = time.process_time() - begun
    if code:
        raise ValueError(f"dasgm {' '.join(words)} ended with exit code {code}")
    marks = [(begun, 0.0), *clock.marks]
    pairs = zip(marks, marks[1:], strict=False)
    return whole, clock.inside, [(later - sooner, more - less) for (sooner, less), (later, more) in pairs]


class Clock:
    """Seconds inside one function, and what they were whenever another one ended."""

    def __init__(self) -> None:
        self.inside, self.marks = 0.0, list[tuple[float, float]]()

    def adding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def added(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside += time.process_time() - begun

        return added

    def marking(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.marks.append((time.process_time(), self.inside))
            return result

        return marked
