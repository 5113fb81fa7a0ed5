"""The scores of a found genotype by which the searches of a sweep can be ranked. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RankBy = Literal["proxy", "naswot"]


@dataclass(frozen=True)
class Score:
    """A score that the last line of a search's metrics has. Larger is better."""

    metric: str
    title: str
    """What it is, in words."""
    brief: str
    """The same for a tile of a page."""
    share: bool
    """Whether it is a share of 1, which is shown in % where there is room."""
    depends: tuple[str, ...] = ()
    """Settings that it depends on besides the genotype, so that searches in which they differ cannot be compared by it.
    One that ends in a dot stands for all that begin so."""
    but: frozenset[str] = frozenset()
    """Those of them that it does not depend on."""

    def reads(self, path: str) -> bool:
        """Whether it depends on the setting `path`."""
        return path.startswith(self.depends) and path not in self.but


SCORES: dict[str, Score] = {
    "proxy": Score(
        "best/proxy",
        "the accuracy of the found network after a short training from scratch on J_1",
        "short training from scratch",
        True,
    ),
    "naswot": Score(
        "best/naswot",
        "NASWOT (arXiv 2006.04647), which compares the ReLUs of the found network, untrained, over images of J_1",
        "NASWOT, without training",
        False,
        ("search_space", "proxy.cells", "proxy.channels", "data."),
        frozenset({"data.cutout"}),
    ),
}
FIRST = SCORES["proxy"].metric
"""What ranks a sweep whose record names no score."""


def name_of(metric: str) -> str:
    """The name of the score that has a metric; '' where none has it."""
    return next((name for name, score in SCORES.items() if score.metric == metric), "")
