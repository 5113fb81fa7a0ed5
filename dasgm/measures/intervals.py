"""95 % intervals of proportions. Free of torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Z = 1.959963984540054  # of a two-sided interval of 95 %
WIDE = 0.1  # half of an interval that tells little


def wilson(right: Any, n: Any) -> tuple[Any, Any]:
    """Lower and upper end of the 95 % interval of a proportion, of which `right` of `n` were counted (Wilson 1927).

    NaN where `n` is 0.
    """
    right, n = np.asarray(right, float), np.asarray(n, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = right / n
        middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def widest(n: int) -> float:
    """Half of the widest interval that `wilson` gives for n pictures: that of n / 2 right, Z / (2 sqrt(n + Z^2))."""
    return Z / (2 * math.sqrt(n + Z**2))


def enough(half: float = WIDE) -> int:
    """The smallest number of pictures for which `widest` is at most `half`: 93 for 0.1."""
    return math.ceil((Z / (2 * half)) ** 2 - Z**2)
