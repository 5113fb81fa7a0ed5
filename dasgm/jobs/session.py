"""What frames a run, of a search, a pre-training or an evaluation: its data, its folder and lock, how it ended."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dasgm.config import from_json, mathematics, settings, to_json
from dasgm.device import device_of, hardware, is_out_of_memory
from dasgm.distributed import alone, broadcast, gather, rank, ready, world_size
from dasgm.jobs.uncompiled import leave_out_compiler
from dasgm.pages.report import report as write_report
from dasgm.search import SearchFailed
from dasgm.store import legacy
from dasgm.store.files import gist, printable
from dasgm.store.records import read_json
from dasgm.store.replica import speak
from dasgm.store.run import Locked, Run, Unwritable, not_written

Row = dict[str, Any]


class Refused(ValueError):
    """The user's mistake, raised on every worker at once, so that none of them waits for another."""


class WorkerMachineError(RuntimeError):
    """A fault of one worker's machine, raised on every worker: another try may run on another machine."""


class Interrupted(Exception):
    """The run was asked to stop. Everything is saved except what the message names; the same command continues."""


class OutOfTime(Interrupted):
    """The time budget of the run is used up."""


@dataclass
class Hooks:
    """What a launcher hands to `main`; the defaults are a quiet lone process."""

    report: Callable[[Row], None] = lambda row: None
    """Called once an epoch by every rank, with the epoch's row."""
    say: Callable[[str], None] = print
    """A line for the user, from rank 0."""
    watch: Callable[[int, int, int, int], None] = lambda epoch, epochs, iteration, iterations: None
    """Called every iteration, for a progress bar."""
    about: Row = field(default_factory=dict)
    """Entries of run.json: name, title, command, sweep, swept parameters."""
    cache: Path | None = None
    """Where the judge and the GAN's warm-up are kept; beside the run's folder by default."""
    stoppable: bool = False
    """Whether Ctrl-C and SIGTERM save and stop (a lone process)."""
    time_budget: float | None = None
    """Seconds after which a stoppable run stops as by Ctrl-C."""
    goes_on: bool = False
    """Whether the process is a program of the user's, which a second Ctrl-C does not end (KeyboardInterrupt)."""
    patience: float = 0.0
    """Seconds to wait for a folder that another process holds: a lost machine's claim expires only after a while."""


@dataclass(frozen=True)
class Session:
    """What a job works with while it holds its run's folder."""

    run: Run
    hooks: Hooks
    stop: list[int]
    """Filled when somebody asks to stop."""

    @property
    def cache(self) -> Path:
        """Where the judge and the GAN's warm-up are kept."""
        return self.hooks.cache or self.run.folder.parent / "cache"


class Job(Protocol):
    """A search, a pre-training or an evaluation, as `run_job` sees it."""

    config: Any
    """With `data`, `data_dir` and `device`; it makes the run's identity."""

    def load(self, device: str) -> Any:
        """The data set."""

    def check(self, data: Any) -> dict[str, str]:
        """The digests of what is read besides the data. ValueError: the job cannot run on these data."""

    def advice(self, data: Any) -> str:
        """What would fit where memory does not suffice."""

    def run(self, data: Any, session: Session) -> Row:
        """Do what is left to do; the run's last row."""


def run_job(job: Job, folder: Path, hooks: Hooks) -> Row:
    """Load the data, hold the run's folder, and do in it what there is to do; how it ends is written down.

    OSError in one line where the folder's disk is full or can no longer be written; what was saved stays.
    """
    ready()
    leave_out_compiler()
    if rank() != 0:
        hooks = replace(hooks, say=lambda line: None)
    data, digests = _loaded(job)
    run = Run(folder)
    speak(run.folder, hooks.say)
    with _stopping(hooks) as stop, ExitStack() as held, _ending(run, hooks, stop):
        if finished := of_first(lambda: _begin(held, run, job.config, digests, hooks)):
            if rank() == 0:
                show(run, finished)
            return finished
        _tell_of(data, run, hooks)
        return _with_advice(lambda: job.run(data, Session(run, hooks, stop)), lambda: job.advice(data))


def _loaded(job: Job) -> tuple[Any, dict[str, str]]:
    """The data, and the digests of all that is read: the same on every worker, and the job can run on them."""
    device, of_rank_0 = device_of(job.config.device), list[Any]()
    _together(lambda: of_rank_0.append(job.load(device)))  # first rank 0: it may download

    def own() -> tuple[Any, dict[str, str]]:
        data = of_rank_0[0] if of_rank_0 else job.load(device)
        return data, {"data": data.digest} | job.check(data)

    data, digests = _each(own)
    _ensure_alike(digests)
    return data, digests


@contextmanager
def _ending(run: Run, hooks: Hooks, stop: list[int]) -> Iterator[None]:
    """Write down how a job ends before its time."""
    try:
        yield
    except SearchFailed as error:
        if rank() == 0:
            _note_end(run, hooks, "failed", str(error))
        raise
    except Interrupted as asked:
        reason = "stopped on request" if any(stop) else "the time budget is used up"
        _note_end(run, hooks, "interrupted", reason)
        if any(stop):
            raise
        raise OutOfTime(*asked.args) from None
    except OSError as error:
        raise not_written(run.folder, error) from None


