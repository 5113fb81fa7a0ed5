"""Seconds of the quickstart's sweep, until its first search begins, and from a search to the next in its place."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks._rows import Options, Row, measured
from dasgm.pages.view import RunView, read_trials

SWEEP = Path(__file__).parents[1] / "tuning" / "sweep.py"


def rows(options: Options) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        words = [sys.executable, str(SWEEP), "--storage", folder, "--name", "sweep"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole, trials = time.time() - begun, read_trials(Path(folder) / "sweep")
    first = min(one.info["started"] for one in trials) - begun
    yield measured("quickstart, the whole sweep", whole, unit="s", goal="100 s to 240 s, by machine")
    yield measured("quickstart, until the first search begins", first, unit="s", goal="15 s")
    yield measured("quickstart, from a search to the next in its place", *gaps(trials), unit="s", goal="8 s")


def gaps(trials: list[RunView]) -> list[float]:
    """From each end to the first beginning after it that no earlier end has taken."""
    ends = sorted(one.info["ended"] for one in trials)
    begins = sorted(one.info["started"] for one in trials)[len(trials) // 2 :]  # two at a time: the first have no end
    return [begin - end for end, begin in zip(ends, begins, strict=False)]
