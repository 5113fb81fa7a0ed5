"""What a run asks of a cluster, whether there is room for it, and how it is waited for."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Resources = Mapping[str, float]  # of a machine, under Ray's names
STARTS = 5  # number of times that workers may die as they start before the run fails
WAITS, SEE = "waiting up to ", "(see --wait)"  # how the two lines about room begin and end
SLOT = "slot"  # a cluster's machine has one for each worker that it holds (gpu.yaml, local.yaml)
HOLDS_NOTHING: dict[str, float] = {"memory": 1}  # one byte, since a trial's driver shall take no CPU from workers


@dataclass(frozen=True)
class Workers:
    """The workers of one run, and what they ask of the cluster."""

    number: int = 1
    gpus: float = 0.0
    """Number of GPUs of each worker."""
    cpus: float = 1.0
    private: bool = True
    """Whether they share one machine."""
    wait: float = 1800.0
    """Seconds to wait for room."""

    def fit(self, cpus: float, gpus: float) -> int:
        """How many workers one machine with these resources has room for."""
        by_cpu = int(cpus / self.cpus + 1e-6)  # 1 // 0.1 is 9
        if not self.gpus:
            return by_cpu
        if self.gpus >= 1:
            return min(by_cpu, int(gpus / self.gpus + 1e-6))
        # a share of a GPU lies on one GPU; the rest of a GPU that is partly in use counts as well
        whole = int(gpus + 1e-6)
        return min(by_cpu, whole * int(1 / self.gpus + 1e-6) + int((gpus - whole) / self.gpus + 1e-6))

    def slots(self, cpus: float, gpus: float) -> int:
        """How many such runs one machine with these resources has room for at once."""
        return self.fit(cpus, gpus) // self.number

    def room(self, machines: Iterable[Resources]) -> int:
        """How many workers these machines have room for. The workers of a run may be on several machines."""
        return sum(self.fit(its.get("CPU", 0.0), its.get("GPU", 0.0)) for its in machines)

    @property
    def bundle(self) -> dict[str, float]:
        """The resources that Ray gives each worker."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def __str__(self) -> str:
        gpus = f" and {self.number * self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.number} worker(s) with {self.number * self.cpus:g} CPUs{gpus} in all"


def wait_for_room(workers: Workers, say: Callable[[str], None]) -> int:
    """Wait for room for one run; return how many such runs the cluster has room for.

    Others may be using the cluster. If machines come and go ($DASGM_SLOTS: the slots of all that may come), they are
    asked for, and those that may come count.

    Raises:
        ValueError: there was no room within the workers' `wait`.
    """
    from ray.autoscaler.sdk import request_resources

    most = int(os.environ.get("DASGM_SLOTS", 0))
    end, told = time.monotonic() + workers.wait, False
    try:
        while True:
            machines = _machines(free=not most)
            if slots := workers.room(machines) // workers.number:
                return _may_come(workers, machines, most) if most else slots
            have = _have(workers, machines, free=not most)
            if time.monotonic() > end:
                raise ValueError(given_up(workers, have))
            if not told:
                say(waiting(workers, have))
                told = True
            if most:  # repeatedly: every 20 s Ray Train's coordinator replaces this request by its own
                request_resources(bundles=[workers.bundle] * workers.number)
            time.sleep(2)
    finally:
        if most and told:
            request_resources(bundles=[])  # otherwise the machines would never be returned


def _machines(free: bool) -> list[Resources]:
    """The resources of each machine of the cluster: all, or those that are free."""
    import ray

    if free:
        from ray._private.state import available_resources_per_node

        return list(available_resources_per_node().values())
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def unplaced(asked: Resources) -> bool:
    """Whether something that asks for these resources waits for a machine that has them free."""
    from ray.util import placement_group_table

    groups = placement_group_table().values()
    return any(g["state"] in ("PENDING", "RESCHEDULING") and asked in g["bundles"].values() for g in groups)


