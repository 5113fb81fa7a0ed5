"""What `dasgm fit` chooses: recipe, size, batches and epochs, from the pictures, the device and the time budget."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dasgm.config import SearchConfig, from_json
from dasgm.data._base import IN_MEMORY, STEP
from dasgm.data._parts import Parts
from dasgm.data._pictures import open_picture, quiet
from dasgm.genotype import Genotype
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


def check_size(size: int, name: str = "image-size", least: int = SMALLEST, most: int = LARGEST) -> None:
    """ValueError where no network is trained at this size, or none is searched where other bounds are given."""
    if size % STEP or not least <= size <= most:
        raise ValueError(f"{name} {size}: expected a multiple of {STEP} from {least} to {most}")


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
