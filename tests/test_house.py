"""The layout: which module may import which, read from every import but those for types alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("dasgm", "cluster", "tuning")
PARTS_OF_A_SWEEP = ("trials", "halving", "callbacks", "table", "asking", "plan", "spaces", "last_stage")
MOST_AT_THE_TOP = 16  # modules of dasgm besides __init__ and __main__


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of modules, those that functions import too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports name the whole path"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inside)
        yield from imported(node)


GRAPH = {
    name: {other for other in imported(ast.parse(path.read_text())) if other in MODULES and other != name}
    for name, path in MODULES.items()
}


def test_no_circle_of_imports() -> None:
    assert sum(map(len, GRAPH.values())) > 300
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("below", "above"),
    [
        ("dasgm", ("cluster", "tuning")),
        ("cluster", ("tuning",)),
        ("cluster.driver", ("cluster.search", "cluster.pretrain", "cluster.evaluate", "cluster.group")),
        ("cluster.group", ("cluster.evaluations", "cluster.evaluate")),
        *((f"tuning.{name}", ("tuning.sweep", "tuning.options")) for name in PARTS_OF_A_SWEEP),
        ("dasgm.store", ("dasgm.config", "dasgm.search", "dasgm.data", "dasgm.jobs", "dasgm.pages", "dasgm.cli")),
        ("dasgm.pages", ("dasgm.jobs", "dasgm.cli")),
        ("dasgm.jobs", ("dasgm.cli",)),
        ("dasgm.measures", ("dasgm.jobs", "dasgm.pages", "dasgm.cli")),
    ],
)
def test_one_way_doors(below: str, above: tuple[str, ...]) -> None:
    def within(name: str, package: str) -> bool:
        return name == package or name.startswith(package + ".")

    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if within(name, below) and any(within(other, package) for package in above)
    ]
    assert not wrong


def test_the_top_of_dasgm_is_the_papers_parts() -> None:
    top = [path.stem for path in (ROOT / "dasgm").glob("*.py") if path.stem not in ("__init__", "__main__")]
    assert 10 < len(top) <= MOST_AT_THE_TOP, sorted(top)
