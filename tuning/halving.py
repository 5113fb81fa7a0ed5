"""Successive halving: which searches of a sweep are stopped early, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler
from ray.tune.schedulers.trial_scheduler import TrialScheduler

from dasgm.store.run import Run
from tuning.plan import METRIC


class Halving(ASHAScheduler):
    """Ray's asynchronous successive halving over the epochs of a search; it also keeps why it stopped a trial.

    Args:
        rungs: epochs at which trials are compared; see tuning.plan.
        factor: a trial goes on if it is among the best 1/factor at a rung.
    """

    def __init__(self, rungs: Sequence[int], factor: int = 2):
        super().__init__("epoch", METRIC, "max", 2, 1, factor)
        self.bracket = self._brackets[0]
        self.bracket._rungs = [(rung, {}) for rung in sorted(rungs, reverse=True)]
        self.reasons: dict[str, tuple[int, str]] = {}
        """By trial: the rung that stopped it, and the reason in a line."""

    @property
    def rungs(self) -> list[int]:
        return sorted(int(milestone) for milestone, _ in self.bracket._rungs)

    def judge(self, name: str, row: dict[str, Any]) -> bool:
        """Record an epoch of a trial; return whether the trial may go on."""
        if METRIC not in row:
            return True
        seen = {int(m): name in recorded for m, recorded in self.bracket._rungs}
        trial: Any = SimpleNamespace(trial_id=name)
        action = self.bracket.on_result(trial, row["epoch"], row[METRIC])
        if action == TrialScheduler.STOP:
            ((rung, recorded),) = [(m, r) for m, r in self.bracket._rungs if name in r and not seen[int(m)]]
            others = {k: v for k, v in recorded.items() if k != name}
            reason = f"rung {int(rung)}: {row[METRIC]:.3f} < {self.bracket.cutoff(others):.3f}"
            self.reasons[name] = row["epoch"], reason
        return action != TrialScheduler.STOP

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name, goes_on = trial.config["name"], True
        if self._passed(name, result.get("epoch", 0)):  # these epochs were saved, but their reports were lost
            rows = Run(trial.config["folder"]).latest().rows()
            goes_on = self.catch_up(name, rows, result["epoch"])
        goes_on = goes_on and self.judge(name, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def catch_up(self, name: str, rows: Sequence[dict[str, Any]], before: float = math.inf) -> bool:
        """Judge a trial at the rungs before this epoch at which it was not judged; return whether it goes on."""
        passed = self._passed(name, before)
        return all(self.judge(name, row) for row in rows if METRIC in row and row["epoch"] in passed)

    def _passed(self, name: str, before: float) -> set[int]:
        return {int(rung) for rung, recorded in self.bracket._rungs if rung < before and name not in recorded}

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._trial_info.pop(trial.trial_id, None)
