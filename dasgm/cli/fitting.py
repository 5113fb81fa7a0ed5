"""What `dasgm fit` chooses: recipe, size, batches and epochs, from the pictures, the device and the time budget."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dasgm.cli.estimate import TIMED, Estimate, TrainingEstimate, estimate, estimate_training
from dasgm.config import SearchConfig, from_json
from dasgm.data import folder
from dasgm.data._base import IN_MEMORY, STEP
from dasgm.data._parts import Parts
from dasgm.data._pictures import open_picture, quiet
from dasgm.designs.design import Design
from dasgm.designs.known import KnownNetwork
from dasgm.genotype import DEFAULT_SPACE, Genotype, space_of
from dasgm.measures.counts import measure_genotype
from dasgm.presets import with_dataset
from dasgm.recipes import LAST, PHOTOGRAPHS, RECIPES, EvaluateConfig, on, recipe
from dasgm.spaces._base import SearchSpace
from dasgm.store.files import plain, text, write_atomic
from dasgm.store.records import PLAN

SIZES = (32, 64, 96, 128, 160, 192, 224)  # pixels per side that are chosen from
SMALLEST, LARGEST = 32, 320
LOOKED_AT = 50  # pictures whose sizes are read
ENOUGH = 10  # epochs of training that a chosen size leaves time for
MOST = 600  # epochs of training that a time budget is filled with (DARTS's for CIFAR)
SPARE = 1.25  # what is estimated, times this: validation, checkpoints, a machine that has other things to do
PAGE, SAVING = 1.5, 0.2  # seconds an epoch of a search for its pictures and its page, and of a training


@dataclass(frozen=True)
class Plan:
    """What was chosen when a fit began, which it keeps whenever it goes on."""

    image_size: int
    search_epochs: int
    """Number of epochs of each stage of the search; 0: there is none."""
    training_epochs: int
    """Number of epochs of a training of the costliest network."""
    costliest: float
    """Multiply-adds of that network; 0: the epochs do not follow the found network's."""
    classes: int
    against: tuple[str, ...] = ()
    """Known networks that are trained for as many epochs."""
    others: float = 0.0
    """How often as long as that of the costliest network all their epochs take together."""

    def save(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / PLAN, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, place: Path) -> Plan | None:
        """The plan of a fit that has begun. ValueError: the file is not one."""
        if not (place / PLAN).is_file():
            return None
        try:
            found: Plan = from_json(plain(text(place / PLAN)), cls)
        except ValueError as error:
            raise ValueError(f"{place / PLAN}: {error}; use another --name") from None
        return found


# sizes and recipes


def check_size(size: int) -> None:
    """ValueError where no network is trained at this size."""
    if size % STEP or not SMALLEST <= size <= LARGEST:
        raise ValueError(f"image-size {size}: expected a multiple of {STEP} from {SMALLEST} to {LARGEST}")


def photographs_size(found: Parts) -> int:
    """The largest of `SIZES` that is no more than the shorter side of half of the photographs."""
    listing, sides = found.train, []
    there = listing.in_order()
    some = there[np.linspace(0, len(there) - 1, min(LOOKED_AT, len(there))).astype(int)]
    for encoded in listing.source.read(some.tolist()):
        with suppress(Exception), quiet():  # what cannot be read is told when it is decoded
            if isinstance(encoded, bytes):
                with open_picture(encoded) as image:
                    sides.append(min(image.size))
    side = median(sides) if sides else SMALLEST
    return max((size for size in SIZES if size <= side), default=SMALLEST)


def usual_recipe(space: SearchSpace, size: int, gpu: bool) -> str:
    """The ImageNet form above 64 pixels, where the space has it, else the CIFAR form; small sizes on a CPU."""
    large = size > IN_MEMORY and "imagenet" in space.sizes
    name = PHOTOGRAPHS if large else space.recipes[""]
    return f"{name}-small" if not gpu and f"{name}-small" in RECIPES else name


