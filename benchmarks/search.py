"""The search on a CPU against the textbook's, one thread: how many times as long the textbook takes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from textbook import SearchNetwork
from torch.nn import functional as F

from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import CLASSES, batches, configured, search, textbook
from benchmarks._timing import ratios
from dasgm.config import SearchConfig
from dasgm.methods._base import Relaxation, Stage
from dasgm.networks.supernet import Architecture, Supernet
from dasgm.spaces.darts import SearchSpace


def rows(options: Options) -> Iterator[Row]:
    for batch in options.batches:
        plain = {"gan": "none"}
        darts = configured("dasgm-darts", options, batch, **plain)
        stage = darts.stages[0]
        yield measured(f"supernet, forward and backward, batch {batch}", *passes(stage, batch, options), goal="")
        for order, goal in (("first", ""), ("second", "4")):
            config = configured("dasgm-darts", options, batch, order=order, **plain)
            yield iteration(f"{order}-order iteration, batch {batch}", config, options, goal)
        pcdarts = configured("dasgm-pcdarts", options, batch, **plain)
        yield iteration(f"PC-DARTS, batch {batch}", pcdarts, options, "3")
        pdarts = configured("dasgm-pdarts", options, batch, **plain, **p_darts(options))
        for index in (0, 1):
            later = some_stage(pdarts, index)
            yield iteration(f"P-DARTS, stage {index + 1}, batch {batch}", pdarts, options, "3", later)
        dasgm = configured("dasgm-darts", options, batch)
        yield iteration(f"DASGM with full BigGAN, against DARTS without, batch {batch}", dasgm, options, "1.3")


def p_darts(options: Options) -> dict[str, Any]:
    """At the paper's size its own numbers of cells (5 and 11), else the smallest ones that grow."""
    return {"method.cells": 5} if options.cells == 8 else {"method.cells": 3, "method.added_cells": (0, 2, 4)}


def some_stage(config: SearchConfig, index: int) -> Stage:
    """A stage of P-DARTS. Which operations are left on an edge is drawn, so that edges differ."""
    stage, draws = config.stages[0], random.Random(0)
    for _ in range(index):
        drawn = tuple([[draws.random() for _ in names] for names in part] for part in stage.operations)
        later = config.method.next(config.space, stage, Relaxation(drawn))
        assert later is not None
        stage = later
    return stage


def passes(stage: Stage, batch: int, options: Options) -> tuple[float, ...]:
    """Forward and backward of both supernets, with the gradients of weights and architecture."""
    ours, A, theirs = Supernet(stage, CLASSES), Architecture(stage, SearchSpace()), SearchNetwork(stage, CLASSES)
    alphas = list(A.parameters())
    x, y, *_ = batches(batch)

    def fast() -> None:
        torch.autograd.grad(F.cross_entropy(ours(x, A()), y), [*ours.parameters(), *alphas])

    def slow() -> None:
        torch.autograd.grad(F.cross_entropy(theirs(x, alphas), y), [*theirs.parameters(), *alphas])

    return ratios(slow, fast, options.seconds)


def iteration(what: str, config: SearchConfig, options: Options, goal: str, stage: Stage | None = None) -> Row:
    """Ours draws and augments its batches besides. The textbook never has a GAN."""
    ours = search(config, stage=stage)
    theirs, batch = textbook(ours.stage, config.order), batches(config.batch_size)
    found = ratios(lambda: theirs.iterate(*batch), ours.iterate, options.seconds)
    return measured(what, *found, goal=goal, note=f"{ours.stage.cells} cells of {ours.stage.channels} channels")
