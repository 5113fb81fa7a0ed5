"""What is measured: searches and trainings at a given size on made-up images, and the textbook's of the same size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from textbook_steps import Darts
from torch import Tensor

from benchmarks._rows import Options
from dasgm.config import SearchConfig, override
from dasgm.data import cifar10
from dasgm.data._images import Data
from dasgm.methods._base import Stage
from dasgm.presets import preset
from dasgm.recipes import EvaluateConfig, recipe
from dasgm.search import Search

CLASSES, SIZE = 10, 32


def images(n: int, device: str = "cpu", size: int = SIZE) -> Data:
    """As CIFAR-10, n pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % CLASSES
    names = [str(label) for label in range(CLASSES)]
    config = cifar10.Config(image_size=size)
    return Data("noise", names, (x, y), (x[:64], y[:64]), config, mean=(0.5,) * 3, std=(0.25,) * 3, device=device)


def configured(name: str, options: Options, batch: int, **changes: Any) -> SearchConfig:
    """A preset of the paper at this size, from whose first epoch the architecture is searched."""
    size = {"method.cells": options.cells, "method.channels": options.channels, "method.arch_start_epoch": 0}
    return override(preset(name).config, size | {"batch_size": batch} | changes)


def of_recipe(form: str, options: Options, batch: int, **changes: Any) -> EvaluateConfig:
    """The training of a found network by the paper's recipe for this form, smaller where the options say so."""
    size = {} if options.cells == Options.cells else {"cells": options.cells, "channels": options.channels}
    return override(recipe(form).config, {"batch_size": batch} | size | changes)


def search(config: SearchConfig, device: str = "cpu", stage: Stage | None = None) -> Search:
    """Ready to iterate. A later stage of the method may be given."""
    found = Search(config, images(4 * config.batch_size + 80, device))
    if stage is not None:
        found.enter(stage)
    found.schedule()
    return found


def batches(batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two batches with labels, as a search draws them."""
    y = torch.arange(batch) % CLASSES
    return torch.randn(batch, 3, SIZE, SIZE), y, torch.randn(batch, 3, SIZE, SIZE), y.flip(0)


def textbook(stage: Stage, order: str) -> Darts:
    """The textbook's search of the same stage, with the skip dropout that the stage begins with."""
    found = Darts(replace(stage, arch_start_epoch=0), CLASSES, order)
    found.network.set_skip_dropout(stage.skip_dropout)
    return found
