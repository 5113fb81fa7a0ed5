"""A sweep of searches: Ray Tune runs them, Optuna proposes them, MLflow mirrors them. The only Tuner.

python tuning/sweep.py                                         the quickstart: digits, minutes on two cores
python tuning/sweep.py --dataset folder --data-dir PICTURES    the same on your own pictures
python tuning/sweep.py --name NAME ...                         the same command again continues
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster import connection, job
from cluster.driver import AGAIN, attempt, look_at_data, payload, pretrained_first
from cluster.handover import HELP, hand_over
from cluster.patience import answered, say_now, told
from cluster.room import Workers, driver
from cluster.stores import ensure_known
from dasgm.cli import again
from dasgm.cli.arguments import fail, flattened, parse
from dasgm.cli.catalogue import show_config
from dasgm.cli.settings import BEFORE, Chosen, choose, parts_help, placed
from dasgm.config import SearchConfig, mathematics, override, to_json
from dasgm.store.bucket import lies_at, local
from dasgm.store.files import printable, shell_line
from dasgm.store.records import FORMAT, amend, another, ensure_only, first_difference, kept_record, read_json
from dasgm.store.replica import discard, following
from dasgm.store.run import NOT_WRITTEN, Run, not_written
from tuning import spaces
from tuning.options import Options, Placement
from tuning.outcome import own_pictures, show
from tuning.plan import Plan


class Sweep:
    """A sweep's folder, what it began with, and the run of what is left of it."""

    def __init__(self, chosen: Chosen, options: Placement, plan: Plan, command: str):
        self.base, self.options, self.preset, self.plan = chosen.config, options, chosen.preset, plan
        self.command, self.given = command, plan.given
        self.dataset, self.published = chosen.dataset, chosen.published
        self.folder = (options.storage / (options.name or chosen.name())).absolute()
        self.cache = options.storage.absolute() / "cache"
        self.scratch = self.folder / ".ray"  # Ray's own notes while it runs; the run folders are the truth
        self.link: str | None = None
        self.interrupted = False
        """By Ctrl-C."""

    def compare(self, pretrained: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """The record of the sweep of this name, {} where there is none, and what its mathematics are to be.

        One that was begun by a version whose default space varied given settings too goes on with that space.
        `pretrained`: whether the file of the GAN to begin with is there already.

        Raises:
            ValueError: it began otherwise, or its space has changed; names what differs. Or the folder holds a run.
        """
        from dasgm.pretrained import read
        from tuning.asking import ensure_same_space

        ensure_only(self.folder, "sweep.json")
        begun = kept_record(self.folder / "sweep.json")
        known = begun.get("mathematics", {})
        if begun and "fixed" in self.plan.identity and "fixed" not in known:
            self.plan = self.plan.varying_all()
        asked = mathematics(self.base) | self.plan.identity
        asked["workers_per_trial"] = self.options.workers_per_trial  # each adds a batch
        asked["method.epochs"] = self.base.method.epochs  # unlike one search: trials of a sweep are compared
        if self.base.gan_checkpoint:
            asked["gan_checkpoint"] = read(self.base.gan_checkpoint).digest
        if not pretrained:
            known = {key: value for key, value in known.items() if key != "gan_checkpoint"}
        if begun and (key := first_difference(known, asked)):
            if key == "fixed":
                one, other = (_listed(its["fixed"]) for its in (known, asked))
                raise ValueError(
                    f"sweep {self.folder}: it began with these settings fixed as given: {one}; now: {other}; give the "
                    "same ones, or use another --name"
                )
            raise another(f"sweep {self.folder}", key, known, asked)
        ensure_same_space(self.folder, self.plan, self.base, pretrained)
        return begun, asked

    def about_space(self) -> list[str]:
        """What the sweep varies and keeps, for who starts it."""
        if "space" not in self.plan.identity:
            return []  # a table's rows
        lines = [spaces.described(self.plan.space_name, self.base, self.plan.given)]
        if not self.plan.space_name and self.plan.given != self.given and spaces.fixed(self.base, self.given):
            lines.append(
                "this sweep was begun by an older version, which varied given settings too, and goes on with its "
                "space; with another --name they are kept"
            )
        if not self.plan.space_name and self.plan.num_trials > 1 and not spaces.varied(self.base, self.plan.given):
            lines.append(
                f"the {self.plan.num_trials} searches have the same settings and seed: --num-trials 1 gives the same "
                "result; tuning/reproduce.py compares seeds"
            )
        return lines

    def begin(self) -> None:
        """Write sweep.json, or compare with what the sweep of this name began with. ValueError names what differs."""
        begun, asked = self.compare()
        if not begun and (self.folder / "study.db").exists():
            raise ValueError(
                f"sweep {self.folder} has a study, and no sweep.json that says what it is of: put it back, or use "
                "another --name"
            )
        record = {"format": FORMAT, "name": self.folder.name, "started": time.time(), "mathematics": asked}
        now = {
            "state": "running",
            "reason": "",
            "ended": None,
            "preset": self.preset,
            "dataset": self.dataset,
            "seed": self.base.seed,
            "command": self.command,
            "num_trials": self.plan.num_trials,
            "objective": "best/proxy",
            "space": " ".join(self.about_space()[:1]),
            "config": to_json(self.base),
            "machine": connection.machine(),
        }
        self.note(**(record | begun | now))

    def note(self, **changes: Any) -> None:
        """Change entries of sweep.json."""
        amend(self.folder / "sweep.json", **changes)

    def why(self) -> str:
        """What kept a search from its end, in one line."""
        from dasgm.pages.view import read_trials

        cut = (run for run in read_trials(self.folder) if run.state == "interrupted" and run.info.get("reason"))
        return next((f"{run.title}: {run.info['reason']}" for run in cut), "")

    def pretrain(self, workers: Workers) -> None:
        """Make the pre-trained GAN that the searches begin with, unless it is there."""
        options = self.options
        self.base = pretrained_first(self.base, options.storage, workers, self.command)

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

    def run(self, workers: Workers) -> bool:
        """Run what is left; whether every trial came to its end."""
        from cluster.tracking import ENVIRONMENT, MlflowSync
        from dasgm.pages.report import report
        from tuning.asking import open_study, searches
        from tuning.trials import settle

        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # Tune imports mlflow too, and earlier
        study, mirror = open_study(self.folder), MlflowSync(self.folder).start()

        def begun() -> list[bool]:
            return [trial.state.is_finished() for trial in searches(study.get_trials(deepcopy=False))]

        left = self.plan.num_trials - sum(begun())
        try:
            with following(self.folder):
                if left > 0:
                    print("starting Ray", flush=True)
                    with connection.connected(workers) as slots:
                        self._tune(study, left, workers, slots, mirror.kick)
        finally:
            discard(self.scratch)
            settle(self.folder)
            complete = len(begun()) >= self.plan.num_trials and all(begun())
            self.note(state="finished" if complete else "interrupted", ended=time.time())
            report(self.folder)
            if missing := mirror.stop(20):
                print(missing)
        self.link = mirror.link
        return complete

    def _tune(self, study: Any, left: int, workers: Workers, slots: int, kick: Callable[[], None]) -> None:
        with told("starting Ray Tune", lambda: "Python to import it"):
            from ray import tune
            from ray.tune.execution import class_cache

            from tuning.table import Board
            from tuning.trials import Halving, Janitor, Proposer, Waiter

        epochs, options, plan = self.base.method.total_epochs, self.options, self.plan
        at_once = min(slots, options.max_concurrent or slots)
        halving = Halving(plan.rungs)
        proposer = Proposer(study, self.folder, self.base, plan, halving, self.describe)
        discard(self.scratch)  # of one that was killed
        # a machine has its own keys: these Tune would send it in the open, into Ray's logs and its dashboard
        class_cache.ENV_VARS_TO_PROPAGATE -= {n for n in class_cache.ENV_VARS_TO_PROPAGATE if n.startswith("AWS_")}
        asked = driver(workers)
        with Board(self.folder, epochs, plan.num_trials, at_once, plan.rungs):
            tuner = tune.Tuner(
                tune.with_resources(Trial(self.cache, self.scratch, workers), asked),
                tune_config=tune.TuneConfig(
                    num_samples=left,
                    max_concurrent_trials=at_once,
                    search_alg=proposer,
                    scheduler=halving,
                    time_budget_s=options.time_budget,
                    trial_dirname_creator=_dirname,
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    **job.notes_in(self.scratch, workers),
                    verbose=0,
                    callbacks=[Janitor(kick), Waiter(workers, asked)],
                    failure_config=tune.FailureConfig(max_failures=2),  # of a search's driver; of workers: `launch`
                ),
            )
            with connection.signals_kept():
                before = signal.getsignal(signal.SIGINT)
                tuner.fit()
                self.interrupted = signal.getsignal(signal.SIGINT) is before  # Tune's own stays until it caught one
        if proposer.gave_up:
            raise connection.Failed(f"{proposer.gave_up}; {AGAIN}")


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if isinstance(names, list) and names else "nothing"


class Trial:
    """A Tune trainable: one search as a Ray Train run in its own folder."""

    def __init__(self, cache: Path, scratch: Path, workers: Workers):
        self.cache, self.scratch, self.workers, self.__name__ = lies_at(cache), lies_at(scratch), workers, "search"

    def __call__(self, config: dict[str, Any]) -> None:
        from ray.tune.integration.ray_train import TuneReportCallback

        from dasgm.config import from_json

        folder, about = local(config["folder"]), json.loads(config["about"])
        asked = payload(from_json(json.loads(config["config"])), folder, local(self.cache), about)
        attempt(job.search, asked, self.workers, local(self.scratch), [TuneReportCallback()], retried=True)


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
    if not options.config.proxy.epochs:
        fail("proxy.epochs 0: expected at least 1, a sweep ranks by the proxy")
    try:
        options.look_at_grace(chosen.rest)
        last = last_stage_of(options)
    except (ValueError, OSError) as error:
        fail(error)
    command = again.called(words, "tuning/sweep.py")
    sweep = Sweep(replace(chosen, config=placed(options.config)), options, options.plan(chosen.given), command)
    code = carry_out(sweep)
    if code or options.dry_run:
        return code
    if options.then_imagenet:
        from tuning import last_stage

        finished = read_json(sweep.folder / "sweep.json").get("state") == "finished"
        return last_stage.train(sweep.folder, options.top, last, command) if finished else code
    if sweep.dataset != "folder":
        print(f"  {shell_line([*program, *own_pictures(words)])}")
    return code


def last_stage_of(options: Options) -> list[str]:
    """The settings of the training on ImageNet that follows, [] if there is none. ValueError: what is wrong with it."""
    if not options.then_imagenet:
        return []
    from tuning import last_stage  # with what it trains, seconds to import

    return last_stage.settings(options)


def carry_out(sweep: Sweep) -> int:
    """Run or continue a sweep and show what came of it; the command's exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = sweep.options
    try:
        with answered():
            return _dry_run(sweep) if options.dry_run else _run(sweep)
    except KeyboardInterrupt:
        say_now(f"stopped; what is done is in {lies_at(sweep.folder)}. To continue: {sweep.command}")
        return 130
    except connection.Failed as error:
        fail(error, 1)
    except Exception as error:
        if full := _unwritten(error):  # Optuna and Ray Tune have exceptions of their own for it
            fail(not_written(sweep.folder, full))
        if isinstance(error, ValueError | OSError):
            fail(error)
        raise


def _unwritten(error: BaseException | None) -> OSError | None:
    """What in an error's causes says that the disk is full or cannot be written, the study's SQLite included."""
    numbers = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
    while error is not None:
        number = error.errno if isinstance(error, OSError) else numbers.get(getattr(error, "sqlite_errorcode", 0) & 255)
        if number in NOT_WRITTEN:
            return OSError(number, os.strerror(number))
        error = error.__cause__ or error.__context__
    return None


def for_a_sweep(config: SearchConfig, holdout: bool = True) -> SearchConfig:
    """A tenth set aside as J_val, and a proxy, by which a sweep ranks; paper presets have neither when run alone."""
    if holdout and not config.data.holdout:
        config = override(config, {"data.holdout": 0.1})
    return config if config.proxy.epochs else override(config, {"proxy.epochs": 15})


def _dry_run(sweep: Sweep) -> int:
    from dasgm.cli.estimate import describe

    options = sweep.options
    show_config(sweep.base)
    sweep.compare(pretrained=not options.pretrain)
    for line in sweep.about_space():
        say_now(line)
    workers = job.workers_for(options.workers_per_trial, options.gpus_per_trial)
    slots = max(1, connection.slots_here(workers))
    at_once = min(slots, options.max_concurrent or slots)
    print(describe(sweep.base, sweep.plan.num_trials, at_once, options.workers_per_trial, options.pretrain))
    return 0


def _run(sweep: Sweep) -> int:
    options, begun = sweep.options, time.monotonic()
    say_now(
        f"sweep {sweep.folder.name}: {sweep.plan.num_trials} searches, preset {sweep.preset} on {sweep.dataset}, "
        f"in {lies_at(sweep.folder)}"
    )
    ensure_known()
    connection.prepare()  # a user's space may import Ray
    sweep.compare(pretrained=not options.pretrain)
    for line in sweep.about_space():
        say_now(line)
    workers = job.workers_for(options.workers_per_trial, options.gpus_per_trial, wait=options.wait)
    for line in look_at_data(sweep.base, workers, options.pretrain):
        say_now(line)
    if options.pretrain:
        sweep.pretrain(workers)
    with Run(sweep.folder):
        sweep.begin()
        complete = sweep.run(workers)
    finished = show(sweep)
    if not complete:
        say_now(f"not every search came to its end. To continue: {sweep.command}")
        if options.time_budget and time.monotonic() - begun >= options.time_budget:
            return 0
        if sweep.interrupted:
            return 130
        print(printable(f"error: {sweep.why() or 'it ended before its searches; see their logs'}"), file=sys.stderr)
        return 1
    return 0 if finished else 1


if __name__ == "__main__":
    from tuning.sweep import main as installed  # so that what is pickled names a module, not __main__

    raise SystemExit(installed())
