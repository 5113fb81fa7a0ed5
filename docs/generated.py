"""Text of the reference that is made from the code: each function gives the Markdown of its comment in a page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dasgm.cli import catalogue
from dasgm.cli.main import VERBS
from dasgm.config import SearchConfig
from dasgm.presets import PRESETS, difference

ROOT = Path(__file__).parents[1]
SCRIPTS = ("tuning/sweep.py", "tuning/reproduce.py", "cluster/search.py", "cluster/pretrain.py", "cluster/evaluate.py")
COMMANDS = {
    **{f"dasgm {verb}": ["-m", "dasgm", verb] for verb in VERBS},
    **{f"python {script}": [script] for script in (*SCRIPTS, "cluster/doctor.py")},
    **{f"python -m {module}": ["-m", module] for module in ("tuning.pictures", "cluster.tracking", "benchmarks")},
}
"""What a user types, and the same for Python."""
BASIS = "dasgm-darts"
WIDTH = "88"  # columns of the help, as many as a page has


def help_of(words: list[str]) -> str:
    """What a command prints with `--help`."""
    environment = os.environ | {"COLUMNS": WIDTH, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.rstrip()


def commands() -> str:
    """Every command with its help."""
    with ThreadPoolExecutor(2) as pool:
        helps = list(pool.map(help_of, COMMANDS.values()))
    return "\n".join(f"## {name}\n\n```text\n{text}\n```\n" for name, text in zip(COMMANDS, helps, strict=True))


def presets() -> str:
    """The table of `dasgm presets`, and of each preset its choices and what sets it apart from BASIS."""
    columns = catalogue.presets().columns[:-1]  # the published error stands with the choices
    rows = zip(*(column.cells for column in columns), strict=True)
    lines = [row(str(column.header) for column in columns), row("---" for _ in columns)]
    lines += [row(map(str, cells)) for cells in rows]
    return "\n".join([*lines, "", *(explained(name) for name in PRESETS)])


def explained(name: str) -> str:
    preset = PRESETS[name]
    aims = f" Aims at {preset.published}." if preset.published else ""
    choices = "".join(f"- {choice}\n" for choice in preset.choices)
    return f"## {name}\n\n{preset.about}.{aims}\n\n{choices}\n{settings(preset.config)}\n"


def settings(config: SearchConfig) -> str:
    """What differs from BASIS, a setting a line."""
    found = difference(PRESETS[BASIS].config, config)
    lines = "".join(f"{path} = {value}\n" for path, (_, value) in found.items() if value is not None)  # None: has none
    return (
        f"```text\n{lines}```\n"
        if lines
        else f"The other presets are compared with this one: `dasgm presets {BASIS}`.\n"
    )


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


API = {
    "Trained networks": ("dasgm.load", "dasgm.model.Model", "dasgm.model.Prediction", "dasgm.export.export"),
    "Configurations": (
        "dasgm.config.SearchConfig",
        "dasgm.config.ProxyConfig",
        "dasgm.config.PretrainConfig",
        "dasgm.recipes.EvaluateConfig",
        "dasgm.recipes.Recipe",
        "dasgm.recipes.recipe",
        "dasgm.presets.preset",
        "dasgm.config.override",
        "dasgm.config.to_json",
        "dasgm.config.from_json",
    ),
    "Runs": (
        "dasgm.jobs.search.main",
        "dasgm.jobs.pretrain.main",
        "dasgm.jobs.evaluate.main",
        "dasgm.jobs.session.Hooks",
        "dasgm.jobs.session.Interrupted",
        "dasgm.search.SearchFailed",
        "dasgm.pages.view.read_run",
        "dasgm.pages.view.RunView",
        "dasgm.pages.report.report",
    ),
    "Genotypes": ("dasgm.genotype.Genotype", "dasgm.genotype.space_of", "dasgm.genotype.known"),
    "The algorithm": ("dasgm.search.Search", "dasgm.bilevel.player.Player", "dasgm.bilevel.hypergradient.mixed_vjp"),
    "Plug-ins": (
        "dasgm.gans._base.GanConfig",
        "dasgm.gans._base.Gan",
        "dasgm.methods._base.MethodConfig",
        "dasgm.methods._base.Stage",
        "dasgm.methods._base.View",
        "dasgm.data._base.DataConfig",
        "dasgm.data._images.Data",
        "dasgm.spaces._base.SearchSpace",
    ),
    "Suites for plug-ins": tuple(f"dasgm.testing.{kind}Conformance" for kind in ("Gan", "Method", "Data", "Space")),
}
"""What others may build on, by subject."""


def api() -> str:
    """Directives of autodoc."""
    return "\n".join(f"## {title}\n\n```{{eval-rst}}\n{directives(names)}```\n" for title, names in API.items())


def directives(names: Iterable[str]) -> str:
    return "\n".join(
        f".. autoclass:: {name}\n   :members:\n"
        if name.rpartition(".")[2][0].isupper()
        else f".. autofunction:: {name}\n"
        for name in names
    )
