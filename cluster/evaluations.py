"""The evaluations of one command, side by side: each genotype with several seeds, each a Ray Train job."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from cluster import connection, job
from cluster.driver import attempt, payload
from cluster.group import CUT_OFF, Group
from cluster.options import GroupOptions, OnWorkers
from cluster.patience import say_now
from cluster.room import Workers, gave_up
from cluster.stores import ensure_model_name, one_line
from cluster.winners import Candidate
from dasgm.cli.catalogue import show_config
from dasgm.config import mathematics, to_json
from dasgm.cpus import cpus
from dasgm.pages.tables import errors
from dasgm.pages.view import read_trials
from dasgm.plugins import key_of
from dasgm.recipes import EvaluateConfig
from dasgm.store.bucket import lies_at, local
from dasgm.store.files import first_line, shell_line, write_atomic
from dasgm.store.records import digest
from dasgm.store.run import Run


@dataclass(frozen=True)
class Options(OnWorkers, GroupOptions):
    """Which evaluations, where they lie, what each asks of the cluster, and their settings."""

    workers: int = 1
    """Number of processes that share one training and the recipe's batch.
    The default is 1; for imagenet it is 8 on a cluster, else the number of GPUs, at most 8."""
    name: str = ""
    """Name of the folder of these trainings, by default <genotypes>-<recipe>-<dataset>.
    Trainings with this name are continued."""
    seeds: int = 1
    """Number of trainings of each genotype, with seeds from --seed on."""
    cpus_per_worker: float = 1.0
    """Number of CPUs of each worker. Ray Data needs at least one CPU that no worker has."""
    loader: Literal["ray", "torch"] = "ray"
    """Reader of streamed photographs of imagenet: Ray Data on all CPUs, or a DataLoader in each worker.
    Those of a large folder are read by a DataLoader."""
    prefetch: int = 0
    """Number of batches that Ray Data prepares ahead for each worker, which bounds its memory.
    The default 0 is three batches for each CPU of the worker's share."""

    register: str = ""
    """Model in MLflow's registry that gets a version of each trained network, as ONNX. By default none is registered.
    Its alias champion moves to one that a test on the same test pictures says is better."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.register:
            ensure_model_name(self.register)
        if self.seeds < 1:
            raise ValueError(f"seeds {self.seeds}: expected at least 1")
        if self.prefetch < 0 or self.prefetch == 1:
            raise ValueError(f"prefetch {self.prefetch}: expected at least 2 batches, or 0 for three per CPU")
        if self.prefetch and self.loader == "torch":
            raise ValueError(
                f"prefetch {self.prefetch}: only --loader ray prepares batches ahead; leave --prefetch out"
            )
        if self.prefetch and not self.over_ray:
            raise ValueError(
                f"prefetch {self.prefetch}: Ray Data reads data sets that are always streamed, such as imagenet, not "
                f"{key_of(self.config.data)}; leave --prefetch out"
            )

    @property
    def over_ray(self) -> bool:
        """Whether Ray Data loads the images."""
        return self.loader == "ray" and self.config.data.streamed


@dataclass(frozen=True)
class Evaluation:
    """One genotype or known network with one seed."""

    candidate: Candidate
    config: EvaluateConfig

    @property
    def name(self) -> str:
        return f"{self.candidate.name}-s{self.config.seed}"

    @property
    def digest(self) -> str:
        return digest(self.candidate.design.to_json())


class Evaluations(Group):
    """The evaluations and the folder that they lie in.

    Args:
        candidates: the genotypes and known networks.
        recipe: the name of the recipe that their configuration comes from.
        name, command: see `Group`.
    """

    kind = what = many = "evaluations"
    one = "evaluation"

    def __init__(self, candidates: Sequence[Candidate], recipe: str, options: Options, name: str, command: str):
        super().__init__(options, name, command)
        self.candidates, self.recipe = candidates, recipe
        self.config: EvaluateConfig = options.config
        seeds = range(self.config.seed, self.config.seed + options.seeds)
        self.evaluations = [  # seed by seed: if it is cut short, what there is can be compared
            Evaluation(one, replace(self.config, seed=seed)) for seed in seeds for one in candidates
        ]
        self.about: dict[str, Any] = {}
        """More entries of each run.json and of the folder's record."""
        self._said: dict[str, int] = {}
        """By evaluation, the number of its lines that were printed."""

    # ------------------------------------------------------------------------------------------------ before they run

    @property
    def headline(self) -> str:
        return f"{self.total} evaluations by {self.recipe}, in {lies_at(self.folder)}"

    @property
    def total(self) -> int:
        return len(self.evaluations)

    def workers(self) -> Workers:
        """The workers of each evaluation.

        Raises:
            ValueError: there are not so many, or they leave Ray Data none of this machine's CPUs.
        """
        options, gpus = self.options, self.options.gpus
        if gpus is None and connection.joined() and self.config.data.streamed:
            gpus = float(options.workers)
        workers = job.workers_for(options.workers, gpus, options.cpus_per_worker, options.wait)
        if options.over_ray and workers.private:
            job.leave_for_data(workers, cpus())
        return workers

    def at_once(self, workers: Workers, slots: int, cpus: float) -> int:
        """How many run side by side if there is room for `slots`; Ray Data needs one of the `cpus` as well."""
        if self.options.over_ray:
            job.leave_for_data(workers, cpus)
            slots = min(slots, replace(workers, gpus=0.0).slots(cpus - 1 + 1e-6, 0))
        return max(1, min(self.options.at_once(slots), self.total))

    @cached_property
    def data(self) -> Any:
        """The data set."""
        from dasgm.jobs.evaluate import opened

        return opened(self.config, "cpu")

    def look_at_data(self, workers: Workers) -> None:
        """ValueError if the data set, or a genotype on it, cannot be trained on by these workers."""
        from dasgm.bilevel import ensure_graph
        from dasgm.jobs.evaluate import enough, fits

        job.ensure_device(self.config, workers)
        ensure_graph(self.config.cuda_graph, "cuda" if workers.gpus else "cpu", workers.number)
        enough(self.data, self.config, workers.number)
        for one in self.candidates:
            fits(one.design, self.config, self.data)

    def look_at_registry(self) -> None:
        """ValueError if the trained networks are to be registered and could not be."""
        if self.options.register:
            from cluster.registry import ensure_possible

            ensure_possible(self.options.register, self.folder.parent)

    def dry_run(self) -> None:
        from dasgm.jobs.estimate import describe_training

        show_config(self.config)
        workers = self.workers()
        at_once = self.at_once(workers, max(1, connection.slots_here(workers)), cpus())
        print(describe_training(self.candidates[0].design, self.config, workers.number, self.total, at_once))

    def check(self) -> Workers:
        for one in self.candidates:
            say_now(f"  {one.name}: {one.source}")
        workers = self.workers()
        self.look_at_data(workers)
        self.look_at_registry()
        for line in (self.data.describe(), *self.data.notes):
            say_now(line)
        return workers

    def compare(self) -> tuple[dict[str, Any], dict[str, Any]]:
        asked = {name: value for name, value in mathematics(self.config).items() if name != "seed"}
        asked |= {"workers": self.options.workers, "data": self.data.digest}
        begun = self.record()
        if begun:
            self.ensure_same(begun.get("mathematics", {}), asked)
        for one in self.evaluations:
            kind = one.candidate.design.kind
            known = Run(self.folder / one.name).about.get("mathematics", {}).get(kind, one.digest)
            if known != one.digest:
                raise ValueError(f"{self.folder / one.name} began with another {kind}; use another --name")
        return begun, asked

    def entries(self) -> dict[str, Any]:
        return {
            "preset": self.recipe,
            "dataset": key_of(self.config.data),
            "seed": self.config.seed,
            "seeds": self.options.seeds,
            "config": to_json(self.config),
            "objective": "result/error",
            **self.about,
        }

    # ------------------------------------------------------------------------------------------------ while they run

    def state(self, one: Evaluation) -> str:
        return str(Run(self.folder / one.name).about.get("state", ""))

    def unfinished(self) -> list[Evaluation]:
        return [one for one in self.evaluations if self.state(one) != "finished"]

    def has(self, name: str) -> bool:
        return any(one.name == name for one in self.evaluations)

    def left(self) -> int:
        return len(self.unfinished())

    def work(self, workers: Workers, slots: int, kick: Callable[[], None]) -> None:
        """Each is a Ray actor, which holds no resources itself and starts a Ray Train run that does."""
        import ray

        from cluster.leftovers import Leftovers

        budget = self.options.time_budget
        deadline = math.inf if budget is None else self.begun + budget
        cpus = ray.cluster_resources().get("CPU", 0.0)
        at_once = self.at_once(workers, slots, cpus)
        prefetch = self._prefetch(cpus / (workers.number * at_once))
        driver: Any = ray.remote(num_cpus=0)(Driver)
        leftovers = Leftovers()
        waiting, running, room = deque(self.unfinished()), dict[Any, tuple[Evaluation, Any]](), True
        while (waiting or running) and time.monotonic() < deadline:
            while waiting and len(running) < at_once and room:
                one, actor = waiting.popleft(), driver.remote()
                running[actor.run.remote(self._payload(one, prefetch), workers, lies_at(self.scratch))] = one, actor
            done, _ = ray.wait(list(running), timeout=0.5)
            if self._listen() or done:
                kick()
            leftovers.free()
            for ref in done:
                one, _actor = running.pop(ref)
                room = not gave_up(self._ended(one, ref))
            if not room and not running:
                return  # the others would wait in vain too

    def _prefetch(self, cpus: float) -> int:
        """Batches that Ray Data prepares ahead for a worker whose share is so many CPUs; 0: it is not used."""
        return (self.options.prefetch or max(2, math.ceil(3 * cpus))) if self.options.over_ray else 0

    def _payload(self, one: Evaluation, prefetch: int) -> dict[str, Any]:
        """What the workers of an evaluation need to know. Its run.json says from now on that it waits for them."""
        folder = self.folder / one.name
        self._said.setdefault(one.name, len(Run(folder).said()))
        about: dict[str, Any] = {"name": one.name, "title": one.name, "command": self.command, "recipe": self.recipe}
        about |= self.about
        about |= {one.candidate.design.kind: one.candidate.source, "searched": one.candidate.searched}
        about["parameters"] = {"row": one.candidate.name, "seed": one.config.seed}
        begun: dict[str, Any] = {"state": "waiting", "reason": "", "fatal": "", "asked": time.time(), "ended": None}
        Run(folder).note(**about, kind="evaluation", **begun)
        asked = payload(one.config, folder, self.options.storage / "cache", about)
        return asked | {"design": one.candidate.design.to_json(), "prefetch": prefetch}

    def _ended(self, one: Evaluation, ref: Any) -> str:
        """Print how an evaluation ended; return why it did not come to its end, or an empty text."""
        import ray

        try:
            error = ray.get(ref)
        except ray.exceptions.RayError as found:  # the driver's process is gone
            error = first_line(found)
        about = Run(self.folder / one.name).latest().about
        reason = error or about.get("reason", "")
        print(f"{one.name}: {self.state(one)} {reason}".rstrip(), flush=True)
        return reason

    def _listen(self) -> bool:
        """Print what the workers said since the last look; return whether there was anything."""
        new = False
        for name, told in self._said.items():
            lines = Run(self.folder / name).said()
            for line in lines[told:]:
                print(f"{name}: {line}", flush=True)
            self._said[name], new = len(lines), new or len(lines) > told
        return new

    # ------------------------------------------------------------------------------------------------ after they ran

    def settle(self) -> bool:
        for one in self.evaluations:
            if self.state(one) in ("running", "waiting"):
                Run(self.folder / one.name).note(state="interrupted", reason=CUT_OFF, ended=time.time())
        return not {"", "interrupted"} & {self.state(one) for one in self.evaluations}

    def table(self) -> str:
        """Test error of each genotype, as Markdown."""
        runs = [run for run in read_trials(self.folder) if self.has(run.folder.name)]
        return errors(runs, [one.name for one in self.candidates], self.options.seeds)

    def write_pages(self) -> None:
        write_atomic(self.folder / "table.md", f"`{self.command}`\n\n{self.table()}")

    def show(self) -> bool:
        """The table, and where everything lies; whether no evaluation failed."""
        print(f"\n{self.table()}")
        say_now(f"this table is in {self.folder / 'table.md'}")
        say_now(f"everything lies in {lies_at(self.folder)}")
        done = [one for one in self.evaluations if self.state(one) == "finished"]
        for one in done:
            say_now(f"  {one.name}: {self.folder / one.name / 'report.html'}")
        if done:
            say_now(f"try one: {shell_line(['dasgm', 'predict', self.folder / done[0].name, 'PICTURE'])}")
        if self.link:
            say_now(self.in_mlflow())
        registered = self.register(done) if self.options.register else True
        return registered and all(self.state(one) != "failed" for one in self.evaluations)

    def register(self, done: Sequence[Evaluation]) -> bool:
        """Register the finished ones, once none is to be continued, and say what came of it; whether it succeeded."""
        from cluster.tracking import register

        name, folders = self.options.register, [self.folder / one.name for one in done]
        if not done or any(self.state(one) not in ("finished", "failed") for one in self.evaluations):
            say_now(f"register {name}: not yet, since evaluations are still to be done")
            return True
        try:
            for line in register(folders, name):
                say_now(line)
        except Exception as error:  # the trained networks are safe
            again = shell_line(["python", "-m", "cluster.tracking", *folders, "--register", name])
            say_now(f"register {name}: {one_line(error)}; `{again}` does it later")
            return False
        return True


class Driver:
    """A Ray actor: the driver of one evaluation."""

    def run(self, asked: dict[str, Any], workers: Workers, scratch: str) -> str:
        """The evaluation as a Ray Train run. Returns why it did not come to its end, or an empty text."""
        return attempt(job.evaluate, asked, workers, local(scratch))
