"""What `dasgm fit` costs on this machine, measured before it begins, and the numbers of epochs that a budget buys."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from dasgm.api.fitting import ENOUGH, MOST, SIZES, SMALLEST, Plan, costliest, work
from dasgm.api.stages import SEARCH, TRAINING, part_of_fit
from dasgm.config import SearchConfig
from dasgm.cpus import cpus
from dasgm.data._parts import Parts
from dasgm.data._pictures import fitted, quiet
from dasgm.designs.design import Design
from dasgm.designs.known import KnownNetwork
from dasgm.genotype import DEFAULT_SPACE, Genotype, space_of
from dasgm.jobs.estimate import TIMED, Estimate, TrainingEstimate, Watch, estimate, estimate_training, silent
from dasgm.recipes import EvaluateConfig
from dasgm.store.files import counted

SPARE = 1.25  # what is estimated, times this: validation, checkpoints, a machine that has other things to do
PAGE, SAVING = 1.5, 0.2  # seconds an epoch of a search for its pictures and its page, and of a training
DECODED = 10  # pictures that are decoded to know how long all take at least


class TooLittle(ValueError):
    """A time budget in which a stage has no whole epoch."""


@dataclass(frozen=True)
class Span:
    """How long a stage takes, in seconds rounded up, so that what is printed of it adds up."""

    besides: int
    """Reading the pictures, building the network, and what else is done once."""
    epochs: int
    epoch: float

    @classmethod
    def of(cls, besides: float, epochs: int, epoch: float) -> Span:
        """Of what was measured. An epoch keeps three digits."""
        return cls(math.ceil(besides), epochs, rounded_up(epoch))

    @property
    def seconds(self) -> int:
        return self.besides + math.ceil(round(self.epochs * self.epoch, 6))

    def __str__(self) -> str:
        return f"{counted(self.epochs, 'epoch')} of {self.epoch:g} s + {self.besides} s besides = {self.seconds} s"


def rounded_up(seconds: float) -> float:
    """To three digits: 7.0411 -> 7.05, 1234.5 -> 1240."""
    step = 10.0 ** (math.floor(math.log10(max(seconds, 1e-3))) - 2)
    return float(f"{math.ceil(seconds / step) * step:.3g}")


@dataclass(frozen=True)
class Price:
    """What a fit costs on this machine, and what is chosen so that it keeps within the budget."""

    plan: Plan
    search: tuple[Estimate, Span] | None
    trainings: tuple[tuple[TrainingEstimate, Span], ...]
    """Of the found network, and of the known ones."""

    @property
    def stages(self) -> tuple[tuple[Estimate | TrainingEstimate, Span], ...]:
        return (*([self.search] if self.search else []), *self.trainings)

    @property
    def peak_memory(self) -> int:
        return max(stage.peak_memory for stage, _ in self.stages)

    @property
    def disk(self) -> int:
        return sum(stage.disk for stage, _ in self.stages)

    def total(self, measured: int, budget: float | None) -> str:
        """The sum of all stages after measuring took so many seconds."""
        seconds = [measured, *(span.seconds for _, span in self.stages)]
        parts = " + ".join([f"{seconds[0]} s measured", *(f"{n} s" for n in seconds[1:])])
        within = "" if budget is None else f", of {budget:g}" if sum(seconds) <= budget else f", more than {budget:g}"
        return f"{parts} = {sum(seconds):,} s{within}"


@dataclass
class Budget:
    """The seconds of a fit, of which measuring takes some; None: there is no limit."""

    seconds: float | None
    share: float
    """Of the search."""
    begun: float
    measured: int = 0
    """Seconds that measuring took, once it has ended."""

    @property
    def gone(self) -> float:
        return time.monotonic() - self.begun

    @property
    def left(self) -> float:
        return math.inf if self.seconds is None else self.seconds - self.gone

    def of_search(self) -> float:
        return self.left if self.seconds is None else self.left * self.share

    def ensure(self, what: str, there: float, needed: float, about: str = "about") -> None:
        """TooLittle where a stage has less than one epoch."""
        if self.seconds is not None and there < needed:
            share = self.share if what == SEARCH else 1 - self.share
            least = math.ceil(self.seconds + (needed - there) / share)
            raise TooLittle(
                f"time-budget {self.seconds:g}: {max(0.0, there):.1f} s are left for the {what}, of which one epoch "
                f"takes {about} {needed:.1f} s here; give {about} {least} s, or choose smaller sizes"
            )

    def ensure_some(self, what: str) -> None:
        """TooLittle where measuring has taken all of it."""
        if self.left <= 0:
            raise TooLittle(
                f"time-budget {self.seconds:g}: measuring a few steps of the {what} takes all of it; give several "
                "times as much, or choose smaller sizes"
            )

    def watch(self, what: str, where: str, say: Callable[[str], None]) -> Watch:
        """What says once what is measured, and raises TooLittle as soon as nothing is left."""
        told = list[str]()

        def watch(part: str) -> None:
            self.ensure_some(what)
            if part not in told:
                told.append(part)
                say(f"measuring the {what} {where}: {part}")

        return watch


def ensure_possible(search: SearchConfig | None, found: Parts, size: int, budget: Budget) -> None:
    """TooLittle at once where reading the pictures, and an epoch's page, take more than the budget: a lower bound."""
    if budget.seconds is None:
        return
    left, reading = budget.left, reading_seconds(found, min(size, search.data.image_size) if search else size)
    if search is not None:
        needed = reading + len(search.stages) * PAGE
        left -= reading  # to measure
        budget.ensure(SEARCH, left * budget.share, needed, "at least")
        left -= needed
    budget.ensure(TRAINING, left, reading + SAVING, "at least")


