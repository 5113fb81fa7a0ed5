"""Ray Tune's loop, mended for a driver that dies as one search hands it on to the next.

Tune hears of such a death twice, of the actor and of its task. It starts the search anew at the first, and gives it up
at the second, or waits for the dead driver's answer without end.
"""

from __future__ import annotations

from typing import Any

from ray.tune import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial


class Controller(TuneController):
    def _trial_task_failure(self, trial: Trial, exception: Any) -> None:
        self._resetting_trials.discard(trial)
        if trial.status != Trial.PENDING:  # else it begins anew already
            super()._trial_task_failure(trial, exception)


def mend() -> None:
    """Let `tune.Tuner` use this loop."""
    tune.TuneController = Controller  # type: ignore[misc]
