"""Messages name options that the running command has."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro
from commands import ROOT

from dasgm.api.stages import SEARCH, TRAINING, part_of_fit
from dasgm.cli.fit_options import BEFORE, FitOptions
from dasgm.config import PARTS, PretrainConfig, SearchConfig
from dasgm.options import option
from dasgm.plugins import keys, plugin
from dasgm.presets import preset, with_dataset
from dasgm.recipes import EvaluateConfig, recipe

# the command line and what it is made of, and texts that are no messages
ABOVE = ("api", "cli", "testing", "presets", "pages", "recipes.py")


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    for one in fields(value):
        inner = getattr(value, one.name)
        yield from paths(inner, f"{prefix}{one.name}.") if is_dataclass(inner) else [f"{prefix}{one.name}"]


def test_dasgm_fit_has_every_option_that_its_messages_name() -> None:
    options = FitOptions(
        with_dataset(preset("dasgm-darts").config, "folder"), with_dataset(recipe("cifar").config, "folder")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = tyro.extras.get_parser(FitOptions, default=options, config=(tyro.conf.AvoidSubcommands,))
    there = {word for action in parser._actions for word in action.option_strings} | {*BEFORE, "PICTURES"}
    for stage, config in ((SEARCH, options.search), (TRAINING, options.training)):
        named = set(paths(config))
        assert {"batch_size", "data.image_size", "data.skip_unreadable", "device"} <= named
        with part_of_fit(stage):
            assert not {option(path) for path in named} - there
            assert option("data.image_size") == {SEARCH: "--search.image-size", TRAINING: "--image-size"}[stage]
            assert option("batch_size") == f"--{stage}.batch-size"
            assert option("data.skip_unreadable") == "--skip-unreadable"
    with part_of_fit():
        assert (option("lr_schedule"), option("arch_lr")) == ("--training.lr-schedule", "--search.arch-lr")
    assert option("data.skip_unreadable") == "--data.skip-unreadable"


def settings() -> set[str]:
    """The options of all settings, as commands with one configuration spell them."""
    kinds: list[Any] = [SearchConfig, EvaluateConfig, PretrainConfig]
    found = {one.name for kind in kinds for one in fields(kind)}
    for part, folder in PARTS.items():
        found |= {f"{part}.{one.name}" for key in keys(folder) for one in fields(plugin(folder, key))}
    return {f"--{name.replace('_', '-')}" for name in found}


def literals(tree: ast.AST) -> Iterator[str]:
    """Strings but for docstrings."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def test_messages_below_the_command_line_spell_no_option_of_a_setting() -> None:
    """`option` does, as the running command has it."""
    known, files = settings(), 0
    assert {"--batch-size", "--data.skip-unreadable", "--method.epochs", "--folds"} <= known
    for path in sorted((ROOT / "dasgm").rglob("*.py")):
        if path.relative_to(ROOT / "dasgm").parts[0] not in ABOVE:
            files += 1
            words = {word for text in literals(ast.parse(path.read_text())) for word in OPTION.findall(text)}
            own = {"--precision"} if path == ROOT / "dasgm" / "export.py" else set[str]()  # of dasgm export itself
            assert not (words & known) - own, path
    assert files > 100


OPTION = re.compile(r"--[a-z][a-z0-9.-]*[a-z0-9]")


@pytest.mark.parametrize("place", [Path("x"), None])
def test_a_message_of_the_data_names_the_folder_as_the_command_does(place: Path | None) -> None:
    config = plugin("data", "folder")()
    with pytest.raises(ValueError, match="--data-dir"):
        config.load(place and str(place))
    with part_of_fit(), pytest.raises(ValueError, match="PICTURES"):
        config.load(place and str(place))