def reading_seconds(found: Parts, size: int) -> float:
    """Seconds that all processors together need at least to decode all pictures once, by the quickest of a few."""
    listing = found.everything
    there = listing.in_order()
    some = there[np.linspace(0, len(there) - 1, min(DECODED, len(there))).astype(int)]
    took = []
    for encoded in listing.source.read(some.tolist()):
        begun = time.monotonic()
        with suppress(Exception), quiet():  # what cannot be read is told when all are
            if isinstance(encoded, bytes):
                fitted(encoded, size)
                took.append(time.monotonic() - begun)
    return len(listing) * min(took, default=0.0) / cpus()


def search_span(config: SearchConfig, budget: Budget, told: bool, say: Callable[[str], None]) -> tuple[Estimate, Span]:
    """The cost of a search, its epochs of all stages, and how long it takes."""
    begun, stages = time.monotonic(), len(config.stages)
    found = estimate(config, watch=budget.watch(SEARCH, f"at {config.data.image_size} pixels", say))
    timed = 2 * stages * TIMED * found.seconds_per_iteration  # which the search does not do again
    before = math.ceil(max(0.0, time.monotonic() - begun - timed) + sum(found.other_seconds.values()))
    epoch = rounded_up(SPARE * found.iterations * found.seconds_per_iteration / config.total_epochs + PAGE)
    there = budget.of_search()
    budget.ensure(SEARCH, there, before + stages * epoch)
    whole = config.total_epochs
    if not told and there < before + whole * epoch:
        whole = stages * max(1, math.floor((there - before) / epoch / stages))
    return found, Span(before, whole, epoch)


def training_spans(
    designs: Sequence[Design],
    config: EvaluateConfig,
    budget: Budget,
    search: float,
    told: bool,
    say: Callable[[str], None],
) -> tuple[tuple[TrainingEstimate, Span], ...]:
    """The same of the trainings of several networks, of which each has as many epochs, after a search of so long."""
    found = list[tuple[TrainingEstimate, int, float]]()
    for number, design in enumerate(designs):
        begun = time.monotonic()
        where = f"at {config.data.image_size} pixels"
        watch = budget.watch(TRAINING, f"of {design} {where}" if number else where, say)
        one = estimate_training(design, config, watch=watch)
        before = max(0.0, time.monotonic() - begun - TIMED * one.step)  # the timed steps are not done again
        found.append((one, math.ceil(before), rounded_up(SPARE * one.epoch + SAVING)))
    before, epoch = sum(before for _, before, _ in found), sum(epoch for *_, epoch in found)
    before += len(found) - 1  # each is rounded up
    budget.measured = math.ceil(budget.gone)
    there = math.inf if budget.seconds is None else math.floor(budget.seconds) - budget.measured - search
    epochs = config.epochs
    budget.ensure(TRAINING if len(found) == 1 else "trainings", there, before + epoch)
    if not told and there < math.inf:
        epochs = min(MOST, math.floor((there - before) / epoch))
    return tuple((one, Span(before, epochs, epoch)) for one, before, epoch in found)


def priced(
    genotype: Genotype | None,
    search: SearchConfig | None,
    training: Callable[[int], EvaluateConfig],
    size: int,
    classes: Sequence[str],
    budget: Budget,
    told: frozenset[str],
    against: Sequence[KnownNetwork] = (),
    say: Callable[[str], None] = silent,
) -> Price:
    """Measure both stages and choose what was not told.

    Args:
        genotype: of the network that is trained; None: of that which `search` finds.
        training: the configuration of the training at a size.
        told: "search", "training": their epochs were; "size": the size was.
        against: known networks that are trained beside it.
        say: is told what is measured.

    Raises:
        ValueError: the budget is too small, or input that the stages would refuse.
    """
    of_search = None
    if search is not None:
        with part_of_fit(SEARCH):
            of_search = search_span(search, budget, SEARCH in told, say)
    seconds = of_search[1].seconds if of_search else 0
    network = genotype or costliest(search.space if search is not None else space_of(DEFAULT_SPACE))
    fixed = told & {"size", TRAINING}
    while True:
        config, length = training(size), 1
        try:
            with part_of_fit(TRAINING):
                found = training_spans((network, *against), config, budget, seconds, TRAINING in told, say)
            length = found[0][1].epochs
            if fixed or size == SMALLEST or length >= min(ENOUGH, config.epochs):
                break
        except TooLittle:
            if fixed or size == SMALLEST or budget.left <= 0:
                raise
        # the largest size that would leave enough, as the time follows the area
        size = max((s for s in SIZES if s < size and length * (size / s) ** 2 >= ENOUGH), default=SMALLEST)
    follows = genotype is None and budget.seconds is not None and TRAINING not in told
    most = work(network, config, len(classes)) if follows else 0.0
    first, *others = (one.epoch for one, _ in found)
    beside = sum(others) / first if follows else 0.0
    epochs = of_search[1].epochs // len(search.stages) if of_search and search else 0
    plan = Plan(size, epochs, length, most, len(classes), tuple(map(str, against)), beside)
    return Price(plan, of_search, found)
