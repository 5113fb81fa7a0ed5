"""The epoch loop of every job: restore -> finished? -> start -> (iterations, close, log, save, report) -> finish."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dasgm.bilevel import Player, Tensors
from dasgm.config import MOST_THREADS
from dasgm.device import is_out_of_memory
from dasgm.distributed import barrier, broadcast, gather, rank, world_size
from dasgm.jobs.epochs import Epochs
from dasgm.jobs.means import Means
from dasgm.jobs.session import Refused, Row, Session, of_first, show
from dasgm.measures.judge import collapse
from dasgm.pages.report import report as write_report
from dasgm.search import SearchFailed
from dasgm.store.records import ENDS, kept_record
from dasgm.store.run import Run


class Loop(Epochs):
    """The epochs of a run, in its folder: begun, or gone on with.

    A subclass says what an iteration does, what the row of an epoch holds, and what a checkpoint keeps.
    """

    def __init__(self, session: Session, config: Any, data: Any):
        super().__init__(session.stop)
        self.session, self.run, self.hooks = session, session.run, session.hooks
        self.config, self.data = config, data
        self.means = Means()  # of the losses in the iterations of the next epoch
        self.hours = 0.0  # device hours of all workers in the epochs that are done

    # what a job supplies

    @abstractmethod
    def build(self) -> None:
        """Make the networks, as they are before the first iteration."""

    @abstractmethod
    def start(self) -> None:
        """What comes before the first iteration of a run that begins."""

    def resume(self) -> None:
        """What comes before the next iteration, whether the run begins or goes on."""

    @property
    @abstractmethod
    def phase(self) -> str:
        """The `phase` of the row of the epoch that is next or in progress."""

    @property
    @abstractmethod
    def epochs(self) -> int:
        """The number of the last epoch."""

    @abstractmethod
    def iterate(self, i: int, batch: Any) -> Tensors:
        """Take iteration `i` of the epoch; its losses."""

    @abstractmethod
    def close(self, means: Means) -> Row:
        """Measure the epoch that is done: its entries of metrics.jsonl."""

    def best(self, row: Row) -> bool:
        """Remember the row of an epoch; whether it is the best so far."""
        return False

    def aside(self) -> Row:
        """Entries that are logged, on rank 0, for people alone: whatever decides about the run or a sweep sees the row
        without them."""
        return {}

    @abstractmethod
    def tell(self, row: Row) -> None:
        """Say what came of an epoch."""

    @property
    @abstractmethod
    def players(self) -> list[Player]:
        """Those that a checkpoint keeps."""

    @abstractmethod
    def state(self) -> Row:
        """What a checkpoint keeps besides the loop's own state."""

    @abstractmethod
    def restore(self, state: Row) -> None:
        """Go back to where `state` was taken."""

    @property
    @abstractmethod
    def iteration(self) -> int:
        """The number in the name of a checkpoint; it grows."""

    @abstractmethod
    def complete(self) -> bool:
        """Whether no epoch is left, and the results are there if their row is."""

    @abstractmethod
    def finish(self) -> Row:
        """Measure and write the results; the run's last row."""

    # the loop

    def go(self) -> Row:
        """Do what is left to do in the run's folder; its last row."""
        state: Row | None = of_first(lambda: self.run.load(self.hooks.say))
        _steady_threads(self.run, self.config)
        self.build()
        if state:
            workers = self._restore(state)
            if finished := self._finished():
                return finished
            of_first(lambda: self.run.cut(self.epoch))
            self._tell_of_going_on(workers)
        else:
            of_first(lambda: self.run.cut(-1))
            self.start()
        self.resume()
        self.go_through()
        row = self.finish() | self.aside()
        if rank() == 0:
            self.run.log("metrics", row)
            self.run.note(state="finished", reason="", ended=time.time())
            write_report(self.run.folder)
        barrier()
        return row

    def watch(self, i: int) -> None:
        self.hooks.watch(self.epoch + 1, self.epochs, i, self.length)

    def take(self, i: int, batch: Any) -> None:
        self.means.add(self.iterate(i, batch))

    def cut_short(self) -> None:
        self.save(False)

    def end_epoch(self) -> None:
        row: Row = {"epoch": self.epoch + 1, "phase": self.phase, "time": time.time()}
        means, self.means = self.means, Means()
        self.epoch, self.done = self.epoch + 1, 0
        row |= self.close(means)
        best, shown = self.best(row), row | self.aside()
        # Log, save, report: in this order. A run that goes on drops the rows after its last checkpoint, so a row that
        # was logged and not saved is made again, to the same bits; a checkpoint without its row would leave a gap for
        # ever. And a sweep that compares trials must find a reported epoch again, whatever happens next.
        if rank() == 0:
            self.run.log("metrics", shown)
        if "gan/diversity" in row and (line := collapse(self.epoch, row["gan/diversity"])):
            raise SearchFailed(line)  # its row shows why; it is not saved, nothing goes on from it
        self.save(best)
        self.hooks.report(row)
        self.tell(shown)

    def took(self, iterations: int, seconds: float | None = None) -> Row:
        """Close the epoch's account.

        The cost counts the whole time. `seconds`, if given, is the shorter time from which the speed is computed.
        """
        images, whole = iterations * self.config.batch_size * world_size(), self.clock()
        seconds = seconds or whole
        self.hours += whole * world_size() / 3600
        self.spent = 0.0
        return {"speed/images_per_s": images / seconds, "speed/seconds": seconds, "cost/gpu_hours": self.hours}

    # checkpoints

    def save(self, best: bool, part: str = "") -> None:
        """Rank 0's state is the truth: gradients and floating buffers are averaged, running statistics here. So every
        rank calls this. `part`: see `Run.save`."""
        for player in self.players:
            player.agree()
        if rank() != 0:
            return
        own = {"epoch": self.epoch, "means": self.means.state_dict(), "spent": self.spent, "hours": self.hours}
        state = own | {"workers": world_size()} | self.state()
        self.run.save(state, self.iteration, self.config.checkpoints, best, part)

    def _restore(self, state: Row) -> int:
        """Go back to where a checkpoint was written; on how many workers that was."""
        with restoring(self.run):
            self.epoch, self.spent, self.hours = int(state["epoch"]), float(state["spent"]), float(state["hours"])
            self.means.load_state_dict(state["means"])
            workers = int(state["workers"])
            self.done = self.means.iterations
            self.restore(state)
        return workers

    def _finished(self) -> Row | None:
        """The last row of a run that is finished; its state is put right, and its page is there."""
        rows = broadcast(self.run.rows() if rank() == 0 else None)
        if not (self.complete() and rows and rows[-1]["phase"] in ENDS):
            return None
        last: Row = rows[-1]
        if rank() == 0:
            show(self.run, last)
        return last

    def _tell_of_going_on(self, began: int) -> None:
        where = f", iteration {self.done}" if self.done else ""
        self.hooks.say(f"going on after epoch {self.epoch}{where} of {self.run.folder}")
        if began != world_size():
            self.hooks.say(
                f"it began on {began} worker(s) and goes on on {world_size()}: batches of "
                f"{self.config.batch_size} a worker, so no longer what one run of either number gives"
            )


def _steady_threads(run: Run, config: Any) -> None:
    """Sums depend on the number of threads: a run goes on with those it began with."""
    begun = of_first(lambda: kept_record(run.folder / "run.json").get("threads"))
    if begun is not None and not 1 <= begun <= MOST_THREADS:
        raise Refused(f"run {run.folder}: it began with {begun} threads, says its run.json; use another --name")
    threads = begun or config.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    if rank() == 0:
        run.note(threads=threads)


@contextmanager
def restoring(run: Run) -> Iterator[None]:
    """Inside, what a checkpoint holds is put in place. Refused, in one line, where it is of something else."""
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
