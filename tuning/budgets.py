"""How large the searches and trainings of a reproduction are: named sizes, with all that they change.

The record of every run names its budget (`budget` in run.json), and the names of folders do too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dasgm.config import SearchConfig, override
from dasgm.presets import small
from dasgm.presets.published import SEEDS

Settings = tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """A size of the searches and trainings.

    Attributes:
        about: what it is for, in a few words.
        seeds: the largest number of searches of a row that it has by default; the paper has up to 4.
        search: makes a search of a row's.
        holdout: whether a tenth of the training set is set aside as J_val.
        trainings: the recipe and the settings of a training, as cluster/evaluate.py takes them, by data set; '' stands
            for those that are not named.
        rows: what ends the default name of a sweep of rows (--rows).
    """

    about: str
    seeds: int
    search: Callable[[SearchConfig], SearchConfig]
    holdout: bool
    trainings: Mapping[str, Settings]
    rows: str

    def training(self, dataset: str) -> Settings:
        """The recipe and the settings of a training on a data set."""
        return self.trainings.get(dataset, self.trainings[""])


def _shorter(config: SearchConfig) -> SearchConfig:
    """The paper's networks on 10,000 pictures, for two fifths of the epochs: a fourteenth of its iterations."""
    method, epochs = config.method, max(1, 2 * config.method.epochs // 5)
    start = method.arch_start_epoch * epochs // max(1, method.epochs)
    every = config.fidelity_every * epochs // max(1, method.epochs)
    shorter = replace(method.shortened(epochs), arch_start_epoch=start)
    changed = replace(config, method=shorter, fidelity_every=every)
    gan = {"gan.pretrain_iterations": 10_000} if config.gan is not None else {}
    found: SearchConfig = override(changed, {"data.limit": 10_000, **gan})
    return found


BUDGETS: dict[str, Budget] = {
    "smoke": Budget(
        "the cifar10-smoke presets and small recipes, for two cores",
        2,
        small,
        True,
        {"": ("recipe=cifar-small",), "imagenet": ("recipe=imagenet-small",)},
        "-small",  # as --small called it before there were budgets
    ),
    "small": Budget(
        "the paper's search networks on 10,000 pictures for 20 epochs, trainings of 100, for a GPU",
        3,
        _shorter,
        True,
        {
            "": ("recipe=cifar", "cells=8", "channels=16", "epochs=100", "drop-path=0.0"),
            "imagenet": ("recipe=imagenet", "data.image-size=128", "data.limit=130000", "epochs=30"),
        },
        "-budget-small",
    ),
    "paper": Budget(
        "the paper's sizes, for GPUs",
        SEEDS,
        lambda config: config,
        False,
        {"": ("recipe=cifar",), "imagenet": ("recipe=imagenet",)},
        "",
    ),
}
PAPER = "paper"
