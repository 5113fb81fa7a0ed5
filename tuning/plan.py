"""Which searches a sweep makes and when they are compared. Free of Ray and Optuna, so that a first line comes soon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

from dasgm.given import NOTHING, Given
from dasgm.methods._base import MethodConfig
from tuning.spaces import Space, load

METRIC = "val/accuracy"
"""What searches are compared by at a rung."""


@dataclass(frozen=True)
class Plan:
    """The searches of one sweep."""

    num_trials: int
    space: Callable[[], Space]
    """Loads what turns a trial's parameters into a configuration."""
    rungs: list[int]
    """Epochs at which the worse half is stopped; []: every search runs to its end."""
    identity: dict[str, Any]
    """What may not differ when the same command continues."""
    parameters: tuple[dict[str, Any], ...] = ()
    """Of each search in turn; (): Optuna proposes them."""
    given: Given = NOTHING
    """Settings that no search may change."""

    @property
    def space_name(self) -> str:
        """module:function; '' of the default space, or of a table's rows."""
        return str(self.identity.get("space", ""))

    def varying_all(self) -> Plan:
        """The same with the default space of versions that varied given settings too."""
        identity = {key: value for key, value in self.identity.items() if key != "fixed"}
        return replace(self, space=partial(load, ""), identity=identity, given=NOTHING)


def rungs(method: MethodConfig, grace: int, factor: int = 2, early_ends: bool = False) -> list[int]:
    """Epochs at which searches are compared: `grace`, then `factor` times as many each time, as Ray's scheduler has it.

    None at the last epoch, where it would only spoil a finished search. Within one of several stages supernets differ
    from trial to trial in what they have to learn: there the rungs are the stages' ends; none where stages have
    `early_ends` (stop_skips, stop_entropy), so that no epoch is the end of a stage in every trial.
    """
    ends = list(accumulate(stage.epochs for stage in method.outline()))
    if len(ends) > 1:
        return [] if early_ends else ends[:-1]
    found = [min(grace, ends[0])]
    while found[-1] * factor < ends[0]:
        found.append(found[-1] * factor)
    return [rung for rung in found if rung < ends[0]]
