"""What a sweep shows while it runs, read from its folders: a live table on a terminal, else plain lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cluster.room import WAITS
from dasgm.measures.truth import DATASETS
from dasgm.pages.view import RunView, Trials, ranking
from dasgm.store.files import version
from dasgm.store.records import ENDED
from dasgm.store.run import Run
from tuning.plan import METRIC, Plan


def varied(run: RunView) -> str:
    """The parameters of a trial, in short."""
    return "  ".join(
        f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in run.parameters.items()
    )


@dataclass(frozen=True)
class Timing:
    """When a trial was asked for, and when its epochs came, those before `since` left out."""

    run: RunView
    asked: float
    epochs: list[float]
    since: float

    @staticmethod
    def of(run: RunView, now: float, since: float) -> Timing:
        asked = run.info.get("asked") or run.info.get("started") or now
        return Timing(run, asked, [r["time"] for r in run.metrics if METRIC in r and r["time"] >= since], since)

    @property
    def pace(self) -> float | None:
        """Seconds per epoch; None before the second epoch."""
        return (self.epochs[-1] - self.epochs[0]) / (len(self.epochs) - 1) if len(self.epochs) > 1 else None

    @property
    def counts(self) -> bool:
        """Whether it tells how long a start takes: it was asked for after `since`, and has an epoch."""
        return bool(self.epochs) and self.asked >= self.since

    @property
    def ended(self) -> float | None:
        return self.run.info.get("ended")


@dataclass(frozen=True)
class Typical:
    """How long the parts of a trial take, in seconds."""

    pace: float
    """Of an epoch."""
    start: float
    """From being asked for to the beginning of the first epoch."""
    tail: float
    """From the last epoch to the end."""
    trial: float
    """Of a whole trial that is not begun. Those that were stopped early count."""

    @staticmethod
    def of(timings: Sequence[Timing], epochs: int) -> Typical | None:
        """What the trials show; None before one of them has two epochs."""
        paces = [timing.pace for timing in timings if timing.pace is not None]
        if not paces:
            return None
        pace, seen = _mean(paces), [timing for timing in timings if timing.counts]
        starts = [max(0.0, one.epochs[0] - one.asked - (pace if one.pace is None else one.pace)) for one in seen]
        start = median(starts) if starts else 0.0  # not the mean: one may have trained the GAN's warm-up for all
        over = [(one, one.ended) for one in seen if one.ended and one.run.state in ENDED]
        tails = [ended - one.epochs[-1] for one, ended in over if one.run.state == "finished"]
        tail = _mean(tails) if tails else pace
        whole = _mean([ended - one.asked for one, ended in over]) if over else start + epochs * pace + tail
        return Typical(pace, start, tail, whole)

    def left(self, timing: Timing, ends: Sequence[int], chance: float, now: float) -> float:
        """Of a trial that runs, or waits for its workers."""
        pace = self.pace if timing.pace is None else timing.pace
        expected = _expected(timing.run.epochs, ends, chance, pace, self.tail)
        if timing.epochs:
            return max(0.0, expected - (now - timing.epochs[-1]))
        return max(0.0, expected + self.start - (now - timing.asked))


def time_left(
    runs: Sequence[RunView],
    epochs: int,
    num_trials: int,
    at_once: int,
    now: float,
    since: float = 0.0,
    rungs: Sequence[int] = (),
    chance: float | None = None,
) -> float | None:
    """Seconds until the sweep ends, or None before the first epochs say anything.

    Args:
        runs: the trials that were begun.
        epochs: of a whole trial.
        num_trials: of the sweep.
        at_once: number of trials that run at once.
        since: only what happened after this time counts: a sweep may have been continued after a night.
        rungs: epochs at which a trial may be stopped.
        chance: that a trial goes on at a rung; by default as often as trials did so far.
    """
    timings = [Timing.of(run, now, since) for run in runs]
    typical = Typical.of(timings, epochs)
    if typical is None:
        return None
    chance = _chance(runs, rungs) if chance is None else chance
    remaining = [
        typical.left(timing, [*rungs, timing.run.info.get("epochs", epochs)], chance, now)
        for timing in timings
        if timing.run.state in ("running", "waiting")
    ]
    begun = sum(run.state != "interrupted" for run in runs)
    total = sum(remaining) + max(0, num_trials - begun) * typical.trial
    return max([total / at_once, *remaining])


def _chance(runs: Sequence[RunView], rungs: Sequence[int]) -> float:
    """That a trial goes on at a rung: what was seen, beginning with one half."""
    stopped = sum(run.state == "stopped" for run in runs)
    reached = sum(run.epochs >= rung for run in runs for rung in rungs)
    return (reached - stopped + 1) / (reached + 2)


def _expected(done: int, ends: Sequence[int], chance: float, pace: float, tail: float) -> float:
    """Seconds that a trial will take after epoch `done`, if it goes on with `chance` at each of `ends` but the last."""
    seconds, reached = 0.0, 1.0
    for end in ends:
        if end > done:
            seconds, done = seconds + reached * (end - done) * pace, end
            reached *= chance if end != ends[-1] else 1.0
    return seconds + reached * tail


def told(left: float | None, stopped: float | None) -> str:
    """The time that is left; also the time if all running trials are stopped at the next rung, if much shorter."""
    if left is None or stopped is None:
        return ""
    sooner = f" ({_duration(stopped)} if stopped at the next rung)" if stopped < 0.75 * left else ""
    return f"about {_duration(left)} left{sooner}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


SAID = (
    "GAN warm-up",
    "judge",
    "proxy",
    "checkpoint",
    "going on",
    "it began",
    "worker",
    "the search's driver",
    "the clock",
    WAITS,
)


class Board:
    """Shows the progress of a sweep while the block runs. Its thread only reads files and prints."""

    def __init__(self, folder: Path, epochs: int, at_once: int, plan: Plan):
        from rich.console import Console

        self.folder, self.epochs, self.at_once, self.objective = folder, epochs, at_once, plan.objective
        self.num_trials, self.rungs = plan.num_trials, plan.rungs
        self.trials = Trials(folder)
        self.console = Console(highlight=False, soft_wrap=True, markup=False)
        self.shown: dict[str, tuple[int, str]] = {}
        self.logs: dict[str, tuple[int, int]] = {}
        self.said = {log.parent.name: len(Run(log.parent).said()) for log in folder.glob("t*/log.txt")}
        self.begun, self.over = time.time(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="board")

    def __enter__(self) -> Board:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(10)

    def _run(self) -> None:
        if not self.console.is_terminal:
            while not self.over.wait(0.5):
                self._lines()
            self._lines()
            return
        from rich.live import Live

        with Live(self._table(), console=self.console, refresh_per_second=2, transient=True) as live:
            while not self.over.wait(1):
                live.update(self._table())

    def _left(self, runs: Sequence[RunView]) -> str:
        return told(
            *(
                time_left(runs, self.epochs, self.num_trials, self.at_once, time.time(), self.begun, self.rungs, chance)
                for chance in (None, 0.0)
            )
        )

    def _lines(self) -> None:
        """Print what is new since the last look."""
        runs = self.trials.look()
        for run in runs:
            self._said(run)
            state = "running" if run.state == "waiting" else run.state
            now, before = (run.epochs, state), self.shown.get(run.folder.name, (0, ""))
            self.shown[run.folder.name] = now
            accuracy = run.last(METRIC)
            if now == before:
                continue
            if state == "running" and run.epochs == before[0]:
                begun = "goes on" if run.epochs else "started"
                print(f"{run.title}: {begun}  {varied(run)}", flush=True)
            elif accuracy is not None or run.info.get("reason"):
                seen = f"epoch {run.epochs}/{run.info.get('epochs', self.epochs)}"
                measured = (
                    f"  {run.info.get('measured_on', 'val')} accuracy {accuracy:.3f}" if accuracy is not None else ""
                )
                end = "" if state == "running" else f"  {state} {run.info.get('reason', '')}"
                print(f"{run.title}: {seen}{measured}{end}  {self._left(runs)}".rstrip(), flush=True)

    def _said(self, run: RunView) -> None:
        """Print what the workers say that matters: before the first epoch, which can take long, and about faults."""
        name, now = run.folder.name, version(run.folder / "log.txt")
        if self.logs.get(name) == now:
            return
        self.logs[name], lines = now, Run(run.folder).said()
        for line in lines[self.said.get(name, 0) :]:
            if line.startswith(SAID):
                print(f"{run.title}: {line}", flush=True)
        self.said[name] = len(lines)

    def _table(self) -> Any:
        runs = self.trials.look()
        begun = f"{self.folder.name}: {len(runs)} of {self.num_trials} trials begun"
        return table(runs, self.epochs, f"{begun}  {self._left(runs)}", self.objective)


def table(runs: Sequence[RunView], epochs: int, heading: str, objective: str) -> Any:
    """A table of the ranked trials: parameters, epoch, accuracy, scores, and state with the reason of an end."""
    from rich.table import Table

    truths = {name: DATASETS[name] for run in runs for name in run.truth}
    columns = ("rank", "trial", "what varies", "epoch", "accuracy", "proxy", "naswot")
    true = (f"true, {title}" for title in truths.values())
    found = Table(*columns, *true, "state", title=heading, title_justify="left")
    for one in ranking(runs, objective):
        run, accuracy, score = one.run, one.run.last(METRIC), one.run.last("best/naswot")
        proxy, error = run.last("best/proxy"), run.last("best/proxy_error") or 0.0
        rank = f"{one.rank}{' (tie)' if one.tie else ''}" if one.rank else ""
        found.add_row(
            rank,
            run.title,
            varied(run),
            f"{run.epochs}/{run.info.get('epochs', epochs)}",
            "" if accuracy is None else f"{accuracy:.3f}",
            "" if proxy is None else f"{proxy:.3f} ± {error:.3f}",
            "" if score is None else f"{score:.1f}",
            *(f"{run.truth[name]:.4f}" if name in run.truth else "" for name in truths),
            _state(run),
        )
    return found


def _state(run: RunView) -> str:
    """The state of a trial and the reason of its end. Before the first epoch: what it does, or waits for."""
    reason = run.info.get("reason")
    if reason or run.state not in ("waiting", "running", "interrupted"):
        return f"{run.state} {reason or ''}".strip()
    last = [run.state, *Run(run.folder).said()][-1]
    if last.startswith(WAITS) or run.state == "running" and not run.epochs:
        return last
    return "starting" if run.state == "waiting" else run.state