def show(run: Run, row: Row) -> None:
    """Put the state of a finished run right, whose last row this is, and see that its page is there."""
    run.note(state="finished", reason="", ended=row["time"])
    if not (run.folder / "report.html").exists():
        write_report(run.folder)


def _tell_of(data: Any, run: Run, hooks: Hooks) -> None:
    """Say what the data set holds and what was left out of it, and keep these lines for the result page."""
    told = [printable(note) for note in (data.describe(), *data.notes)]
    for note in told:
        hooks.say(note)
    if rank() == 0:
        run.note(data_notes=told)


def _note_end(run: Run, hooks: Hooks, state: str, reason: str) -> None:
    """A run that ends before its time: what its record and its page have no room for is told all the same."""
    try:
        run.note(state=state, reason=reason, ended=time.time())
        write_report(run.folder)
    except (MemoryError, OSError, ValueError) as error:
        hooks.say(f"how it ended is not written down: {gist(error) or 'out of memory'}")


def _with_advice(work: Callable[[], Row], advice: Callable[[], str]) -> Row:
    """What `work` gives; out of memory becomes one line that says what would fit."""
    try:
        return work()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
    # outside the handler, whose traceback holds on to the network
    with alone():
        line = advice()
    if world_size() > 1:
        raise RuntimeError(line)  # this worker has to die, or the others wait for it
    raise SearchFailed(line)


def _begin(held: ExitStack, run: Run, config: Any, digests: dict[str, str], hooks: Hooks) -> Row | None:
    """Hold the run's folder, and write down or compare what is asked; the last row, if dasgm 0.1.0 finished it."""
    if hooks.stoppable:  # nobody else starts it
        held.enter_context(run.driven())
    end = time.monotonic() + hooks.patience
    while True:
        try:
            held.enter_context(run)
            break
        except Locked:
            if time.monotonic() >= end:
                raise
            time.sleep(hooks.patience / 20)
    identity = mathematics(config) | digests
    if row := legacy.result(run, identity):
        if settings(from_json(read_json(run.folder / "config.json"), type(config))) != settings(config):
            raise legacy.unfinished(run.folder)  # it is to go on
        return row
    run.begin(to_json(config), identity, _about(config) | hooks.about)
    return None


def _together(begin: Callable[[], None]) -> None:
    """Rank 0 does it; what the user did wrong is an error on every rank, and of the same type."""
    error: tuple[int, str] | None = None
    types = (Locked, Unwritable, Refused)
    if rank() == 0:
        try:
            begin()
        except ValueError as found:
            error = next((i for i, one in enumerate(types) if isinstance(found, one)), 2), str(found)
    error = broadcast(error)
    if error:
        raise types[error[0]](error[1])


def _each(work: Callable[[], Any]) -> Any:
    """What every worker finds for itself; what is wrong on one of them is an error on each, and names it."""
    found, error = None, ""
    try:
        found = work()
    except ValueError as wrong:
        error = str(wrong)
    errors = gather((socket.gethostname(), error))
    for number, (host, error) in enumerate(errors):
        if error:
            raise WorkerMachineError(f"worker {number}, on {host}: {error}") if number else Refused(error)
    return found


def _ensure_alike(digests: dict[str, str]) -> None:
    """WorkerMachineError, where the workers' machines do not hold the same files: averaged gradients would hide it."""
    (first, those), *others = gather((socket.gethostname(), digests))
    for number, (host, these) in enumerate(others, start=1):
        if these != those:
            name = next(name for name in those if these.get(name) != those[name])
            raise WorkerMachineError(
                f"worker {number}, on {host}, reads other {name} than worker 0, on {first}: copy the same files to "
                "every machine"
            )


def of_first(work: Callable[[], Any]) -> Any:
    """What rank 0 finds, on every rank. ValueError, on every rank: there is something wrong with it."""
    found: list[Any] = []
    _together(lambda: found.append(work()))
    return broadcast(found[0] if found else None)


def _about(config: Any) -> Row:
    on = "J_val" if config.data.holdout else "J_2"
    return {"device": hardware(device_of(config.device)), "workers": world_size(), "measured_on": on}


@contextmanager
def _stopping(hooks: Hooks) -> Iterator[list[int]]:
    """A list that the first Ctrl-C or SIGTERM fills, or with 0 the end of the time budget; a second signal ends the
    process at once."""
    asked: list[int] = []
    if not hooks.stoppable:
        yield asked
        return

    def ask(number: int, _: Any) -> None:
        if any(asked):
            if hooks.goes_on:
                raise KeyboardInterrupt
            os._exit(130)  # checkpoints are renamed into place: nothing is half-written
        asked.append(number)
        hooks.say("stopping after this step; once more ends at once")

    def over() -> None:
        if not asked:
            asked.append(0)
            hooks.say(f"the time budget of {hooks.time_budget:g} s is used up: stopping after this step")

    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    timer = threading.Timer(min(hooks.time_budget or 0.0, threading.TIMEOUT_MAX), over)
    try:
        if hooks.time_budget:
            timer.start()
        yield asked
    finally:
        timer.cancel()
        for s, handler in old.items():
            signal.signal(s, handler)
