"""The two stages of `dasgm fit`, and how it spells the options of their settings."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import fields

from dasgm.options import Spelling, flag, spelled
from dasgm.recipes import EvaluateConfig

SEARCH, TRAINING = "search", "training"
COMMON = {
    "data_dir": "PICTURES",
    "device": "--device",
    "seed": "--seed",
    "image_size": "--image-size",
    "config": "--config",
    "skip_unreadable": "--skip-unreadable",
    "method": "--preset",
    "gan": "--preset",
}
"""Settings of both stages, and parts of the search, for which there is one option. Those of the data are without
`data.`."""


def spelling(stage: str = "") -> Spelling:
    """How the option of a setting of a stage is spelled; without a stage, of the one that has such a setting."""
    trained = {one.name for one in fields(EvaluateConfig)}

    def option(setting: str) -> str:
        name = setting.removeprefix("data.")
        if name in COMMON and (stage, name) != (SEARCH, "image_size"):
            return COMMON[name]
        if name == "image_size":
            return "--search.image-size"  # the training's is --image-size
        return flag(f"{stage or (TRAINING if setting.partition('.')[0] in trained else SEARCH)}.{setting}")

    return option


def part_of_fit(stage: str = "") -> AbstractContextManager[None]:
    """Inside, messages name the options of `dasgm fit`, those of a stage first."""
    return spelled(spelling(stage))
