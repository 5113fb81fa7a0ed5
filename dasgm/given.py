"""Which settings a user has given: on the command line, or in preset files of his own. Free of torch.

A setting is named by its path in a configuration: val_portion, gan, gan.generator_lr.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from dasgm.config import PARTS, settings
from dasgm.options import option
from dasgm.plugins import key_of

Given = frozenset[str]
NOTHING: Given = frozenset()


def flags(words: Sequence[str]) -> Given:
    """The flags among the words of a command line, as paths: --gan.generator-lr=1e-3, --no-freeze-gan."""
    named = (word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--"))
    return frozenset(re.sub(r"(^|\.)no_([^.]+)$", r"\1\2", name) for name in named)


def on_command_line(words: Sequence[str], config: Any) -> Given:
    """The settings of `config` among the words of a command line."""
    return flags(words) & frozenset(settings(config, younger=True))


def after(given: Given, old: Any, new: Any, changes: Iterable[str]) -> Given:
    """The given settings after `changes` turned `old` into `new`: the changes, and what was given before.

    The settings of a part that was replaced are dropped: those of BigGAN say nothing about ContraGAN.
    """
    replaced = [f"{part}." for part in PARTS if key_of(getattr(old, part)) != key_of(getattr(new, part))]
    kept = {path for path in given if not path.startswith(tuple(replaced))}
    return frozenset(kept | {path.replace("-", "_") for path in changes})


def ensure_effect(given: Given, config: Any) -> None:
    """ValueError for a given setting that this search would not use."""
    if config.gan is None and "val_portion" in given:
        raise ValueError(
            "val-portion is given, but there is no GAN: without one, J_3 has real images only; leave val-portion out, "
            f"or choose a GAN, such as {option('gan')} biggan"
        )
