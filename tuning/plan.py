"""Which searches a sweep makes, and when they are compared.

Does not import Ray or Optuna, so that the first line is printed soon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from dasgm.config import SearchConfig, override, settings
from dasgm.given import NOTHING, Given
from dasgm.measures.scores import FIRST, SCORES, name_of
from dasgm.methods._base import Stage
from dasgm.store.records import another
from tuning.spaces import Space, load

METRIC = "val/accuracy"
"""What searches are compared by at a rung."""


@dataclass(frozen=True)
class Plan:
    """The searches of one sweep."""

    num_trials: int
    space: Callable[[], Space]
    """Loads the function that turns a trial's parameters into changes of the configuration."""
    rungs: list[int]
    """Epochs at which the worse half is stopped. Empty: every search runs to its end."""
    identity: dict[str, Any]
    """What may not differ when the same command continues."""
    parameters: tuple[dict[str, Any], ...] = ()
    """The parameters of each search in turn. Empty: Optuna proposes them."""
    given: Given = NOTHING
    """Settings that no search may change."""
    rank_by: str = "proxy"
    """Name of the score that ranks the searches, and that Optuna is told (`SCORES`)."""
    second: str = ""
    """Key of what is minimised besides, in the last row of a search; empty: nothing is."""

    @property
    def objective(self) -> str:
        """The metric of that score."""
        return SCORES[self.rank_by].metric

    @property
    def objectives(self) -> list[str]:
        """What Optuna is told of a search that finished: the metric to maximise, and `second`, if there is one."""
        return [self.objective, *([self.second] if self.second else [])]

    @property
    def space_name(self) -> str:
        """MODULE:FUNCTION; empty for the default space, and for the rows of a table."""
        return str(self.identity.get("space", ""))

    def ranked_as(self, record: Mapping[str, Any], asked: str | None, sweep: Path) -> Plan:
        """The same plan with the score of the sweep's record. ValueError: another one is asked for."""
        metric = record.get("objective", FIRST)
        known = name_of(metric)
        if not known or asked not in (None, known):
            raise another(f"sweep {sweep}", "rank-by", {"rank-by": known or metric}, {"rank-by": asked})
        return replace(self, rank_by=known)

    def varying_all(self) -> Plan:
        """The same plan with the default space of older versions, which varied given settings too."""
        identity = {key: value for key, value in self.identity.items() if key != "fixed"}
        return replace(self, space=partial(load, ""), identity=identity, given=NOTHING)


def ensure_alike(rank_by: str, one: SearchConfig, other: SearchConfig, where: str = "") -> None:
    """ValueError if the score that ranks a sweep would not mean the same in two of its searches.

    Args:
        where: begins the message.
    """
    reads = SCORES[rank_by].reads
    before, now = settings(one, younger=True), settings(other, younger=True)
    for path in sorted(before.keys() | now.keys()):
        if reads(path) and before.get(path) != now.get(path):
            raise ValueError(
                f"{where}{path} is {now.get(path)!r}, elsewhere in this sweep {before.get(path)!r}, and {rank_by} "
                "compares networks of one size on the same images: give all searches the same, or use --rank-by proxy"
            )


def ensure_ranked(config: SearchConfig, where: str = "") -> None:
    """ValueError where a search would end without a score."""
    if not config.proxy.epochs:
        raise ValueError(f"{where}proxy.epochs 0: expected at least 1, without it no score ranks the searches")


def for_a_sweep(config: SearchConfig, holdout: bool = True) -> SearchConfig:
    """Set aside a tenth of the data as J_val, and add a proxy with its scores, unless there are such."""
    if holdout and not config.data.holdout:
        config = override(config, {"data.holdout": 0.1})
    return config if config.proxy.epochs else override(config, {"proxy.epochs": 15})


def rungs(stages: Sequence[Stage], grace: int, factor: int = 2, early_ends: bool = False) -> list[int]:
    """Epochs at which searches are compared: `grace`, then `factor` times as many each time, as in Ray's scheduler.

    The last epoch is none of them, since a search that has finished need not be stopped. If the method has several
    stages, searches are compared at the ends of the stages: within one, the supernets of different trials have
    different things to learn.

    Args:
        early_ends: a stage may end early (stop_skips, stop_entropy). Then no epoch is the end of a stage in every
            trial, and searches of several stages are not compared.
    """
    ends = list(accumulate(stage.epochs for stage in stages))
    if len(ends) > 1:
        return [] if early_ends else ends[:-1]
    found = [min(grace, ends[0])]
    while found[-1] * factor < ends[0]:
        found.append(found[-1] * factor)
    return [rung for rung in found if rung < ends[0]]
