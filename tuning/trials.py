"""A sweep's trials: proposed by Optuna, stopped by successive halving, true in their run folders.

Neither is restored from Ray's pickles: what is known of a trial is read from its folder, so the same command goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState
from ray._raylet import PlacementGroupID
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.schedulers.trial_scheduler import TrialScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from dasgm.bilevel import seed_of
from dasgm.config import SearchConfig, override, to_json
from dasgm.runs import Run
from tuning.spaces import Space, title

METRIC, OBJECTIVE = "val/accuracy", "best/proxy"


class Halving(ASHAScheduler):
    """Ray's asynchronous successive halving over our own epochs, which remembers why it stopped a trial.

    Args:
        epochs: of a whole trial; a rung at the last epoch would only spoil a finished search, so there is none.
        grace: epochs before the first rung.
        factor: of the epochs from rung to rung; a trial goes on when it is among the best 1/factor at a rung.
    """

    def __init__(self, epochs: int, grace: int, factor: int = 2):
        super().__init__("epoch", METRIC, "max", epochs + 1, min(grace, epochs), factor)
        self.bracket = self._brackets[0]
        self.bracket._rungs = [rung for rung in self.bracket._rungs if rung[0] < epochs]
        self.reasons: dict[str, str] = {}

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
            self.reasons[name] = f"rung {int(rung)}: {row[METRIC]:.3f} < {self.bracket.cutoff(others):.3f}"
        return action != TrialScheduler.STOP

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.CONTINUE if self.judge(trial.config["name"], result) else TrialScheduler.STOP

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
        base: SearchConfig,
        space: Space,
        num_trials: int,
        halving: Halving,
        describe: Callable[[str, str, dict[str, Any]], dict[str, Any]],
    ):
        super().__init__(metric=METRIC, mode="max")
        self.study, self.folder, self.base, self.space = study, folder, base, space
        self.num_trials, self.halving, self.describe = num_trials, halving, describe
        self.numbers: dict[str, int] = {}  # Ray's id -> the study's number
        self.waiting = self._reconcile()

    def _reconcile(self) -> list[int]:
        """Tell the study what the folders know, fill the rungs, and list the trials to go on with."""
        waiting = []
        trials = self.study.get_trials(deepcopy=False)
        done = [t.number for t in trials if t.state.is_finished()]
        for number in done:
            for row in self._run(number).rows():
                self.halving.judge(f"t{number:03d}", row)
        for number in (t.number for t in trials if not t.state.is_finished()):
            state = self._run(number).about.get("state")
            goes_on = all(self.halving.judge(f"t{number:03d}", row) for row in self._run(number).rows())
            if state in ("finished", "failed", "stopped"):
                self.tell(number)
            elif not goes_on:
                self.stop(number)
            else:
                waiting.append(number)
        return waiting

    def _run(self, number: int) -> Run:
        return Run(self.folder / f"t{number:03d}")

    def suggest(self, trial_id: str) -> Any:
        if self.waiting:
            number = self.waiting.pop(0)
        elif len(self.study.get_trials(deepcopy=False)) < self.num_trials:
            number = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = sampler(self.base.seed, number)
            asked = self.study.ask()
            assert asked.number == number, "another process proposes trials of this study"
            self.space(asked, self.base)
        else:
            return Searcher.FINISHED
        self.numbers[trial_id] = number
        return self.config(number)

    def config(self, number: int) -> dict[str, Any]:
        """What a trial is given: its whole configuration, folder and description, as plain data."""
        parameters = self.study.get_trials(deepcopy=False)[number].params
        changes = self.space(FixedTrial(parameters), self.base)
        config = override(self.base, changes)
        name = f"t{number:03d}"
        about = self.describe(name, title(number, parameters), parameters)
        return {
            "name": name,
            "folder": str(self.folder / name),
            "config": json.dumps(to_json(config)),
            "about": json.dumps(about),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # intermediate values are read from the folder, so none is lost

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers[trial_id]
        if f"t{number:03d}" in self.halving.reasons:
            self.stop(number)
        elif self._run(number).about.get("state") in ("finished", "failed"):
            self.tell(number)

    def stop(self, number: int) -> None:
        """Mark a trial as stopped early, in its folder and in the study."""
        reason = self.halving.reasons[f"t{number:03d}"]
        self._run(number).note(state="stopped", reason=reason, ended=time.time())
        self.tell(number)

    def tell(self, number: int) -> None:
        """Its end, to the study: the objective only of a trial that finished; PRUNED is no full-length score."""
        run, trial = (
            self._run(number),
            optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id),
        )
        rows = run.rows()
        for row in rows:
            if METRIC in row and row["epoch"] not in trial._cached_frozen_trial.intermediate_values:
                trial.report(row[METRIC], row["epoch"])
        states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
        state = states[run.about["state"]]
        self.study.tell(trial, rows[-1][OBJECTIVE] if state == TrialState.COMPLETE else None, state)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its searcher; nothing is ever restored from that

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text("")  # Ray asks for one; the study's file is the truth

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a sweep goes on from its folder, never from Ray's snapshots")


class Janitor(Callback):
    """Frees at once what a stopped trial's workers held, whatever Ray's own cleaner does; tells what is new."""

    def __init__(self, kick: Callable[[], None]):
        self.kick = kick

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _free(self, trial: Any) -> None:
        if group := (trial.last_result or {}).get("placement_group"):
            with suppress(Exception):  # it may be gone already, and nothing may end the sweep here
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(group)))
        self.kick()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
        self.kick()

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._free(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._free(trial)


def sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Of the trial with this number: random at first, then TPE."""
    return optuna.samplers.TPESampler(seed=seed_of(seed, "sampler", number) % 2**32, n_startup_trials=6)


def open_study(folder: Path) -> optuna.Study:
    """The study of a sweep's folder (study.db; optuna-dashboard opens it), made if need be."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = f"sqlite:///{(folder / 'study.db').absolute()}"
    return optuna.create_study(storage=storage, study_name=folder.name, direction="maximize", load_if_exists=True)
