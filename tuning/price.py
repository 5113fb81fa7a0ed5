"""What the parts of a reproduction cost, from a few real steps of each: hours, disk, memory.

Each is measured in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import connection, job
from cluster.connection import Failed
from dasgm.cpus import cpus
from dasgm.designs.design import Design
from dasgm.store.records import digest
from dasgm.store.run import state_of

if TYPE_CHECKING:
    from cluster.evaluations import Evaluations
    from dasgm.config import SearchConfig
    from tuning.rows import Table

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Price:
    """Of the runs of a part that are still to be done.

    Attributes:
        runs, at_once: how many there are, and how many run side by side.
        hours: of all of them, with what is done once before them.
        disk: bytes of the checkpoints of all of them.
        memory: bytes of one run at its peak.
        besides: what is in the hours besides the runs, or is said of them.
    """

    runs: int
    at_once: int
    hours: float
    disk: int
    memory: int
    device: str
    besides: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = "".join(f"; {line}" for line in self.besides)
        return (
            f"{self.runs} run{'s' * (self.runs > 1)}, {self.at_once} at once: {self.hours:.2f} hours, "
            f"{self.disk / MIB:.0f} MiB of checkpoints, {self.memory / GIB:.2f} GiB of memory each{more}"
        )


@dataclass
class Prices:
    """Of several parts. What differs in the seed or in the share of real pictures costs the same."""

    known: dict[str, Any] = field(default_factory=dict)
    pretrained: set[str] = field(default_factory=set)
    """Names of the pre-trainings whose price was told."""

    def of_searches(self, table: Table, runs: int) -> Price:
        """Of so many searches of a row. ValueError: input that the search would refuse."""
        (config,), options = table.largest(), table.options
        number = options.workers_per_trial
        workers = job.workers_for(number, table.gpus())
        at_once = min(runs, options.at_once(max(1, connection.slots_here(workers))))
        found, before, besides = self._once(_search, config, number), 0.0, []
        if config.freeze_gan and (hours := self._pretraining(config, number, options.storage)):
            before += hours
            besides.append(f"{hours:.2f} hours are the pre-training of their GAN")
        hours = found.hours
        if config.gan is not None and config.fidelity_every:
            extra = self._once(_fidelity, config, 1)
            hours += extra
            besides.append(f"{extra * runs / at_once:.2f} hours are FID and IS" if extra else "without FID and IS")
        whole = before + hours * runs / at_once
        return Price(runs, at_once, whole, found.disk * runs, found.peak_memory, found.device, tuple(besides))

    def of_trainings(self, group: Evaluations, runs: int, besides: tuple[str, ...] = ()) -> Price:
        """Of so many trainings. ValueError: input that the training would refuse."""
        workers = group.workers()
        at_once = min(runs, group.at_once(workers, max(1, connection.slots_here(workers)), cpus()))
        designs = {digest(one.design.to_json()): one.design for one in group.candidates}
        found = [self._once(_training, group.config, workers.number, design) for design in designs.values()]
        hours = sum(one.hours for one in found) / len(found) * runs / at_once
        disk, memory = (max(getattr(one, name) for one in found) for name in ("disk", "peak_memory"))
        return Price(runs, at_once, hours, disk * runs, memory, found[0].device, besides)

    def _pretraining(self, config: SearchConfig, workers: int, storage: Path) -> float:
        """Hours of the pre-training that the searches begin with; 0: it is done, or was told of others."""
        from dasgm.jobs.pretrain import wanted_by

        name = wanted_by(config).name
        if name in self.pretrained or state_of(storage / name) == "finished":
            return 0.0
        self.pretrained.add(name)
        hours: float = measured(_pretraining, config, workers)
        return hours

    def _once(self, measure: Callable[..., Any], config: Any, workers: int, design: Design | None = None) -> Any:
        """What was measured of a configuration that costs the same, or is measured now."""
        from dasgm.config import settings

        same = {path: v for path, v in settings(config, younger=True).items() if path not in ("seed", "val_portion")}
        key = digest([measure.__name__, same, workers, design.to_json() if design else ""])
        if key not in self.known:
            self.known[key] = measured(measure, config, workers, *([design] if design else []))
        return self.known[key]


def measured(measure: Callable[..., Any], *args: Any) -> Any:
    """A function's value, from a process of its own. ValueError: what it raised; Failed: the process died."""
    try:
        with ProcessPoolExecutor(1, get_context("spawn"), _alone) as process:
            return process.submit(measure, *args).result()
    except BrokenProcessPool:
        raise Failed("the process that measured a step was killed, as by a machine without memory for it") from None


def _alone() -> None:
    """In that process: Ctrl-C ends it without a traceback, and what it says is not printed among the prices."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (as long as the process lives)


def _search(config: SearchConfig, workers: int) -> Any:
    from dasgm.jobs.estimate import estimate

    return estimate(config, workers, config.freeze_gan)


def _pretraining(config: SearchConfig, workers: int) -> float:
    from dasgm.jobs.estimate import estimate_pretraining
    from dasgm.jobs.pretrain import wanted_by

    return estimate_pretraining(wanted_by(config), workers).hours


def _training(config: Any, workers: int, design: Design) -> Any:
    from dasgm.jobs.estimate import estimate_training

    return estimate_training(design, config, workers)


def _fidelity(config: SearchConfig, _: int) -> float:
    """Hours of Inception for the FID and IS of a search, by the time of one batch; 0 where there are no weights."""
    import torch

    from dasgm.device import device_of
    from dasgm.measures.fidelity import BATCH, REPORTED, SAMPLES, downloaded, inception

    with contextlib.suppress(OSError):
        network, _about = inception(config.inception_weights or downloaded())
        device = device_of(config.device)
        network.to(device)
        images = torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8, device=device)
        with torch.no_grad():
            network(images)
            begun = time.monotonic()
            network(images)[0].sum().item()
        there = config.data.limit or 50_000
        times = config.total_epochs // config.fidelity_every
        passes = times * min(SAMPLES, there) + min(REPORTED, there) + 2 * there
        return (time.monotonic() - begun) * passes / BATCH / 3600
    return 0.0
