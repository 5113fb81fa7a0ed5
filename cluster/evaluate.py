"""Genotypes trained from scratch with several seeds, side by side, each a Ray Train job.

python cluster/evaluate.py DARTS_V2 runs/mine --dataset cifar10 --seeds 4
python cluster/evaluate.py --from-sweep NAME --top 2 --dataset imagenet --data-dir FOLDER
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster import connection, job
from cluster.driver import attempt, payload
from cluster.handover import HELP, hand_over
from cluster.patience import answered, say_now
from cluster.room import Workers, gave_up
from cluster.stores import ensure_known
from cluster.winners import Candidate, named, of_sweep
from dasgm.cli import again
from dasgm.cli.arguments import fail, flattened, parse, take
from dasgm.cli.catalogue import show_config
from dasgm.cli.evaluate import OF_WHAT, configured, recipes_help
from dasgm.cli.settings import check_time_budget
from dasgm.config import key_of, mathematics, to_json
from dasgm.genotype import KNOWN
from dasgm.pages.tables import errors
from dasgm.pages.view import read_trials
from dasgm.recipes import EvaluateConfig
from dasgm.store.bucket import lies_at, local
from dasgm.store.files import first_line, shell_line, write_atomic
from dasgm.store.records import FORMAT, amend, another, digest, ensure_only, first_difference, kept_record
from dasgm.store.replica import discard, following, refresh
from dasgm.store.run import Run

PLACES = ("--recipe", "--dataset", "--data-dir", "--storage", "--workers", "--from-sweep", "--top")
IMAGENET_WORKERS = 8


@dataclass(frozen=True)
class Options:
    """Which evaluations, where they lie, what each asks of the cluster, and their settings."""

    config: Any
    seeds: int = 1
    """Number of trainings of each genotype, with seeds from --seed on."""
    workers: int = 1
    """Number of processes that share one training and the recipe's batch. For imagenet, where there are GPUs: 8."""
    gpus: float | None = None
    """Number of GPUs of all workers of a training together. None takes one for each worker if there are as many."""
    cpus_per_worker: float = 1.0
    """Number of CPUs of each worker. Ray Data needs CPUs that no worker has."""
    max_concurrent: int = 0
    """Largest number of trainings at once; 0 is as many as the machine or cluster has room for."""
    loader: Literal["ray", "torch"] = "ray"
    """Reader of photographs that are streamed (imagenet): Ray Data on all CPUs, or a DataLoader in each worker."""
    prefetch: int = 0
    """Number of batches that Ray Data prepares ahead for each worker, which bounds its memory.
    The default 0 is three for each CPU of the worker's share."""
    storage: Path = Path("runs")
    """Folder in which all runs lie: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the folder of all trainings; by default <genotypes>-<recipe>-<dataset>. The same name continues them."""
    time_budget: float | None = None
    """Seconds after which no more work is begun and running work is stopped, to be continued by the same command."""
    wait: float = 1800.0
    """Seconds to wait for room on a joined cluster (RAY_ADDRESS), at the beginning and after a machine is lost."""
    dry_run: bool = False
    """Print the configuration and what the trainings would cost, and start nothing."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"seeds {self.seeds}: expected at least 1")
        if self.max_concurrent < 0:
            raise ValueError(f"max-concurrent {self.max_concurrent}: expected 1 or more, or 0 for as many as fit")
        if self.prefetch < 0 or self.prefetch == 1:
            raise ValueError(f"prefetch {self.prefetch}: expected at least 2 batches, or 0 for three a CPU")
        if self.prefetch and self.loader == "torch":
            raise ValueError(f"prefetch {self.prefetch} is of --loader ray: leave it out")
        check_time_budget(self.time_budget)

    @property
    def over_ray(self) -> bool:
        """Whether Ray Data loads the images."""
        return self.loader == "ray" and self.config.data.streamed


@dataclass(frozen=True)
class Evaluation:
    """One genotype with one seed."""

    candidate: Candidate
    config: EvaluateConfig

    @property
    def name(self) -> str:
        return f"{self.candidate.name}-s{self.config.seed}"

    @property
    def digest(self) -> str:
        return digest(self.candidate.genotype.to_json())


class Group:
    """The evaluations of one command and the folder that they lie in: sweep.json, table.md, a folder each."""

    def __init__(self, candidates: Sequence[Candidate], recipe: str, options: Options, name: str, command: str):
        self.candidates, self.recipe, self.options, self.command = candidates, recipe, options, command
        self.config: EvaluateConfig = options.config
        self.folder = (options.storage / (options.name or name)).absolute()
        self.scratch = self.folder / ".ray"  # Ray's own notes while it runs
        seeds = range(self.config.seed, self.config.seed + options.seeds)
        self.evaluations = [  # seed by seed, so that what there is when it is cut short can be compared
            Evaluation(one, replace(self.config, seed=seed)) for seed in seeds for one in candidates
        ]
        self.link: str | None = None
        self._said: dict[str, int] = {}

    def workers(self) -> Workers:
        """Of each evaluation. ValueError: more than there is, or they leave Ray Data none of this machine's CPUs."""
        options, gpus = self.options, self.options.gpus
        if gpus is None and connection.joined() and self.config.data.streamed:
            gpus = float(options.workers)
        workers = job.workers_for(options.workers, gpus, options.cpus_per_worker, options.wait)
        if options.over_ray and workers.private:
            job.leave_for_data(workers, connection.cpus())
        return workers

    def at_once(self, workers: Workers, slots: int, cpus: float) -> int:
        """How many run side by side of the `slots` that fit; Ray Data needs one of the `cpus` beside them."""
        if self.options.over_ray:
            job.leave_for_data(workers, cpus)
            slots = min(slots, replace(workers, gpus=0.0).slots(cpus - 1 + 1e-6, 0))
        return max(1, min(slots, self.options.max_concurrent or slots, len(self.evaluations)))

    def look_at_data(self, workers: Workers) -> Any:
        """The data set, read once here, so that what is wrong with it is said before anything starts."""
        from dasgm.jobs.evaluate import enough, fits

        job.ensure_device(self.config, workers)
        data = self.config.data.open(self.config.data_dir, "cpu")
        enough(data, self.config, workers.number)
        for one in self.candidates:
            fits(one.genotype, self.config, data)
        return data

    def begin(self, data: Any, workers: Workers) -> None:
        """Write sweep.json, or compare with what the folder began with. ValueError names what differs."""
        asked = {name: value for name, value in mathematics(self.config).items() if name != "seed"}
        asked |= {"workers": workers.number, "data": data.digest}
        ensure_only(self.folder, "sweep.json")
        begun = kept_record(self.folder / "sweep.json")
        if begun and begun.get("kind") != "evaluations":
            raise ValueError(f"{self.folder} is a sweep of searches; use another --name")
        if begun and (key := first_difference(begun.get("mathematics", {}), asked)):
            raise another(str(self.folder), key, begun.get("mathematics", {}), asked)
        for one in self.evaluations:
            known = Run(self.folder / one.name).about.get("mathematics", {}).get("genotype", one.digest)
            if known != one.digest:
                raise ValueError(f"{self.folder / one.name} began with another genotype; use another --name")
        record = {"format": FORMAT, "kind": "evaluations", "started": time.time(), "mathematics": asked}
        now: dict[str, Any] = {
            "name": self.folder.name,
            "state": "running",
            "reason": "",
            "ended": None,
            "preset": self.recipe,
        }
        now |= {"dataset": key_of(self.config.data), "seed": self.config.seed, "seeds": self.options.seeds}
        now |= {"command": self.command, "config": to_json(self.config), "objective": "result/error"}
        now["machine"] = connection.machine()
        self.note(**(record | begun | now))

    def note(self, **changes: Any) -> None:
        """Change entries of sweep.json."""
        amend(self.folder / "sweep.json", **changes)

    def state(self, one: Evaluation) -> str:
        return str(Run(self.folder / one.name).about.get("state", ""))

    def run(self, workers: Workers, deadline: float) -> bool:
        """Run what is left until `deadline`; whether all came to their end."""
        from cluster.tracking import MlflowSync

        left = [one for one in self.evaluations if self.state(one) != "finished"]
        mirror = MlflowSync(self.folder).start()
        try:
            with following(self.folder):
                if left:
                    print(f"starting Ray: {len(left)} of {len(self.evaluations)} evaluations to run", flush=True)
                    with connection.connected(workers) as slots:
                        self._side_by_side(left, workers, slots, mirror.kick, deadline)
        finally:
            discard(self.scratch)
            states = [self._settled(one) for one in self.evaluations]
            over = "interrupted" if {"", "interrupted"} & set(states) else "finished"
            write_atomic(self.folder / "table.md", f"`{self.command}`\n\n{self.table()}")
            self.note(state=over, ended=time.time())
            if missing := mirror.stop(20):
                print(missing)
        self.link = mirror.link
        return over == "finished"

    def _settled(self, one: Evaluation) -> str:
        """Its state, once nothing runs."""
        if self.state(one) in ("running", "waiting"):
            Run(self.folder / one.name).note(state="interrupted", reason="with the others", ended=time.time())
        return self.state(one)

    def _side_by_side(
        self,
        left: Sequence[Evaluation],
        workers: Workers,
        slots: int,
        kick: Callable[[], None],
        deadline: float,
    ) -> None:
        """Each a Ray task, which holds nothing itself and has a Ray Train run of its own."""
        import ray

        cpus = ray.cluster_resources().get("CPU", 0.0)
        at_once = self.at_once(workers, slots, cpus)
        share = cpus / (workers.number * at_once)
        prefetch = (self.options.prefetch or max(2, math.ceil(3 * share))) if self.options.over_ray else 0
        task = ray.remote(num_cpus=0, max_retries=0)(one_evaluation)
        waiting, running, room = deque(left), dict[Any, Evaluation](), True
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < at_once and room:
                one = waiting.popleft()
                running[task.remote(self._payload(one, prefetch), workers, lies_at(self.scratch))] = one
            done, _ = ray.wait(list(running), timeout=0.5)
            if self._listen() or done:
                kick()
            for ref in done:
                room = not gave_up(self._ended(running.pop(ref), ref))
            if not room and not running:
                return  # the others would wait in vain too

    def _ended(self, one: Evaluation, ref: Any) -> str:
        """Tell how one ended; '' or why not well."""
        import ray

        try:
            error = ray.get(ref)
        except ray.exceptions.RayError as found:  # the task's process is gone
            error = first_line(found)
        refresh(self.folder / one.name)
        reason = error or Run(self.folder / one.name).about.get("reason", "")
        print(f"{one.name}: {self.state(one)} {reason}".rstrip(), flush=True)
        return reason

    def _payload(self, one: Evaluation, prefetch: int) -> dict[str, Any]:
        folder = self.folder / one.name
        self._said.setdefault(one.name, len(Run(folder).said()))
        about: dict[str, Any] = {"name": one.name, "title": one.name, "command": self.command, "recipe": self.recipe}
        about |= {"genotype": one.candidate.source, "searched": one.candidate.searched}
        about["parameters"] = {"row": one.candidate.name, "seed": one.config.seed}
        begun: dict[str, Any] = {"state": "waiting", "reason": "", "fatal": "", "asked": time.time(), "ended": None}
        Run(folder).note(**about, kind="evaluation", **begun)
        asked = payload(one.config, folder, self.options.storage / "cache", about)
        return asked | {"genotype": one.candidate.genotype.to_json(), "prefetch": prefetch}

    def _listen(self) -> bool:
        """Print what the workers said since; whether there was anything."""
        new = False
        for name, told in self._said.items():
            lines = Run(self.folder / name).said()
            for line in lines[told:]:
                print(f"{name}: {line}", flush=True)
            self._said[name], new = len(lines), new or len(lines) > told
        return new

    def table(self) -> str:
        """Test error of each genotype, as Markdown."""
        names = {one.name for one in self.evaluations}
        runs = [run for run in read_trials(self.folder) if run.folder.name in names]
        return errors(runs, [one.name for one in self.candidates], self.options.seeds)


