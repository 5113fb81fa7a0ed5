"""At what size a search or a training was made: where its settings differ from those of the paper's protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dasgm.config import SearchConfig, from_json, settings
from dasgm.pages.view import RunView
from dasgm.plugins import key_of
from dasgm.presets import with_dataset
from dasgm.presets.rows import PaperRow
from dasgm.recipes import EvaluateConfig, recipe

WORDS = {  # settings that are named in the few words of a budget, and how
    "method.epochs": "{} epochs",
    "epochs": "{} epochs",
    "method.cells": "{} cells",
    "cells": "{} cells",
    "method.channels": "{} channels",
    "channels": "{} channels",
    "batch_size": "batch {}",
    "data.limit": "{} pictures",
    "data.image_size": "{} pixels",
    "gan.channels": "GAN of {} channels",
}
NO_SIZE = ("seed", "gan_checkpoint", "proxy.", "data.config", "cost.")
"""Settings of a search that are no part of its budget: the proxy is measured after it."""
NOT_TRAINED_BY = ("seed", "data.holdout", "data.split", "data.weight_portion", "data.config")
"""Settings of an evaluation that do not change it: it trains on the whole training set."""
RECIPES = {"imagenet": "imagenet"}
DROP_PATHS = (0.2, 0.3)  # which the paper leaves open: DARTS's, and P-DARTS's and PC-DARTS's


@dataclass(frozen=True)
class Budget:
    """What differs from the paper's protocol; nothing does in a run at the paper's size."""

    changes: tuple[tuple[str, Any, Any], ...] = ()
    """Setting, its value here, and that of the protocol."""
    unread: str = ""
    """Why the settings of the run cannot be compared."""

    @property
    def papers(self) -> bool:
        return not self.changes and not self.unread

    @property
    def brief(self) -> str:
        """In a few words: `5 epochs (paper: 50), 3 cells (8), 12 more settings`."""
        if self.papers or self.unread:
            return self.unread or "the paper's"
        named = [(WORDS[path].format(_value(here, path)), _value(there, path)) for path, here, there in self._of(WORDS)]
        words = [f"{here} ({'' if i else 'paper: '}{there})" for i, (here, there) in enumerate(named)]
        more = len(self.changes) - len(named)
        if more and not named:
            words = [f"{path} {_value(a, path)} (paper: {_value(b, path)})" for path, a, b in self.changes[:3]]
            more = len(self.changes) - len(words)
        return ", ".join([*words, *([f"{more} more setting{'s' * (more > 1)}"] if more else [])])

    @property
    def whole(self) -> str:
        """All that differs."""
        lines = (f"{path} {_value(here, path)} ({_value(there, path)})" for path, here, there in self.changes)
        return self.unread or ", ".join(lines)

    @property
    def without_gan(self) -> tuple[Any, ...]:
        """What two rows must have in common to be compared: all but the GAN's own settings."""
        return (*(one for one in self.changes if not one[0].startswith("gan.")), self.unread)

    def _of(self, words: Mapping[str, str]) -> list[tuple[str, Any, Any]]:
        """The changes that have words, in the order of the words."""
        return [one for path in words for one in self.changes if one[0] == path]


def _value(value: Any, path: str) -> str:
    if path == "data.limit" and not value:
        return "all"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def of_search(run: RunView, config: SearchConfig, row: PaperRow) -> Budget:
    """Of a search of a row, whose settings are `config`."""
    own = settings(config, younger=True)
    own["batch_size"] *= _workers(run)
    return Budget(_differences(own, settings(row.config(key_of(config.data)), younger=True), _left_out(config)))


def of_training(run: RunView) -> Budget:
    """Of a network's training from scratch."""
    try:
        config = from_json(run.config, EvaluateConfig)
        own = settings(config, younger=True)
        recipes = RECIPES.get(key_of(config.data), "cifar")
        asked = settings(with_dataset(recipe(recipes).config, key_of(config.data)), younger=True)
    except (ValueError, TypeError, AttributeError):
        return Budget(unread="its settings are of another version")
    own["batch_size"] *= _workers(run)
    same = ("drop_path",) if own["drop_path"] in DROP_PATHS and recipes == "cifar" else ()
    return Budget(_differences(own, asked, (*NOT_TRAINED_BY, *same)))


def scored_by(config: SearchConfig) -> tuple[Any, ...]:
    """The settings of the proxy, by which the scores of two searches can be compared."""
    return tuple(vars(config.proxy).values())


def _left_out(config: SearchConfig) -> tuple[str, ...]:
    """A GAN that nothing pre-trains has settings of a pre-training too."""
    return NO_SIZE if config.gan is not None and config.freeze_gan else (*NO_SIZE, "gan.pretrain_")


def _differences(own: Mapping[str, Any], asked: Mapping[str, Any], but: tuple[str, ...]) -> tuple[Any, ...]:
    paths = [path for path in {**own, **asked} if not path.startswith(but)]
    pairs = ((path, _plain(own.get(path)), _plain(asked.get(path))) for path in paths)
    return tuple(one for one in pairs if one[1] != one[2])


def _plain(value: Any) -> Any:
    """A list as a tuple, which can be the key of a group."""
    return tuple(value) if isinstance(value, list) else value


def _workers(run: RunView) -> int:
    """How many processes shared the run, each with a batch of its own."""
    return max(1, int(run.info.get("workers", 1)))
