"""Operations that an iteration dispatches on a GPU: there, launches take more time than arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks._count import Counted, counted, device
from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import batches, configured, search, textbook
from dasgm.config import SearchConfig

GOALS = {"without a GAN": "9,000", "full BigGAN": "15,000"}
SEARCHES = {
    "without a GAN": ("dasgm-darts", {"gan": "none"}),
    "full BigGAN": ("dasgm-darts", {}),
    "full ContraGAN": ("dasgm-darts", {"gan": "contragan"}),
    "full StyleGAN2-ADA": ("dasgm-darts", {"gan": "stylegan2ada"}),
    "first order, without a GAN": ("dasgm-darts", {"gan": "none", "order": "first"}),
    "PC-DARTS, without a GAN": ("dasgm-pcdarts", {"gan": "none"}),
    "P-DARTS, first stage, without a GAN": ("dasgm-pdarts", {"gan": "none", "method.cells": 5}),
}


def rows(options: Options) -> Iterator[Row]:
    batch = max(options.batches)
    for what, (name, changes) in SEARCHES.items():
        config = configured(name, options, batch, **changes)
        ours = of_an_iteration(config)
        note = f"the textbook's: {of_the_textbook(config):,}" if config.gan is None else ""
        yield measured(f"operations of an iteration, {what}", ours.total, goal=GOALS.get(what, ""), note=note)
        if what in GOALS:
            yield measured(f"values that the host waits for, {what}", ours.synchronisations, goal="0")
            yield measured(f"copies between host and device, {what}", ours.copies, goal="0 that block")
    yield from derivatives(configured("dasgm-darts", options, batch, gan="none"))


def of_an_iteration(config: SearchConfig) -> Counted:
    return counted(search(config, device()).iterate)


def of_the_textbook(config: SearchConfig) -> int:
    with torch.device(device()):
        theirs, batch = textbook(config.stages[0], config.order), batches(2)
    return counted(lambda: theirs.iterate(*batch)).total


def derivatives(config: SearchConfig) -> Iterator[Row]:
    """The two other ways to second derivatives."""
    difference = of_an_iteration(config).total
    exact = of_an_iteration(replace(config, hypergradient="exact")).total
    yield measured("exact hypergradient: operations by those of the difference", exact / difference, goal="below 2",
                   note=f"{exact:,} by {difference:,}")  # fmt: skip
    found = counted(search(config, device()).hessian).total
    yield measured("hessian(), two turns: operations by those of an iteration", found / difference, goal="below 2",
                   note=f"{found:,}")  # fmt: skip