def one_evaluation(asked: dict[str, Any], workers: Workers, scratch: str) -> str:
    """One evaluation as a Ray Train run in its own folder; '' or why it did not come to its end."""
    return attempt(job.evaluate, asked, workers, local(scratch))


def asked(argv: Sequence[str], prog: str = "python cluster/evaluate.py") -> Group:
    """The evaluations that a command line asks for. ValueError: no genotypes, or ones that there are not."""
    values, sources, rest = take(argv, PLACES, len(argv))
    if {"-h", "--help"} & set(argv):
        sources = sources or ["DARTS_V2"]
    sweep, storage = values.get("--from-sweep", ""), local(values.get("--storage", "runs"))
    if bool(sweep) == bool(sources):
        raise ValueError("name genotypes (a file, a run's folder, or one of " + ", ".join(KNOWN) + ") or --from-sweep")
    if "--top" in values and not sweep:
        raise ValueError("--top is of a sweep: name it with --from-sweep")
    top = _whole("--top", values.get("--top", "1"))
    candidates = of_sweep(sweep, storage, top) if sweep else named(sources)
    ran = next((one.config for one in candidates if one.config), {})
    workers = _whole("--workers", values.get("--workers") or str(_default_workers(configured(values, ran)[1])))
    own_batch = any(word.partition("=")[0] in ("--batch-size", "--batch_size") for word in rest)
    recipe, config = configured(values, ran, 1 if own_batch else workers)
    about = (
        f"Train genotypes from scratch, side by side. To continue, run the same command. {HELP}"
        f"\n- GENOTYPE...: {OF_WHAT}"
        "\n- --from-sweep NAME: Sweep whose best genotypes are trained instead."
        "\n- --top NUMBER: How many of that sweep's genotypes are trained, the best first; 1 by default."
        f"{recipes_help()}"
    )
    placed = [f"--storage={storage}", f"--workers={workers}"]
    options = parse(flattened(Options, EvaluateConfig), [*rest, *placed], Options(config), prog, about, PLACES)
    few = [one.name for one in candidates[:2]]
    few += [f"and-{len(candidates) - 2}"] if len(candidates) > 2 else []
    first = [f"{Path(sweep).name}-top{top}"] if sweep else few
    name = "-".join(dict.fromkeys([*first, recipe, key_of(options.config.data)]))
    return Group(candidates, recipe, options, name, again.called(argv, "cluster/evaluate.py"))


