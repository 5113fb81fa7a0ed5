"""Presets and configurations as tables and lines for people."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dasgm.config import to_json
from dasgm.plugins import key_of
from dasgm.presets import PRESETS, difference, preset
from dasgm.store.files import printable, shown


def presets() -> Table:
    """Every preset: the settings that tell it from others, and the published error."""
    names = ("method", "order", "GAN", "val", "batch", "epochs", "cells", "rates", "published error, %")
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("preset", *names):
        table.add_column(name, no_wrap=name != names[-1])
    for name, found in PRESETS.items():
        config, stages = found.config, found.config.stages
        table.add_row(
            name,
            key_of(config.method),
            config.order,
            key_of(config.gan) + ", frozen" * config.freeze_gan + ", B searched" * config.searches_discriminator,
            f"{config.real_portion:.0%}",
            str(config.batch_size),
            "+".join(str(stage.epochs) for stage in stages),
            ", ".join(str(stage.cells) for stage in stages),
            f"{config.classifier_lr:g}, {config.arch_lr:g}",
            found.published.removesuffix(" (Table 2)") or found.about,
        )
    table.caption = (
        "val: real images' share of J_3; rates: of W and A.   dasgm presets NAME: all settings, and their reasons"
    )
    return table


def described(name: str) -> str:
    """What a preset is, what it aims at, and each choice that the paper leaves open with its reason."""
    found = preset(name)
    aims = [f"aims at: {found.published}"] if found.published else []
    choices = ["choices that the paper leaves open, and why:", *(f"  - {c}" for c in found.choices)]
    return "\n".join([printable(f"{name}: {found.about}"), *aims, *(choices if found.choices else [])])


def differences(one: str, other: str) -> Table:
    """What sets two presets apart, a setting a row."""
    table = Table("setting", one, other, box=box.SIMPLE_HEAD)
    for path, values in difference(preset(one).config, preset(other).config).items():
        table.add_row(path, *("-" if value is None else str(value) for value in values))
    return table


def show_config(config: Any) -> None:
    """The whole configuration, as it is saved."""
    Console().print_json(json.dumps(shown(to_json(config))))
