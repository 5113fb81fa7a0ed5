"""Words of a command line to a configuration: a preset, its parts, and what a user gave. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dasgm.api.choices import SearchChoice, choose_search
from dasgm.cli.arguments import ensure_once, take
from dasgm.given import ensure_effect, on_command_line
from dasgm.plugins import keys
from dasgm.presets import PRESETS

BEFORE = ("--gan", "--method", "--dataset", "--preset", "--data-dir")


@dataclass(frozen=True)
class Chosen(SearchChoice):
    """What stands before the settings on a command line: PRESET, --gan, --method, --dataset, --data-dir."""

    rest: list[str] = field(default_factory=list)
    """The words after it."""


def choose(argv: Sequence[str], default: str = "quickstart", positional: bool = True) -> Chosen:
    """Take the preset and its parts out of the arguments; the rest is for the parser, which then knows their flags.

    Raises:
        ValueError: an unknown preset or part (the nearest name is suggested), a given setting without effect.
    """
    values, first, rest = take(argv, BEFORE, int(positional))
    ensure_once("--preset", values, next(iter(first), None))
    named = values.pop("--preset", None) or next(iter(first), None)
    found = choose_search(named or default, **{flag[2:].replace("-", "_"): value for flag, value in values.items()})
    given = found.given | on_command_line(rest, found.config)
    ensure_effect(given, found.config)
    return Chosen(found.preset, found.config, found.published, given, rest)


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
