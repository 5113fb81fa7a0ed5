"""The training step of a found network on a CPU against the textbook's, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import textbook
import textbook_steps
import torch

from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import of_recipe
from benchmarks._timing import ratios
from dasgm.jobs.training import Training
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN

GENOTYPE = "DARTS_V2"
FORMS: tuple[tuple[str, int, int], ...] = (("cifar", 32, 10), ("imagenet", 224, 1000))  # size of images, classes


def rows(options: Options) -> Iterator[Row]:
    batch = min(options.batches)
    for form, size, classes in FORMS:
        config = of_recipe(form, options, batch, precision="float32")
        found = ratios(*steps(config, size, classes), options.seconds)
        what = f"training step, {form} form, {GENOTYPE}, batch {batch}"
        yield measured(what, *found, goal="1.5", note=f"{config.cells} cells of {config.channels} channels")


def steps(config: EvaluateConfig, size: int, classes: int) -> tuple[Any, Any]:
    """The textbook's and ours, with the drop-path of the last epoch and both heads."""
    x, y = torch.randn(config.batch_size, 3, size, size), torch.arange(config.batch_size) % classes
    ours = Training(KNOWN[GENOTYPE], config, classes, "cpu", 0)
    ours.schedule(config.epochs - 1)
    network = textbook.Network(KNOWN[GENOTYPE], config.channels, config.cells, classes, config.form, auxiliary=True)
    network.drop_path_rate = config.drop_path_rate(config.epochs - 1)
    theirs = textbook_steps.Training(network)
    return lambda: theirs.step(x, y), lambda: ours.step(x, y, 0, 0)