def at_size(name: str, size: int, pictures: int) -> EvaluateConfig:
    """A recipe on so many training pictures of a folder, all of them, at this size."""
    config = with_dataset(recipe(name).config, "folder")
    data = replace(on(config, replace(config.data, image_size=size)).data, limit=0)
    if folder.Config(image_size=size).streams(pictures):
        data = replace(data, cutout=0)
    return replace(config, data=data, batch_size=fitting_batch(config.batch_size, pictures))


def fitting_batch(batch: int, pictures: int) -> int:
    """A batch of which an epoch has at least four, or the preset's if that is smaller."""
    return max(2, min(batch, pictures // 4))


def with_epochs(config: SearchConfig, epochs: int) -> SearchConfig:
    """A search of so many epochs a stage; if they are fewer than usual, A is searched in at least half of them."""
    if epochs == config.method.epochs:
        return config
    method = config.method.shortened(epochs)
    return replace(config, method=replace(method, arch_start_epoch=min(method.arch_start_epoch, epochs // 2)))


# time


def costliest(space: SearchSpace) -> Genotype:
    """The network of the dearest operation on all edges: none that is found takes much longer."""
    operations = ((space.dearest[0],),) * space.edges
    cell = space.derive(operations, [[1.0]] * space.edges)
    return space.genotype([cell] * len(space.cell_types))


def work(genotype: Genotype, config: EvaluateConfig, classes: int) -> float:
    """Multiply-adds of a network for one image, norms and pools counted too."""
    size = config.data.image_size
    found: Any = measure_genotype(genotype, config.form, config.channels, config.cells, classes, size)
    return float(found["multiply_adds_all"])


def with_training_epochs(config: EvaluateConfig, genotype: Genotype, plan: Plan) -> EvaluateConfig:
    """The training of a network for as long as the plan says: more epochs where they take less time than planned.

    Half of an epoch's time is taken to follow the multiply-adds. It depends on the plan and the network alone, so that
    a fit that goes on chooses the same. Known networks are trained for as many epochs.
    """
    if not plan.costliest:
        return lasting(config, plan.training_epochs)
    share = min(1.0, work(genotype, config, plan.classes) / plan.costliest)
    faster = (1 + plan.others) / ((1 + share) / 2 + plan.others)
    return lasting(config, min(MOST, math.floor(plan.training_epochs * faster)))


def lasting(config: EvaluateConfig, epochs: int) -> EvaluateConfig:
    """A training of so many epochs, of which at most half warm up. The linear schedule is the cosine one where it would
    need more epochs.
    """
    warmup = min(config.warmup_epochs, epochs // 2)
    schedule = config.lr_schedule if epochs > LAST else "cosine"
    return replace(config, epochs=epochs, warmup_epochs=warmup, lr_schedule=schedule)


def shortened(config: EvaluateConfig, training: EvaluateConfig) -> str:
    """What `lasting` changed besides the number of epochs, for the log; "": nothing."""
    same = (training.warmup_epochs, training.lr_schedule) == (config.warmup_epochs, config.lr_schedule)
    return "" if same else f", of which {training.warmup_epochs} warm up, with the {training.lr_schedule} schedule"


class TooLittle(ValueError):
    """A time budget in which a stage has no whole epoch."""


@dataclass(frozen=True)
class Price:
    """What a fit costs on this machine, and what is chosen so that it keeps within the budget."""

    plan: Plan
    search: Estimate | None
    trainings: tuple[TrainingEstimate, ...]
    """Of the found network, and of the known ones."""
    search_seconds: float
    training_seconds: float
    """Of all trainings."""

    @property
    def stages(self) -> tuple[Estimate | TrainingEstimate, ...]:
        return (*([self.search] if self.search else []), *self.trainings)

    @property
    def peak_memory(self) -> int:
        return max(stage.peak_memory for stage in self.stages)

    @property
    def disk(self) -> int:
        return sum(stage.disk for stage in self.stages)


@dataclass
class Budget:
    """The seconds of a fit, of which measuring takes some; None: there is no limit."""

    seconds: float | None
    share: float
    """Of the search."""
    begun: float

    @property
    def left(self) -> float:
        return math.inf if self.seconds is None else self.seconds - (time.monotonic() - self.begun)

    def of_search(self) -> float:
        return self.left if self.seconds is None else self.left * self.share

    def ensure(self, what: str, there: float, needed: float) -> None:
        """TooLittle where a stage has less than one epoch."""
        if self.seconds is not None and there < needed:
            share = self.share if what == "search" else 1 - self.share
            least = math.ceil(self.seconds + (needed - there) / share)
            raise TooLittle(
                f"time-budget {self.seconds:g}: {max(0.0, there):.0f} s are left for the {what}, of which one epoch "
                f"takes about {needed:.0f} s here; give about {least} s, or choose smaller sizes"
            )


def search_epochs(config: SearchConfig, budget: Budget, told: bool) -> tuple[Estimate, int, float]:
    """The cost of a search, its epochs a stage, and about how many seconds it takes."""
    begun = time.monotonic()
    found = estimate(config)
    timed = 2 * len(config.stages) * TIMED * found.seconds_per_iteration  # which the search does not do again
    before = max(0.0, time.monotonic() - begun - timed) + sum(found.other_seconds.values())
    epoch = SPARE * found.iterations * found.seconds_per_iteration / config.total_epochs + PAGE
    stages, there = len(config.stages), budget.of_search()
    budget.ensure("search", there, before + stages * epoch)
    epochs, whole = config.method.epochs, config.total_epochs
    if not told and there < before + whole * epoch:
        epochs = max(1, math.floor((there - before) / epoch / stages))
        whole = epochs * stages
    return found, epochs, before + whole * epoch


def training_epochs(
    designs: Sequence[Design], config: EvaluateConfig, budget: Budget, search: float, told: bool
) -> tuple[tuple[TrainingEstimate, ...], int, float]:
    """The same of the trainings of several networks, of which each has as many epochs, after a search of so long."""
    begun = time.monotonic()
    found = tuple(estimate_training(design, config) for design in designs)
    timed = sum(TIMED * one.step for one in found)  # which the trainings do not do again
    before = max(0.0, time.monotonic() - begun - timed)
    epoch = sum(SPARE * one.epoch + SAVING for one in found)
    there, epochs = budget.left - search, config.epochs
    budget.ensure("training" if len(found) == 1 else "trainings", there, before + epoch)
    if not told and there < math.inf:
        epochs = min(MOST, math.floor((there - before) / epoch))
    return found, epochs, before + epochs * epoch


def priced(
    genotype: Genotype | None,
    search: SearchConfig | None,
    training: Callable[[int], EvaluateConfig],
    size: int,
    classes: Sequence[str],
    budget: Budget,
    told: frozenset[str],
    against: Sequence[KnownNetwork] = (),
) -> Price:
    """Measure both stages and choose what was not told.

    Args:
        genotype: of the network that is trained; None: of that which `search` finds.
        training: the configuration of the training at a size.
        told: "search", "training": their epochs were; "size": the size was.
        against: known networks that are trained beside it.

    Raises:
        ValueError: the budget is too small, or input that the stages would refuse.
    """
    of_search, epochs, seconds = None, 0, 0.0
    if search is not None:
        of_search, epochs, seconds = search_epochs(search, budget, "search" in told)
    network = genotype or costliest(search.space if search is not None else space_of(DEFAULT_SPACE))
    fixed = told & {"size", "training"}
    while True:
        config, length = training(size), 1
        try:
            found, length, trained = training_epochs((network, *against), config, budget, seconds, "training" in told)
            if fixed or size == SMALLEST or length >= min(ENOUGH, config.epochs):
                break
        except TooLittle:
            if fixed or size == SMALLEST:
                raise
        # the largest size that would leave enough, as the time follows the area
        size = max((s for s in SIZES if s < size and length * (size / s) ** 2 >= ENOUGH), default=SMALLEST)
    follows = genotype is None and budget.seconds is not None and "training" not in told
    most = work(network, config, len(classes)) if follows else 0.0
    others = sum(one.epoch for one in found[1:]) / found[0].epoch if follows else 0.0
    plan = Plan(size, epochs, length, most, len(classes), tuple(map(str, against)), others)
    return Price(plan, of_search, found, seconds, trained)