def waiting(workers: Workers, have: str = "") -> str:
    """The line that says what is waited for. `have`: what the cluster has; by default what is free now."""
    have = have or _have(workers, _machines(free=True), free=True)
    return f"{WAITS}{workers.wait:g} s for room on the cluster: a search asks for {workers}, it has {have}"


def given_up(workers: Workers, have: str = "") -> str:
    """The line that says what was waited for in vain. `have`: see `waiting`."""
    have = have or _have(workers, _machines(free=True), free=True)
    return f"a search asks for {workers}; after {workers.wait:g} s the cluster has {have} {SEE}"


def gave_up(reason: str) -> bool:
    """Whether the reason of a run's end is the line of `given_up`."""
    return reason.endswith(SEE)


def _have(workers: Workers, machines: list[Resources], free: bool) -> str:
    cpus, gpus = (sum(its.get(kind, 0.0) for its in machines) for kind in ("CPU", "GPU"))
    have, room = f"{cpus:g} CPUs and {gpus:g} GPUs{' free' if free else ''}", workers.room(machines)
    if room < workers.number <= workers.fit(cpus, gpus):  # the resources would suffice on one machine
        have += f", but each worker is on one machine: room for {room}"
    return have


def _may_come(workers: Workers, machines: list[Resources], most: float) -> int:
    """How many runs there is room for on machines with `most` slots together, each like the largest there is now."""
    widest, asked = max(machines, key=lambda its: its.get(SLOT, 0.0)), _slots(workers)
    if not (each := widest.get(SLOT, 0.0)):
        return max(1, int(most // asked))
    number = int(most // each)
    drivers = number * int(each / asked + 1e-6) if asked <= each else int(most // asked)
    return max(1, min(drivers, workers.room([widest] * number) // workers.number))


def _slots(workers: Workers) -> float:
    """Slots that a run takes: one per GPU, or per CPU if it uses no GPU. Ray takes fractions below 1 only."""
    asked = workers.number * (workers.gpus or workers.cpus)
    return asked if asked < 1 else float(math.ceil(asked))


def driver(workers: Workers) -> dict[str, float]:
    """The resources that the driver of a search asks for.

    They are slots, so that machines are started for it and it runs where its workers fit. If no machine has slots, it
    asks for nothing.
    """
    widest = max((its.get(SLOT, 0.0) for its in _machines(free=False)), default=0.0)
    return {SLOT: min(widest, _slots(workers))} if widest else HOLDS_NOTHING


def tell(folder: Path, line: str) -> None:
    """Write a line into the log of a run that no worker holds."""
    from dasgm.store.run import Run

    with Run(folder).latest().unheld() as run, suppress(OSError):
        run.say(line)


def waiter(folder: Path, workers: Workers) -> Any:
    """A callback that writes into a run's log that its workers wait for room, and gives up after `wait` seconds.

    Ray Train itself would ask for ever and print nothing.
    """
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
    from ray.train.v2._internal.execution.callback import ControllerCallback
    from ray.train.v2._internal.execution.controller.state import PreemptingState, ReschedulingState, RunningState

    class Waiter(ControllerCallback):
        def __init__(self) -> None:
            self.since, self.told, self.failed = 0.0, False, 0

        def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
            if isinstance(current_state, RunningState | PreemptingState):  # the workers run
                self.since, self.told, self.failed = 0.0, False, 0
                return
            self.since = self.since or time.monotonic()
            if not isinstance(current_state, ReschedulingState):
                return
            error: Any = current_state.training_failed_error
            error = getattr(error, "controller_failure", error)
            if not isinstance(error, WorkerGroupStartupTimeoutError):  # a worker died as it started, so there was room
                self.since, self.failed = 0.0, self.failed + 1
                if self.failed > STARTS:
                    raise error
                return
            if not self.told:
                self.told = True
                tell(folder, waiting(workers))
            if time.monotonic() - self.since >= workers.wait:
                raise RuntimeError(given_up(workers))

    return Waiter()
