"""Which searches a sweep makes, and when they are compared.

Does not import Ray or Optuna, so that the first line is printed soon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from dasgm.given import NOTHING, Given
from dasgm.methods._base import Stage
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
    second: str = ""
    """Key of what is minimised besides, in the last row of a search; empty: nothing is."""

    @property
    def space_name(self) -> str:
        """MODULE:FUNCTION; empty for the default space, and for the rows of a table."""
        return str(self.identity.get("space", ""))

    def varying_all(self) -> Plan:
        """The same plan with the default space of older versions, which varied given settings too."""
        identity = {key: value for key, value in self.identity.items() if key != "fixed"}
        return replace(self, space=partial(load, ""), identity=identity, given=NOTHING)


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
