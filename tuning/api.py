"""A sweep of searches as a function.

from dasgm.api import evaluate
from tuning.api import sweep

found = sweep("quickstart", num_trials=4, progress=True)
for trial in found.trials:
    print(trial.rank, trial.name, trial.state, trial.score, trial.varied)
trained = evaluate(found.best)
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from cluster.connection import Failed
from cluster.patience import say_now
from dasgm.api.callers import call
from dasgm.api.choices import NO_SETTINGS, Settings, choose_search
from dasgm.api.places import storage_here
from dasgm.api.results import Reported, SearchResult
from dasgm.config import override
from dasgm.measures.scores import RankBy
from dasgm.store.bucket import lies_at
from dasgm.store.files import shell_line
from tuning.options import Options
from tuning.plan import ensure_ranked, for_a_sweep
from tuning.sweep import Sweep

if TYPE_CHECKING:
    from dasgm.pages.view import Ranked


@dataclass(frozen=True)
class SweepTrial:
    """A search of a sweep."""

    name: str
    """Such as t003, which is its folder in that of the sweep."""
    folder: Path
    state: str
    """finished, stopped (early, by the sweep), failed, interrupted, running or waiting."""
    varied: Mapping[str, Any]
    """The settings that the sweep chose for it."""
    score: float | None
    """What ranks it. None: it has none yet, or was stopped before."""
    rank: int | None
    """Its place, from 1. None: it did not finish."""
    tie: bool
    """Whether it cannot be told from the best."""
    result: SearchResult | None
    """None: it did not finish."""


@dataclass(frozen=True)
class SweepResult(Reported):
    """The searches of a sweep, the best first, then those that did not finish."""

    rank_by: str
    """The score that ranks them: proxy or naswot."""
    trials: tuple[SweepTrial, ...]

    @property
    def best(self) -> SearchResult:
        """What the best search found. ValueError: none finished."""
        found = next((trial.result for trial in self.trials if trial.result is not None), None)
        if found is None:
            raise ValueError(f"sweep {lies_at(self.folder)}: no search has finished; the same call goes on")
        return found


def sweep(
    preset: str | Path = "quickstart",
    *,
    gan: str | None = None,
    method: str | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    settings: Settings = NO_SETTINGS,
    num_trials: int = 4,
    grace: int | None = None,
    space: str = "",
    rank_by: RankBy | None = None,
    and_minimise: Literal["none", "parameters", "multiply_adds", "latency"] = "none",
    workers_per_trial: int = 1,
    gpus_per_trial: float | Literal["auto"] | None = None,
    max_concurrent: int = 0,
    pretrain: bool = False,
    storage: str | Path = "runs",
    name: str = "",
    time_budget: float | None = None,
    wait: float = 1800.0,
    progress: bool = False,
) -> SweepResult:
    """Make a sweep of searches, or continue the one of this name: `python tuning/sweep.py`, without its last stage.

    It runs in a private Ray that ends with the call, or on the cluster at RAY_ADDRESS, which this process then has to
    outlive; the command becomes a job of the cluster instead.

    Args:
        preset, gan, method, dataset, data_dir, settings: as `dasgm.api.search` has them, of all searches. A setting
            that is given does not vary.
        num_trials: number of searches. A larger number extends a sweep of this name.
        grace: number of epochs before a search can be stopped early, by default 2.
        space: Python function that proposes the settings that vary, as MODULE:FUNCTION.
        rank_by: score that ranks the searches: "proxy" or "naswot". None: the usual one of the search space.
        and_minimise: what is minimised besides: "none", "parameters", "multiply_adds" or "latency".
        workers_per_trial: number of processes that share one search.
        gpus_per_trial: number of GPUs of a search. None: one per worker if there are as many. "auto": as many searches
            share a GPU as fit into its memory.
        max_concurrent: largest number of searches at once. 0: as many as there is room for.
        pretrain: begin every search with the same pre-trained GAN; train it first if no run in `storage` has done so.
        storage: folder for all runs: a path, or an address such as s3://BUCKET/PREFIX.
        name: of the sweep, by default <preset>-<dataset>-s<seed>.
        time_budget: seconds after which no search is started and running ones stop; the same call continues them.
        wait: seconds to wait for room on a cluster.
        progress: print what happens. Otherwise nothing is printed.

    Raises:
        ValueError: input that cannot be used, a sweep in use, or one that began with other settings: one line.
        cluster.connection.Failed: Ray failed, or no search came to its end. The same call tries again.
        KeyboardInterrupt: Ctrl-C. Every whole epoch is saved, and the same call continues.
    """
    asked = dict(locals())
    chosen = choose_search(str(preset), gan=gan, method=method, dataset=dataset, data_dir=data_dir)
    chosen = replace(chosen, config=for_a_sweep(chosen.config)).changed(settings)
    told = {one.name: asked[one.name] for one in fields(Options) if asked.get(one.name) is not None}
    options: Options = override(Options(chosen.config), told | {"storage": storage_here(storage, name)})
    ensure_ranked(options.config)
    said = "" if grace is None else options.look_at_grace()
    command = shell_line(["python", "-c", call(sweep, asked)])
    made = Sweep(chosen, options, options.plan(chosen.given), command)
    with nullcontext() if progress else redirect_stdout(io.StringIO()):
        if said:
            say_now(said)
        complete = made.make()
    return _result(made, complete)


def _result(made: Sweep, complete: bool) -> SweepResult:
    """What came of a sweep. Failed, KeyboardInterrupt: see `sweep`."""
    from dasgm.pages.view import ranking, read_trials

    if not complete and not made.out_of_time:
        if made.interrupted:
            raise KeyboardInterrupt(f"every whole epoch is saved in {lies_at(made.folder)}; the same call goes on")
        raise Failed(f"sweep {lies_at(made.folder)}: {made.why()}")
    ranked = ranking(read_trials(made.folder), made.plan.objective)
    if complete and not any(one.rank for one in ranked):
        reasons = (str(one.run.info.get("reason") or one.run.state) for one in ranked)
        raise Failed(f"sweep {lies_at(made.folder)}: no search finished; the first one: {next(reasons, 'none began')}")
    return SweepResult(made.folder, made.plan.rank_by, tuple(map(_trial, ranked)))


def _trial(one: Ranked) -> SweepTrial:
    run = one.run
    finished = one.rank is not None and run.genotype is not None
    return SweepTrial(
        run.folder.name,
        run.folder,
        run.state,
        MappingProxyType(run.parameters),
        one.value,
        one.rank,
        one.tie,
        SearchResult.read(run.folder) if finished else None,
    )
