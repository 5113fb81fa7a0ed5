"""The searches of a sweep as Ray Tune's trials: Optuna proposes them, and is told how they ended.

Nothing is restored from Ray's pickles. What is known of a search is read from its folder, so the same command
continues the sweep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from cluster.driver import payload
from cluster.group import CUT_OFF
from cluster.room import gave_up
from dasgm.config import SearchConfig, override
from dasgm.store.replica import send
from dasgm.store.run import Run, ensure_writable
from tuning.asking import changes_of, searches
from tuning.halving import Halving
from tuning.plan import METRIC, Plan
from tuning.spaces import name_of, title

STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
"""How a run ended, and what the study is told."""


class Epoch(NamedTuple):
    """An epoch of a search, in the order in which epochs came."""

    time: float
    number: int
    """Of the search."""
    place: int
    """Among the epochs of the search."""
    row: dict[str, Any]
    last: bool
    """Whether no other epoch of the search followed."""


class Proposer(Searcher):
    """Optuna's study as Ray Tune's searcher. The study lies in a file, so a new process continues it.

    The sampler of every trial is seeded from (seed, number): a new process proposes what the old one would have.

    Args:
        folder: of the sweep.
        cache: the folder of what several searches share.
        base: the configuration that the plan's space changes.
        describe: gives entries of a trial's run.json, from its name, title and parameters.
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
        self.numbers: dict[str, int] = {}
        """Of the trials that run: Ray's identifier -> the study's number."""
        self.gave_up = ""
        """Why nothing is proposed for now: a search waited for room in vain, and the next one might too."""
        self.latest = 0.0
        """When the latest epoch came, in seconds. The clock may be set back; this never decreases."""
        self.waiting = self._reconcile()
        """Numbers of the trials that were begun before, and are to go on."""

    # ------------------------------------------------------------------------------------------------ a new process

    def _reconcile(self) -> list[int]:
        """Bring rungs and study up to date with the folders; return the numbers of the trials to go on with."""
        settle(self.folder)
        self._fill_rungs()
        return [trial.number for trial in self._trials() if not self._has_ended(trial)]

    def _fill_rungs(self) -> None:
        """Judge the epochs of all trials again, in the order in which they came."""
        epochs = [epoch for trial in self._trials() for epoch in self._epochs(trial.number)]
        for epoch in sorted(epochs):
            self.latest = epoch.time
            goes_on = self.halving.judge(name_of(epoch.number), epoch.row)
            if not goes_on and not epoch.last:  # it did go on: at the time, the better ones had not come there yet
                del self.halving.reasons[name_of(epoch.number)]

    def _has_ended(self, trial: FrozenTrial) -> bool:
        """Whether a trial has ended. If only its folder, or a rung, knows that, the study is told."""
        name = name_of(trial.number)
        if trial.state.is_finished():
            self.halving.reasons.pop(name, None)
        elif self._run(trial.number).about.get("state") in STATES:
            self.tell(trial.number)
        elif name in self.halving.reasons:
            self.stop(trial.number)
        else:
            return False
        return True

    def _epochs(self, number: int) -> list[Epoch]:
        """The epochs of a trial, each no earlier than the one before.

        None is earlier than the trial's proposal either, so an order by time is right though the clock was set back.
        """
        run = self._run(number)
        rows = [row for row in run.rows() if METRIC in row]
        proposed = run.about.get("proposed", 0.0)
        times = list(accumulate((row["time"] for row in rows), max, initial=proposed))[1:]
        last = len(rows) - 1
        return [Epoch(when, number, i, row, i == last) for i, (when, row) in enumerate(zip(times, rows, strict=True))]

    # ------------------------------------------------------------------------------------------------ Ray's searcher

    def suggest(self, trial_id: str) -> Any:
        if self.gave_up:
            return None if self.numbers else Searcher.FINISHED
        number = self._next()
        if number is None:
            return Searcher.FINISHED
        self.numbers[trial_id] = number
        config = override(self.base, changes_of(self.study, number, self.plan, self.space, self.base))
        name, parameters = name_of(number), self._trials()[number].params
        about = self.describe(name, title(number, parameters), parameters)
        run = Run(ensure_writable(self.folder / name))
        epochs = config.total_epochs
        send(self.folder)  # the study: a process that continues knows of this trial
        now = time.time()
        proposed = run.about.get("proposed", max(now, self.latest))
        run.note(**about, state="waiting", reason="", asked=now, proposed=proposed, ended=None, epochs=epochs)
        return {"name": name} | payload(config, run.folder, self.cache, about)

    def _next(self) -> int | None:
        """The number of the next trial: one to go on with, or a new one. None if there is none."""
        if self.waiting:
            return self.waiting.pop(0)
        trials = self._trials()
        if len(searches(trials)) >= self.plan.num_trials:
            return None
        number = self.study.ask().number
        assert number == len(trials), "another process proposes trials of this study"
        return number

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # accuracies are read from the folder, so none is lost

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers.pop(trial_id)
        run, name = self._run(number).latest(), name_of(number)
        epochs = self._epochs(number)
        self.latest = max([self.latest, *(epoch.time for epoch in epochs)])
        if name not in self.halving.reasons:
            self.halving.catch_up(name, [epoch.row for epoch in epochs])
        about = run.about
        if name in self.halving.reasons:
            self.stop(number)
        elif about.get("state") in ("finished", "failed"):
            self.tell(number)
        self.gave_up = about["reason"] if gave_up(about.get("reason", "")) else ""  # else it had room

    def stop(self, number: int) -> None:
        """Mark a trial as stopped early, in its folder and in the study."""
        rung, reason = self.halving.reasons[name_of(number)]
        self._run(number).note(state="stopped", reason=reason, rung=rung, ended=time.time())
        self.tell(number)

    def tell(self, number: int) -> None:
        """Tell the study how a trial ended.

        Only a trial that finished has an objective: the score of one that was stopped would not be comparable.
        """
        run, trial = self._run(number), optuna.Trial(self.study, self._trials()[number]._trial_id)
        about, rows = run.about, run.rows()
        known = self._trials()[number].intermediate_values
        for row in rows:
            new = METRIC in row and row["epoch"] not in known and row["epoch"] <= about.get("rung", row["epoch"])
            if new and not self.plan.second:  # of two objectives Optuna takes the end alone
                trial.report(row[METRIC], row["epoch"])
        state, objectives = STATES[about["state"]], self.plan.objectives
        values: list[Any] = [rows[-1].get(name) if rows else None for name in objectives]
        if state == TrialState.COMPLETE and None in values:
            lacks = objectives[values.index(None)]
            raise ValueError(f"trial {run.folder}: finished, but without {lacks}; remove its folder")
        self.study.tell(trial, values if state == TrialState.COMPLETE else None, state)

    def _run(self, number: int) -> Run:
        return Run(self.folder / name_of(number))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher, but nothing is ever restored from that

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("")  # Ray asks for a file; the study's own is what counts

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep goes on from its folder, never from Ray's snapshots")


def settle(folder: Path) -> None:
    """Once no trial of a sweep runs, cut a stopped one back to its rung, and note which were cut off."""
    for path in folder.glob("t*/run.json"):
        run = Run(path.parent)
        state = run.about.get("state")
        if state == "stopped":
            _cut_to_rung(run)
        elif state in ("running", "waiting"):
            run.note(state="interrupted", reason=CUT_OFF, ended=time.time())


def _cut_to_rung(run: Run) -> None:
    """Drop what a stopped trial did after its rung, before its workers were gone."""
    rung, rows = run.about.get("rung"), run.rows()
    if rows and rung is not None and rows[-1]["epoch"] > rung:
        with run.latest().unheld():
            run.cut(rung)
