"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere. Read from the run folders."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cluster.room import WAITS
from dasgm.pages.view import RunView, Trials, ranking
from dasgm.store.files import version
from dasgm.store.records import ENDED
from dasgm.store.run import Run
from tuning.plan import METRIC


def varied(run: RunView) -> str:
    """The swept parameters, short."""
    return "  ".join(
        f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in run.parameters.items()
    )


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

    A trial takes a while to start, its epochs, and what comes after the last one. A running trial goes by its own
    pace, and past a rung with this `chance`, by default as often as trials did so far; one not begun by the mean of
    those that ended (stopped ones too). Only what happened after `since` counts: a sweep may have been continued after
    a night.
    """
    chance = _chance(runs, rungs) if chance is None else chance
    starts, tails, lasted = [], [], []
    asked = {id(run): run.info.get("asked") or run.info.get("started") or now for run in runs}
    times = {id(run): [r["time"] for r in run.metrics if METRIC in r and r["time"] >= since] for run in runs}
    pace = {k: (t[-1] - t[0]) / (len(t) - 1) for k, t in times.items() if len(t) > 1}
    if not pace:
        return None
    typical = _mean(list(pace.values()))
    for run in runs:
        t, ended = times[id(run)], run.info.get("ended")
        if not t or asked[id(run)] < since:
            continue
        starts.append(max(0.0, t[0] - asked[id(run)] - pace.get(id(run), typical)))
        if run.state == "finished":
            tails.append(ended - t[-1])
        if ended and run.state in ENDED:
            lasted.append(ended - asked[id(run)])
    start = median(starts) if starts else 0.0  # one of them may have trained the GAN's warm-up for all
    tail = _mean(tails) if tails else typical
    whole = start + epochs * typical + tail
    remaining = []
    for run in runs:
        if run.state in ("running", "waiting"):
            t, own = times[id(run)], pace.get(id(run), typical)
            ends = [*rungs, run.info.get("epochs", epochs)]
            left = _expected(run.epochs, ends, chance, own, tail) + (0.0 if t else start)
            remaining.append(max(0.0, left - (now - (t[-1] if t else asked[id(run)]))))
    begun = len([run for run in runs if run.state != "interrupted"])
    total = sum(remaining) + max(0, num_trials - begun) * (_mean(lasted) if lasted else whole)
    return max([total / at_once, *remaining])


def _chance(runs: Sequence[RunView], rungs: Sequence[int]) -> float:
    """That a trial goes on at a rung: what was seen, from a start of one half."""
    stopped = sum(run.state == "stopped" for run in runs)
    reached = sum(run.epochs >= rung for run in runs for rung in rungs)
    return (reached - stopped + 1) / (reached + 2)


def _expected(done: int, ends: Sequence[int], chance: float, pace: float, tail: float) -> float:
    """Seconds that a trial will take from epoch `done` on; it may end at each of `ends` but goes on with `chance`."""
    seconds, sure = 0.0, 1.0
    for end in ends:
        if end > done:
            seconds, done = seconds + sure * (end - done) * pace, end
            sure *= chance if end != ends[-1] else 1.0
    return seconds + sure * tail


def told(left: float | None, stopped: float | None) -> str:
    """The time left, and where that differs much, what it is if the running trials are stopped at their next rung."""
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
    """Shows a sweep's folder while the block runs. Its thread reads files and prints, nothing else."""

    def __init__(self, folder: Path, epochs: int, num_trials: int, at_once: int, rungs: Sequence[int]):
        from rich.console import Console

        self.folder, self.epochs, self.num_trials, self.at_once, self.rungs = folder, epochs, num_trials, at_once, rungs
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
        """What is new since the last look, one line each."""
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
        """What a worker says before its first epoch, which can take long (warm-up, judge), and what befell it."""
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
        return table(
            runs, self.epochs, f"{self.folder.name}: {len(runs)} of {self.num_trials} trials begun  {self._left(runs)}"
        )


def table(runs: Sequence[RunView], epochs: int, heading: str) -> Any:
    """Trials ranked: what varies, epoch, accuracy, objective, state with rung and cut-off."""
    from rich.table import Table

    found = Table(
        "rank", "trial", "what varies", "epoch", "accuracy", "proxy", "state", title=heading, title_justify="left"
    )
    for one in ranking(runs):
        run, accuracy = one.run, one.run.last(METRIC)
        rank = f"{one.rank}{' (tie)' if one.tie else ''}" if one.rank else ""
        found.add_row(
            rank,
            run.title,
            varied(run),
            f"{run.epochs}/{run.info.get('epochs', epochs)}",
            "" if accuracy is None else f"{accuracy:.3f}",
            "" if one.rank is None else f"{one.value:.3f} ± {one.error:.3f}",
            _state(run),
        )
    return found


def _state(run: RunView) -> str:
    """With the reason of its end; before the first epoch, which can take long, what it is doing, or waits for."""
    reason = run.info.get("reason")
    if reason or run.state not in ("waiting", "running", "interrupted"):
        return f"{run.state} {reason or ''}".strip()
    last = [run.state, *Run(run.folder).said()][-1]
    if last.startswith(WAITS) or run.state == "running" and not run.epochs:
        return last
    return "starting" if run.state == "waiting" else run.state
