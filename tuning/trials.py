"""A sweep's trials: proposed by Optuna, stopped by successive halving, true in their run folders.

Neither is restored from Ray's pickles: what is known of a trial is read from its folder, so the same command goes on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import ray
from optuna.trial import FrozenTrial, TrialState
from ray._raylet import PlacementGroupID
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.schedulers.trial_scheduler import TrialScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from cluster.connection import Failed
from cluster.driver import AGAIN, payload
from cluster.room import Workers, gave_up, given_up, tell, unplaced, waiting
from dasgm.config import SearchConfig, override
from dasgm.store.bucket import local
from dasgm.store.replica import of, send
from dasgm.store.run import Run, ensure_writable
from tuning.asking import changes_of, searches
from tuning.plan import Plan
from tuning.spaces import title

METRIC, OBJECTIVE = "val/accuracy", "best/proxy"
SOON = 5  # seconds in which Ray places what there is room for


class Halving(ASHAScheduler):
    """Ray's asynchronous successive halving over our own epochs, which remembers why it stopped a trial.

    Args:
        rungs: epochs at which trials are compared; see tuning.plan.
        factor: a trial goes on when it is among the best 1/factor at a rung.
    """

    def __init__(self, rungs: Sequence[int], factor: int = 2):
        super().__init__("epoch", METRIC, "max", 2, 1, factor)
        self.bracket = self._brackets[0]
        self.bracket._rungs = [(rung, {}) for rung in sorted(rungs, reverse=True)]
        self.reasons: dict[str, tuple[int, str]] = {}
        """By trial: the rung that stopped it, and a line for people."""

    @property
    def rungs(self) -> list[int]:
        return sorted(int(milestone) for milestone, _ in self.bracket._rungs)

    def judge(self, name: str, row: dict[str, Any]) -> bool:
        """Record an epoch of a trial; whether it may go on."""
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
        if self._passed(name, result.get("epoch", 0)):  # saved, but their report died with a process
            run = Run(trial.config["folder"])
            run.refresh()
            goes_on = self.catch_up(name, run.rows(), result["epoch"])
        goes_on = goes_on and self.judge(name, result)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def catch_up(self, name: str, rows: Sequence[dict[str, Any]], before: float = math.inf) -> bool:
        """Judge a trial at those rungs before this epoch at which it was not yet; whether it goes on."""
        passed = self._passed(name, before)
        return all(self.judge(name, row) for row in rows if METRIC in row and row["epoch"] in passed)

    def _passed(self, name: str, before: float) -> set[int]:
        return {int(rung) for rung, recorded in self.bracket._rungs if rung < before and name not in recorded}

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._trial_info.pop(trial.trial_id, None)


class Proposer(Searcher):
    """Optuna's study as Ray Tune's searcher; the study lives in a file, so a new process goes on with it.

    The sampler is seeded anew for every trial from (seed, number): a new process proposes what the old one would have.
    """

    def __init__(
        self,
        study: optuna.Study,
        folder: Path,
        cache: Path,
        base: SearchConfig,
        plan: Plan,
        halving: Halving,
        describe: Callable[[str, str, dict[str, Any]], dict[str, Any]],
    ):
        super().__init__(metric=METRIC, mode="max")
        self.study, self.folder, self.cache, self.base, self.plan = study, folder, cache, base, plan
        self.space, self.halving, self.describe = plan.space(), halving, describe
        self.numbers: dict[str, int] = {}  # of the trials that run: Ray's id -> the study's number
        self.gave_up = ""  # why no more is proposed for now: a search waited for room in vain, as the next might
        self.latest = 0.0  # seconds: the clock may be set back, and what came before stays before
        self.waiting = self._reconcile()

    def _reconcile(self) -> list[int]:
        """Tell the study what the folders know, fill the rungs, and list the trials to go on with."""
        waiting = []
        settle(self.folder)
        trials = self._trials()
        rows = {t.number: [row for row in self._run(t.number).rows() if METRIC in row] for t in trials}
        arrived = {number: self._arrived(number, found) for number, found in rows.items()}
        for when, number, i in sorted((t, n, i) for n, times in arrived.items() for i, t in enumerate(times)):
            self.latest, row = when, rows[number][i]
            if not self.halving.judge(f"t{number:03d}", row) and row is not rows[number][-1]:
                del self.halving.reasons[f"t{number:03d}"]  # it went on: it had been let through in its time
        for trial in trials:
            state = self._run(trial.number).about.get("state")
            if trial.state.is_finished():
                self.halving.reasons.pop(f"t{trial.number:03d}", None)
            elif state in ("finished", "failed", "stopped"):
                self.tell(trial.number)
            elif f"t{trial.number:03d}" in self.halving.reasons:
                self.stop(trial.number)
            else:
                waiting.append(trial.number)
        return waiting

    def _arrived(self, number: int, rows: list[dict[str, Any]]) -> list[float]:
        """When each epoch of a trial came, by a clock that is never set back: after the one before, and after all that
        was there when the trial was proposed."""
        since = self._run(number).about.get("proposed", 0.0)
        return list(accumulate((row["time"] for row in rows), max, initial=since))[1:]

    def _run(self, number: int) -> Run:
        return Run(self.folder / f"t{number:03d}")

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self._trials()[number]._trial_id)

    def suggest(self, trial_id: str) -> Any:
        if self.gave_up:
            return None if self.numbers else Searcher.FINISHED
        if self.waiting:
            number = self.waiting.pop(0)
        elif len(searches(trials := self._trials())) < self.plan.num_trials:
            number = self.study.ask().number
            assert number == len(trials), "another process proposes trials of this study"
        else:
            return Searcher.FINISHED
        self.numbers[trial_id] = number
        config = override(self.base, changes_of(self.study, number, self.plan, self.space, self.base))
        name, parameters = f"t{number:03d}", self._trials()[number].params
        about = self.describe(name, title(number, parameters), parameters)
        run = Run(ensure_writable(self.folder / name))
        epochs = config.method.total_epochs
        send(self.folder)  # the study: whoever continues knows of this trial
        now = time.time()
        proposed = run.about.get("proposed", max(now, self.latest))
        run.note(**about, state="waiting", reason="", asked=now, proposed=proposed, ended=None, epochs=epochs)
        return {"name": name} | payload(config, run.folder, self.cache, about)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # intermediate values are read from the folder, so none is lost

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers.pop(trial_id)
        self._run(number).refresh()
        rows = [row for row in self._run(number).rows() if METRIC in row]
        self.latest = max([self.latest, *self._arrived(number, rows)])
        about, name = self._run(number).about, f"t{number:03d}"
        if name not in self.halving.reasons:
            self.halving.catch_up(name, rows)
        if name in self.halving.reasons:
            self.stop(number)
        elif about.get("state") in ("finished", "failed"):
            self.tell(number)
        self.gave_up = about["reason"] if gave_up(about.get("reason", "")) else ""  # else it had room

    def stop(self, number: int) -> None:
        """Mark a trial as stopped early, in its folder and in the study."""
        rung, reason = self.halving.reasons[f"t{number:03d}"]
        self._run(number).note(state="stopped", reason=reason, rung=rung, ended=time.time())
        self.tell(number)

    def tell(self, number: int) -> None:
        """Its end, to the study: the objective only of a trial that finished; PRUNED is no full-length score."""
        about, rows, trial = self._run(number).about, self._run(number).rows(), self._trial(number)
        told = self._trials()[number].intermediate_values
        for row in rows:
            if METRIC in row and row["epoch"] not in told and row["epoch"] <= about.get("rung", row["epoch"]):
                trial.report(row[METRIC], row["epoch"])
        states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
        state, value = states[about["state"]], rows[-1].get(OBJECTIVE) if rows else None
        if state == TrialState.COMPLETE and value is None:
            raise ValueError(f"trial {self._run(number).folder}: finished, but without {OBJECTIVE}; remove its folder")
        self.study.tell(trial, value if state == TrialState.COMPLETE else None, state)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher; nothing is ever restored from that

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("")  # Ray asks for one; the study's file is the truth

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep goes on from its folder, never from Ray's snapshots")


def settle(folder: Path) -> None:
    """Once no trial runs: drop what a stopped one did beyond its rung before it was gone; note which were cut off."""
    for path in folder.glob("t*/run.json"):
        run = Run(path.parent)
        about, rows = run.about, run.rows()
        rung = about.get("rung")
        if about.get("state") == "stopped" and rows and rung is not None and rows[-1]["epoch"] > rung:
            run.cut(rung)
            send(run.folder)
        elif about.get("state") in ("running", "waiting"):
            run.note(state="interrupted", reason="with its sweep", ended=time.time())


def _free(group: str, run: Run) -> None:
    """Remove a placement group once the worker in it is gone. Earlier, its controller, which is about to be killed,
    would take that for a fault and begin anew in another group, of which nobody would ever know."""
    end = time.monotonic() + (5 if of(run.folder) else 20)  # a worker's sign of life in object storage outlives it
    while run.busy and time.monotonic() < end:
        time.sleep(0.1)
    if ray.is_initialized():
        with suppress(Exception):  # it may be gone already
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))


class Janitor(Callback):
    """Frees soon what a stopped trial's workers held, whatever Ray's own cleaner does; tells what is new."""

    def __init__(self, kick: Callable[[], None]):
        self.kick = kick

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _free(self, trial: Any) -> None:
        if group := (trial.last_result or {}).get("placement_group"):
            run = Run(trial.config["folder"])
            threading.Thread(target=_free, args=(group, run), daemon=True, name=f"free {run.folder.name}").start()
        self.kick()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
        self.kick()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._free(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """As often as it is tried."""
        with suppress(OSError, ValueError):
            run = Run(trial.config["folder"])
            run.refresh()
            if run.about.get("state") in ("running", "waiting"):
                reason = "its driver, or its controller, was lost too often"
                run.note(state="interrupted", reason=reason, ended=time.time())
        self._free(trial)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Its driver is gone, with its machine perhaps; another is started, and what the workers held is free."""
        with suppress(OSError, ValueError):
            Run(trial.config["folder"]).note_incident(
                "the search's driver, or its controller, is gone; another goes on with it"
            )
        self._free(trial)


class Waiter(Callback):
    """Says that no machine has room for a search's driver, and gives up: Tune asks for ever, without a word."""

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
