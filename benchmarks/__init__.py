"""Measurements: `python -m benchmarks --help`. A benchmark is one file of this folder, and its name is the file's."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "tools"))  # the textbook, which the tests use too
