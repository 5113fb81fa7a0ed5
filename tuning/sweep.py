"""A sweep of searches: Optuna proposes them, Ray Tune runs them, and they are sent to MLflow. It makes the only Tuner.

python tuning/sweep.py                                         the quickstart: digits, minutes on two cores
python tuning/sweep.py --dataset folder --data-dir PICTURES    the same on your own pictures
python tuning/sweep.py --name NAME ...                         the same command again continues
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import connection, job
from cluster.driver import AGAIN, attempt, look_at_data, pretrained_first
from cluster.group import Group, carry_out
from cluster.handover import HELP, hand_over
from cluster.patience import say_now, told
from cluster.room import Workers, driver
from dasgm.api.choices import SearchChoice, placed
from dasgm.cli import again
from dasgm.cli.arguments import fail, flattened, parse
from dasgm.cli.catalogue import show_config
from dasgm.cli.settings import BEFORE, choose, parts_help
from dasgm.config import SearchConfig, mathematics, to_json
from dasgm.cpus import cpus
from dasgm.given import flags
from dasgm.measures.scores import SCORES
from dasgm.store.bucket import lies_at, local
from dasgm.store.files import shell_line
from dasgm.store.records import first_difference, read_json
from dasgm.store.replica import discard
from tuning import spaces
from tuning.options import Options, SweepOptions
from tuning.outcome import own_pictures, show
from tuning.plan import METRIC, Plan, ensure_ranked, for_a_sweep

if TYPE_CHECKING:
    import optuna


class Sweep(Group):
    """The searches of a sweep and the folder that they lie in."""

    what, one, many = "sweep", "search", "searches"

    def __init__(self, chosen: SearchChoice, options: SweepOptions, plan: Plan, command: str):
        super().__init__(options, chosen.name(), command)
        self.base, self.preset, self.plan = chosen.config, chosen.preset, plan
        self.given = plan.given
        self.dataset, self.published = chosen.dataset, chosen.published
        self.cache = options.storage.absolute() / "cache"
        self.pretrained = not options.pretrain
        """Whether the base configuration has the file of its pre-trained GAN, or needs none."""

    # ------------------------------------------------------------------------------------------------ before it runs

    @property
    def headline(self) -> str:
        return (
            f"sweep {self.folder.name}: {self.total} searches, preset {self.preset} on {self.dataset}, "
            f"in {lies_at(self.folder)}"
        )

    @property
    def total(self) -> int:
        return self.plan.num_trials

    def dry_run(self) -> None:
        from dasgm.jobs.estimate import describe

        options = self.options
        show_config(self.base)
        self.compare()
        for line in self.about():
            say_now(line)
        workers = job.workers_for(options.workers_per_trial, self.gpus())
        at_once = options.at_once(max(1, connection.slots_here(workers)))
        print(describe(self.base, self.total, at_once, options.workers_per_trial, options.pretrain))

    def check(self) -> Workers:
        options = self.options
        connection.set_environment()  # a user's space may import Ray
        self.compare()
        for line in self.about():
            say_now(line)
        workers = job.workers_for(options.workers_per_trial, self.gpus(), wait=options.wait)
        for line in look_at_data(self.base, workers, options.pretrain):
            say_now(line)
        if options.pretrain:
            self.pretrain(workers)
            self.pretrained = True
        return workers

    def gpus(self) -> float | None:
        """The GPUs of a search, if they are given or measured. ValueError: they cannot be measured."""
        options = self.options
        if options.gpus_per_trial != "auto":
            return options.gpus_per_trial
        from tuning.sharing import gpus_per_search

        at_once = options.at_once(min(self.total, cpus() // options.workers_per_trial))
        configs, workers = self.largest(), options.workers_per_trial
        found, line = gpus_per_search(configs, workers, max(1, at_once), options.pretrain)
        say_now(line)
        return found

    def largest(self) -> list[SearchConfig]:
        """Configurations among which is the one that takes most memory. ValueError: only the user's space knows it."""
        if name := self.plan.space_name:
            raise ValueError(
                f"gpus-per-trial auto: how much memory a search takes may vary with what {name} proposes; give a number"
            )
        return [replace(self.base, val_portion=0.0) if self.base.gan else self.base]  # no fewer images are generated

    def pretrain(self, workers: Workers) -> None:
        """Make the pre-trained GAN that the searches begin with, unless there is one."""
        self.base = pretrained_first(self.base, self.options.storage, workers, self.command)

    def compare(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Group`. Older versions varied given settings too; a sweep that one of them began keeps that space.

        Raises:
            ValueError: the sweep began otherwise, or its space has changed; what differs is named.
        """
        from tuning.asking import ensure_same_space

        begun = self.record()
        if not begun and (self.folder / "study.db").exists():
            raise ValueError(
                f"sweep {self.folder} has a study (study.db), but no sweep.json that says how it began: restore that "
                "file, or use another --name"
            )
        known = begun.get("mathematics", {})
        if begun and "fixed" in self.plan.identity and "fixed" not in known:
            self.plan = self.plan.varying_all()
        asked = self._mathematics()
        if not self.pretrained:
            known = {key: value for key, value in known.items() if key != "gan_checkpoint"}
        if begun:
            self.ensure_same(known, asked)
            self.plan = self.plan.ranked_as(begun, self.options.rank_by, self.folder)
        ensure_same_space(self.folder, self.plan, self.base, self.pretrained)
        return begun, asked

    def _mathematics(self) -> dict[str, Any]:
        """What may not differ when the sweep is continued."""
        from dasgm.pretrained import read

        asked = mathematics(self.base) | self.plan.identity
        asked["workers_per_trial"] = self.options.workers_per_trial  # each adds a batch
        asked["method.epochs"] = self.base.method.epochs  # may change in a single search, but trials are compared
        if self.base.gan_checkpoint:
            asked["gan_checkpoint"] = read(self.base.gan_checkpoint).digest
        return asked

    def ensure_same(self, known: dict[str, Any], asked: dict[str, Any]) -> None:
        if first_difference(known, asked) == "fixed":
            before, now = (_listed(its["fixed"]) for its in (known, asked))
            raise ValueError(
                f"sweep {self.folder}: it began with these settings fixed as given: {before}; now: {now}; give the "
                "same ones, or use another --name"
            )
        super().ensure_same(known, asked)

    def about(self) -> list[str]:
        """Lines that say what the sweep varies, what it keeps, and what ranks it."""
        line = f"ranked by {self.plan.rank_by} (--rank-by): {SCORES[self.plan.rank_by].title}"
        stopped = f"; stopped early by {METRIC}, the accuracy of the supernet" if self.plan.rungs else ""
        if self.plan.second:
            stopped = f"; {self.plan.second} is minimised besides, so no search is stopped early"
        return [*self.about_space(), line + stopped]

    def about_space(self) -> list[str]:
        """Lines that say what the sweep varies and what it keeps."""
        if "space" not in self.plan.identity:
            return []  # the rows of a table
        lines = [spaces.described(self.plan.space_name, self.base, self.plan.given)]
        if not self.plan.space_name and self.plan.given != self.given and spaces.fixed(self.base, self.given):
            lines.append(
                "this sweep was begun by an older version, which varied given settings too, and keeps that space; "
                "with another --name given settings are kept"
            )
        if not self.plan.space_name and self.plan.num_trials > 1 and not spaces.varied(self.base, self.plan.given):
            lines.append(
                f"the {self.plan.num_trials} searches have the same settings and seed: --num-trials 1 gives the same "
                "result; tuning/reproduce.py compares seeds"
            )
        return lines

    def entries(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "dataset": self.dataset,
            "seed": self.base.seed,
            "num_trials": self.total,
            "objective": self.plan.objective,
            **({"and_minimise": self.plan.second.removeprefix("best/")} if self.plan.second else {}),
            "space": " ".join(self.about_space()[:1]),
            "config": to_json(self.base),
        }

    # ------------------------------------------------------------------------------------------------ while it runs

    @cached_property
    def study(self) -> optuna.Study:
        from tuning.asking import open_study

        return open_study(self.folder, self.plan.second)

    def outcomes(self) -> list[bool]:
        """Of each search that was begun, whether it came to its end."""
        from tuning.asking import searches

        return [trial.state.is_finished() for trial in searches(self.study.get_trials(deepcopy=False))]

    def left(self) -> int:
        return max(0, self.total - sum(self.outcomes()))

    def describe(self, name: str, title: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Entries of a trial's run.json."""
        return {
            "name": name,
            "title": title,
            "sweep": self.folder.name,
            "parameters": parameters,
            "command": self.command,
            "published": self.published,
        }

    def work(self, workers: Workers, slots: int, kick: Callable[[], None]) -> None:
        """Ray Tune starts each search as a trial, which starts a Ray Train run."""
        with told("starting Ray Tune", lambda: "Python to import it"):
            from ray import tune
            from ray.tune.execution import class_cache

            from tuning import reuse
            from tuning.callbacks import Janitor, Waiter
            from tuning.halving import Halving
            from tuning.table import Board
            from tuning.trials import Proposer

        epochs, options, plan, left = self.base.total_epochs, self.options, self.plan, self.left()
        at_once = options.at_once(slots)
        halving = Halving(plan.rungs)
        proposer = Proposer(self.study, self.folder, self.cache, self.base, plan, halving, self.describe)
        discard(self.scratch)  # what a killed sweep left
        # each machine has its own keys; Tune would send these to it, readable in Ray's logs and dashboard
        class_cache.ENV_VARS_TO_PROPAGATE -= {n for n in class_cache.ENV_VARS_TO_PROPAGATE if n.startswith("AWS_")}
        if workers.private:  # its processes have the environment of this one, and those that Ray has made ahead fit
            class_cache.ENV_VARS_TO_PROPAGATE.clear()
            class_cache.DEFAULT_ENV_VARS.clear()
        reuse.mend()
        asked = driver(workers)
        with Board(self.folder, epochs, at_once, plan):
            tuner = tune.Tuner(
                tune.with_resources(Trial(self.scratch, workers), asked),
                tune_config=tune.TuneConfig(
                    num_samples=left,
                    max_concurrent_trials=at_once,
                    search_alg=proposer,
                    scheduler=halving,
                    time_budget_s=options.time_budget,
                    reuse_actors=True,
                    trial_dirname_creator=_dirname,
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    **job.notes_in(self.scratch, workers),
                    verbose=0,
                    callbacks=[Janitor(kick), Waiter(workers, asked)],
                    failure_config=tune.FailureConfig(max_failures=2),  # of drivers; `launch` has those of workers
                ),
            )
            with connection.signals_kept():
                before = signal.getsignal(signal.SIGINT)
                tuner.fit()
                # Tune's own handler stays, unless it caught a Ctrl-C
                self.interrupted = signal.getsignal(signal.SIGINT) is before
        if proposer.gave_up:
            raise connection.Failed(f"{proposer.gave_up}; {AGAIN}")

    # ------------------------------------------------------------------------------------------------ after it ran

    def settle(self) -> bool:
        from tuning.trials import settle

        settle(self.folder)
        outcomes = self.outcomes()
        return len(outcomes) >= self.total and all(outcomes)

    def write_pages(self) -> None:
        from tuning.pictures import write_pages

        write_pages(self.folder, *self.plan.objectives)

    def show(self) -> bool:
        return show(self)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "nothing"


class Trial:
    """A Tune trainable: one search as a Ray Train run in its own folder. Its configuration is the run's payload."""

    def __init__(self, scratch: Path, workers: Workers):
        self.scratch, self.workers, self.__name__ = lies_at(scratch), workers, "search"

    def __call__(self, config: dict[str, Any]) -> None:
        attempt(job.search, config, self.workers, local(self.scratch), [_reporter()])


def _reporter() -> Any:
    """A callback of Ray Train that hands the reports of the workers to Ray Tune; for the trial's driver."""
    import ray.train

    class Reporter(ray.train.UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            from ray import tune

            tune.report(metrics[0])

    return Reporter()


def _dirname(trial: Any) -> str:
    return trial.trial_id


def main(argv: list[str] | None = None) -> int:
    """The command; exit codes: 0 done, 1 failed, 2 the user's mistake, 130 stopped."""
    words = sys.argv[1:] if argv is None else list(argv)
    if (code := hand_over("tuning.sweep", words)) is not None:
        return code
    try:
        chosen = choose(words, positional=False)
        chosen = replace(chosen, config=for_a_sweep(chosen.config))
    except ValueError as error:
        fail(error)
    about = f"Sweep searches with Ray Tune and Optuna. To continue, run the same command. {HELP}"
    about += parts_help(positional=False)
    program = again.program(words, "tuning/sweep.py")
    options = parse(flattened(Options), chosen.rest, Options(chosen.config), shell_line(program), about, BEFORE)
    try:
        ensure_ranked(options.config)
        if "grace" in flags(chosen.rest) and (line := options.look_at_grace()):
            print(line)
        last = last_stage_of(options)
    except (ValueError, OSError) as error:
        fail(error)
    command = again.called(words, "tuning/sweep.py")
    sweep = Sweep(replace(chosen, config=placed(options.config)), options, options.plan(chosen.given), command)
    code = carry_out(sweep)
    if code or options.dry_run:
        return code
    if options.then_imagenet or options.then_train:
        from tuning import last_stage

        finished = read_json(sweep.folder / "sweep.json").get("state") == "finished"
        bound = [f"--at-most={options.at_most}"] if options.at_most else []
        return last_stage.train(sweep.folder, options.top, [*bound, *last], command) if finished else code
    if sweep.dataset != "folder":
        print(f"  {shell_line([*program, *own_pictures(words)])}")
    return code


def last_stage_of(options: Options) -> list[str]:
    """The settings of the training that follows; empty if none does. ValueError: what is wrong with it."""
    if not (options.then_imagenet or options.then_train):
        return []
    if options.top > options.num_trials:
        raise ValueError(f"top {options.top}: expected at most the {options.num_trials} searches there are")
    from tuning import last_stage  # with what it trains, seconds to import

    return last_stage.settings(options)


if __name__ == "__main__":
    from tuning.sweep import main as installed  # so that what is pickled names a module, not __main__

    raise SystemExit(installed())
