"""What is done when Ray Tune tells of its trials: resources are freed, a search that waits for a machine says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ray.tune import Callback

from cluster.connection import Failed
from cluster.driver import AGAIN
from cluster.leftovers import Leftovers
from cluster.room import Workers, given_up, tell, unplaced, waiting
from dasgm.store.bucket import local
from dasgm.store.run import Run

SOON = 5  # seconds within which Ray places what there is room for


class Janitor(Callback):
    """Frees what the workers of a driver that is gone held; calls `kick` for MLflow."""

    def __init__(self, kick: Callable[[], None]):
        self.kick, self.leftovers = kick, Leftovers()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        self.leftovers.free()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
        self.kick()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self.kick()

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """A trial is given up: it was started as often as it may be."""
        with suppress(OSError, ValueError):
            run = Run(trial.config["folder"]).latest()
            if run.about.get("state") in ("running", "waiting"):
                reason = "its driver, or its controller, was lost too often"
                run.note(state="interrupted", reason=reason, ended=time.time())
        self.kick()

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """A trial's driver is gone, perhaps with its machine; Tune starts another one."""
        with suppress(OSError, ValueError):
            Run(trial.config["folder"]).note_incident(
                "the search's driver, or its controller, is gone; another goes on with it"
            )
        self.kick()


class Waiter(Callback):
    """Says that no machine has room for the driver of a search, and gives up in the end.

    Without it Tune would ask Ray for ever and print nothing.

    Args:
        workers: of each search.
        asked: the resources of its driver.
    """

    def __init__(self, workers: Workers, asked: dict[str, float]):
        self.workers, self.asked = workers, asked
        self.since, self.looked, self.told = 0.0, 0.0, False

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_step_end(self, iteration: int, trials: Any, **_: Any) -> None:
        now, pending = time.monotonic(), [trial for trial in trials if trial.status == "PENDING"]
        if now - self.looked < 1:
            return
        self.looked = now
        if not pending or any(trial.status == "RUNNING" for trial in trials) or not unplaced(self.asked):
            self.since, self.told = 0.0, False
            return
        self.since = self.since or now
        if now - self.since >= max(SOON, self.workers.wait):
            raise Failed(f"{given_up(self.workers)}; {AGAIN}")
        if now - self.since >= SOON and not self.told:
            self.told = True
            for trial in pending:
                tell(local(trial.config["folder"]), waiting(self.workers))
