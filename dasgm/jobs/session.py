"""What frames a run, a search's, a pre-training's or an evaluation's: data, folder and lock, how it ended."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dasgm.config import MOST_THREADS, mathematics, to_json
from dasgm.device import device_of, hardware, is_out_of_memory
from dasgm.distributed import alone, broadcast, gather, rank, ready, world_size
from dasgm.pages.report import report as write_report
from dasgm.search import SearchFailed
from dasgm.store.files import gist, printable
from dasgm.store.records import kept_record
from dasgm.store.replica import speak
from dasgm.store.run import Locked, Run, Unwritable, not_written

Row = dict[str, Any]


class Refused(ValueError):
    """What the user did wrong, on every worker at once: none of them waits for another."""


class WorkerMachineError(RuntimeError):
    """What is wrong on the machine of one worker, told by all: another try may find another machine."""


class Interrupted(Exception):
    """Asked to stop; everything is saved but for what it names, and the same command goes on."""


class OutOfTime(Interrupted):
    """By the time budget."""


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
    patience: float = 0.0
    """Seconds for which a folder that another holds is waited for: a lost machine's sign of life counts for some."""


JobBody = Callable[[Run, Hooks, list[int]], Row]


def steady_threads(run: Run, config: Any) -> None:
    """Sums depend on the number of threads: a run goes on with those it began with."""
    begun = of_first(lambda: kept_record(run.folder / "run.json").get("threads"))
    if begun is not None and not 1 <= begun <= MOST_THREADS:
        raise Refused(f"run {run.folder}: it began with {begun} threads, says its run.json; use another --name")
    threads = begun or config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    if rank() == 0:
        run.note(threads=threads)


def tell_of_workers(began: int, batch_size: int, say: Callable[[str], None]) -> None:
    """Says where a run goes on on another number of workers than the `began` that it began on."""
    if began != world_size():
        say(
            f"it began on {began} worker(s) and goes on on {world_size()}: batches of "
            f"{batch_size} a worker, so no longer what one run of either number gives"
        )


@contextmanager
def restoring(run: Run) -> Iterator[None]:
    """Inside, what a checkpoint holds is put in place: Refused, in one line, where it is of something else."""
    wrong = ""
    try:
        yield
    except Exception as error:  # an entry that is missing, of another type or shape: each has its own exception
        if is_out_of_memory(error):
            raise
        wrong = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    for reason in filter(None, gather(wrong)):
        raise Refused(
            f"run {run.folder}: its checkpoint is of something else ({reason:.200}); remove its checkpoints to begin "
            "anew, or use another --name"
        )


def called_again(run: Run, row: Row) -> None:
    """A finished run, whose last row this is: its state is put right, and its page is there."""
    if rank() == 0:
        run.note(state="finished", reason="", ended=row["time"])
        if not (run.folder / "report.html").exists():
            write_report(run.folder)


def run_job(
    config: Any,
    folder: Path,
    hooks: Hooks,
    prepare: Callable[[Any], tuple[JobBody, dict[str, str]]],
    advice: Callable[[Any, Any], str],
    read: Callable[[str], Any] | None = None,
) -> Row:
    """Load the data, hold the run's folder, and do in it what there is to do; how it ends is written down.

    OSError in one line where the folder's disk is full or can no longer be written; what was saved stays.

    Args:
        config: with `data`, `data_dir` and `device`; what makes the run's identity.
        prepare: of the data, what to do and the digests of what else is read; ValueError for what cannot be used.
        advice: of the configuration and the data, what would fit where memory does not suffice.
        read: of the device, the data; by default loaded into its memory.
    """
    ready()
    folder = Path(folder)
    if rank() != 0:
        hooks.say = lambda line: None
    device = device_of(config.device)
    read = read or (lambda device: config.data.load(config.data_dir, device))
    found: list[Any] = []
    _together(lambda: found.append(read(device)))  # first rank 0: it may download

    def own() -> tuple[Any, JobBody, dict[str, str]]:
        data = found[0] if found else read(device)
        go, digests = prepare(data)
        return data, go, {"data": data.digest} | digests

    data, go, digests = _each(own)
    _ensure_alike(digests)
    run = Run(folder)
    speak(folder, hooks.say)
    with ExitStack() as stack:
        stop = stack.enter_context(_stopping(hooks))
        about = _about(config, device) | hooks.about
        try:
            _together(lambda: _begin(stack, run, config, about, digests, hooks))
            _tell_of(data, run, hooks)
            return _with_advice(lambda: go(run, hooks, stop), lambda: advice(config, data))
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
            raise not_written(folder, error) from None


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


def _with_advice(go: Callable[[], Row], advice: Callable[[], str]) -> Row:
    """What `go` gives; out of memory becomes one line that says what would fit."""
    try:
        return go()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
    # outside the handler, whose traceback holds on to the network
    with alone():
        line = advice()
    if world_size() > 1:
        raise RuntimeError(line)  # this worker has to die, or the others wait for it
    raise SearchFailed(line)


def _begin(stack: ExitStack, run: Run, config: Any, about: Row, digests: dict[str, str], hooks: Hooks) -> None:
    if hooks.stoppable:  # nobody else starts it
        stack.enter_context(run.driven())
    end = time.monotonic() + hooks.patience
    while True:
        try:
            stack.enter_context(run)
            break
        except Locked:
            if time.monotonic() >= end:
                raise
            time.sleep(hooks.patience / 20)
    run.begin(to_json(config), mathematics(config) | digests, about)


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


def _about(config: Any, device: str) -> Row:
    on = "J_val" if config.data.holdout else "J_2"
    return {"device": hardware(device), "workers": world_size(), "measured_on": on}


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
