"""Seconds of plain `pytest`, as .ci/run calls it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks._rows import Options, Row, measured

ROOT = Path(__file__).parents[1]


def rows(options: Options) -> Iterator[Row]:
    begun = time.time()
    ended = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=ROOT, capture_output=True, text=True)
    whole = time.time() - begun
    last = next((line for line in reversed(ended.stdout.splitlines()) if re.search(r"\d+ passed", line)), "no test ran")
    yield measured("the test suite", whole, unit="s", goal="360 s", note=last.strip("= "))
