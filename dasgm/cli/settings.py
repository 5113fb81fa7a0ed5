"""Words of a command line to a configuration: a preset, its parts, and what a user gave. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dasgm.cli.arguments import ensure_once, take
from dasgm.config import SearchConfig
from dasgm.data._base import DataConfig
from dasgm.given import NOTHING, Given, after, ensure_effect, on_command_line
from dasgm.plugins import key_of, keys
from dasgm.presets import PRESETS, preset, with_dataset, with_gan, with_method

PARTS = {"--gan": "gan", "--method": "method", "--dataset": "data"}


BEFORE = (*PARTS, "--preset", "--data-dir")


def check_time_budget(seconds: float | None) -> None:
    """ValueError where it is not more than nothing."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"time-budget {seconds}: expected seconds, more than 0")


@dataclass(frozen=True)
class Chosen:
    """What stands before the settings on a command line: PRESET, --gan, --method, --dataset, --data-dir."""

    preset: str
    config: SearchConfig
    rest: list[str]
    published: str = ""
    given: Given = NOTHING
    """Settings that the command line or the user's own preset files name, even if they name the default."""

    @property
    def dataset(self) -> str:
        return key_of(self.config.data)

    def name(self) -> str:
        """The run's name by default: <preset>-<dataset>-s<seed>."""
        return f"{Path(self.preset).stem}-{self.dataset}-s{self.config.seed}"


def choose(argv: Sequence[str], default: str = "quickstart", positional: bool = True) -> Chosen:
    """Take the preset and its parts out of the arguments; the rest is for the parser, which then knows their flags.

    Raises:
        ValueError: an unknown preset or part (the nearest name is suggested), a given setting without effect.
    """
    values, first, rest = take(argv, BEFORE, int(positional))
    ensure_once("--preset", values, next(iter(first), None))
    named = values.pop("--preset", None) or next(iter(first), None)
    data_dir = values.pop("--data-dir", None)
    parts = {PARTS[flag]: value for flag, value in values.items()}
    found = preset(named or default)
    config = found.config
    if "data" in parts:
        config = with_dataset(config, parts["data"])
    if "gan" in parts:
        config = with_gan(config, parts["gan"])
    if "method" in parts:
        config = with_method(config, parts["method"])
    ensure_meant(config.data, data_dir)
    given = after(found.given, found.config, config, parts) | on_command_line(rest, config)
    ensure_effect(given, config)
    return Chosen(named or default, replace(config, data_dir=absolute(data_dir)), rest, found.published, given)


def ensure_meant(data: DataConfig, data_dir: str | None) -> None:
    """ValueError where a folder is named and the data set is one that needs none."""
    if data_dir and data.packaged:
        raise ValueError(
            f"--data-dir {data_dir}: {key_of(data)} come with dasgm, so the folder would not be read; leave it out, or "
            "name what it holds, as in --dataset folder"
        )


def absolute(path: str | None) -> str | None:
    """Workers may stand in other folders; an address is one anywhere."""
    return os.path.abspath(os.path.expanduser(path)) if path and "://" not in path else path


def parts_help(positional: bool = True, pretrain: bool = False) -> str:
    """What may stand before the settings, for --help; `positional`: also the preset alone, as the first word.

    `pretrain`: for a command that trains the GAN alone, so has no method.
    """
    found = {folder: ", ".join(keys(folder)) for folder in ("data", "gans", "methods")}
    first = "PRESET or --preset PRESET" if positional else "--preset PRESET"
    gans = f"GAN that generates images: {found['gans']}; with none, the search has no GAN."
    purpose, gan = ("train", f"GAN to train: {found['gans']}.") if pretrain else ("search", gans)
    method = "" if pretrain else f"\n- --method NAME: Search method: {found['methods']}."
    return (
        f"\n- {first}: Settings to begin with: a name, or the path of a JSON file. "
        f"Names: {', '.join(PRESETS)}. `dasgm presets` explains them."
        f"\n- --dataset NAME: Data set to {purpose} on: {found['data']}."
        "\n- --data-dir FOLDER: Folder with the data set's files."
        f"\n- --gan NAME: {gan}{method}"
        "\n\nThese are read before all other options, which are listed below with the defaults that they choose."
    )


def placed(config: Any) -> Any:
    """With the places of its files as seen from anywhere."""
    names = [name for name in ("gan_checkpoint", "inception_weights", "truth") if hasattr(config, name)]
    return replace(config, **{name: absolute(getattr(config, name)) for name in names})
