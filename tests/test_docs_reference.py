"""The reference against the code: every metric, every file of a run and every error message of its pages is there."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module

from commands import ROOT

from dasgm.options import flag

PACKAGES = ("dasgm", "cluster", "tuning")
REFERENCE = ROOT / "docs" / "reference"
METRIC = re.compile(r"(arch|best|cost|gan|grad|loss|result|speed|test|train|truth|val)/[a-z0-9_]*[a-z0-9]")
VALUE = "\0"  # in the text of an f-string: what depends on the case


def trees(*packages: str) -> Iterator[ast.AST]:
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            yield ast.parse(path.read_text())


def texts(*packages: str) -> set[str]:
    """Every text in the code, with VALUE for each value in it."""
    found = set()
    for tree in trees(*packages):
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(map(text_of, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def text_of(part: ast.expr) -> str:
    """A part of an f-string; `option("data_dir")` (dasgm/options.py) is what a command with one configuration says."""
    match part:
        case ast.Constant(value):
            return str(value)
        case ast.FormattedValue(ast.Call(ast.Name("option"), [ast.Constant(str(setting))])):
            return flag(setting)
    return VALUE


def first_cells(page: str) -> list[str]:
    """What stands in backticks in the first column of a page's tables."""
    rows = re.findall(r"^\| (`.*?`) \|", (REFERENCE / page).read_text(), re.MULTILINE)
    return [word for row in rows for word in re.findall(r"`([^`]*)`", row)]


def test_every_metric_is_explained() -> None:
    """Those whose name is a text of the code; other names are made of two parts, as of `truth/` and a data set."""
    named = {text for text in texts("dasgm") if METRIC.fullmatch(text)}
    page = (REFERENCE / "metrics.md").read_text()
    assert len(named) > 30 and not {name for name in named if f"`{name}`" not in page}


def test_every_error_is_a_text_of_the_code() -> None:
    """`...` stands for anything; texts that a line joins may be several of the code's."""
    code = texts(*PACKAGES)
    listed = [cell for cell in first_cells("errors.md") if " " in cell]
    missing = []
    for message in listed:
        parts = [part for part in message.split("...") if len(part.strip(" ;:,()")) > 3]
        if not all(any(part in text for text in code) for part in parts):
            missing.append(message)
    assert len(listed) > 40 and not missing, "\n".join(missing)


def test_what_the_reference_lists_can_be_imported(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    generated = import_module("generated")
    for name in (name for names in generated.API.values() for name in names):
        module, _, thing = name.rpartition(".")
        assert getattr(import_module(module), thing).__doc__, name
    del sys.modules["generated"]


def test_every_command_of_the_readme_is_in_the_reference(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    known = import_module("generated").COMMANDS
    table = re.findall(r"^\| `(dasgm \w+|python -m \S+|python \S+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(table) > 15 and {*table} <= {*known}
    del sys.modules["generated"]


def test_the_code_that_pages_name_is_there() -> None:
    dead = [
        f"{page.name}: {name}"
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r"`((?:dasgm|cluster|tuning|tests)/[\w/]+\.\w+)`", page.read_text())
        if not (ROOT / name).exists()
    ]
    assert not dead


def test_paths_of_a_run_are_explained() -> None:
    """The files that `Run`, the jobs and the commands name."""
    page = (REFERENCE / "files.md").read_text()
    kinds = r"[a-z]+\.(json|jsonl|csv|md|svg|html|db|txt|safetensors)"
    named = {text for text in texts("dasgm/store", "dasgm/jobs", "dasgm/pages", "tuning") if re.fullmatch(kinds, text)}
    assert len(named) > 12 and not {name for name in named if f"`{name}`" not in page}