def _default_workers(config: EvaluateConfig) -> int:
    """Where there are GPUs, ImageNet's eight, or as many as this machine has."""
    if not config.data.streamed:
        return 1
    return IMAGENET_WORKERS if connection.joined() else min(IMAGENET_WORKERS, max(1, connection.visible_gpus()))


def _whole(flag: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{flag} {text}: expected a whole number, at least 1")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit codes: 0 done, 1 one failed, 2 the user's mistake, 130 stopped."""
    begun, words = time.monotonic(), sys.argv[1:] if argv is None else list(argv)
    if (code := hand_over("cluster.evaluate", words)) is not None:
        return code
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        group = asked(words)
    except (ValueError, OSError) as error:
        fail(error)
    show_config(group.config)
    try:
        with answered():
            return _dry_run(group) if group.options.dry_run else _run(group, begun)
    except (ValueError, OSError) as error:
        fail(error)
    except connection.Failed as error:
        fail(error, 1)
    except KeyboardInterrupt:
        say_now(f"stopped; every whole epoch is saved in {lies_at(group.folder)}. To continue: {group.command}")
        return 130


def _dry_run(group: Group) -> int:
    from dasgm.cli.estimate import describe_training

    workers = group.workers()
    at_once = group.at_once(workers, max(1, connection.slots_here(workers)), connection.cpus())
    first, runs = group.candidates[0], len(group.evaluations)
    print(describe_training(first.genotype, group.config, workers.number, runs, at_once))
    return 0


def _run(group: Group, begun: float) -> int:
    ensure_known()
    budget = group.options.time_budget
    say_now(f"{len(group.evaluations)} evaluations by {group.recipe}, in {lies_at(group.folder)}")
    for one in group.candidates:
        say_now(f"  {one.name}: {one.source}")
    workers = group.workers()
    data = group.look_at_data(workers)
    for line in (data.describe(), *data.notes):
        say_now(line)
    with Run(group.folder):
        refresh(group.folder, 1)
        group.begin(data, workers)
        complete = group.run(workers, math.inf if budget is None else begun + budget)
    _show(group)
    if not complete:
        say_now(f"not every evaluation came to its end. To continue: {group.command}")
        return 0 if budget is not None and time.monotonic() - begun >= budget else 1
    return 1 if any(group.state(one) == "failed" for one in group.evaluations) else 0


def _show(group: Group) -> None:
    from cluster.tracking import address, ui_command

    storage = group.folder.parent
    print(f"\n{group.table()}")
    say_now(f"the same in {group.folder / 'table.md'}")
    say_now(f"everything lies in {lies_at(group.folder)}")
    done = [one for one in group.evaluations if group.state(one) == "finished"]
    for one in done:
        say_now(f"  {one.name}: {group.folder / one.name / 'report.html'}")
    if done:
        say_now(f"try one: {shell_line(['dasgm', 'predict', group.folder / done[0].name, 'PICTURE'])}")
    if group.link:
        serve = ui_command(storage)
        say_now(f"  {serve + ' & ' if serve else ''}# then open {address(group.link, storage)}")


if __name__ == "__main__":
    from cluster.evaluate import main as installed  # so that what is pickled names a module, not __main__

    raise SystemExit(installed())
