"""The layout of the packages in numbers, read from the source without importing it.

python tests/tools/layout.py [ROOT]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGES = ("dasgm", "cluster", "tuning")
SOURCES = (*PACKAGES, "tests", "benchmarks")
Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """The modules of the packages, by name."""

    def name(path: Path) -> str:
        parts = path.relative_to(root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    return {name(path): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}


def imports(root: Path) -> Graph:
    """The modules that each module imports, in functions too, but not for types alone."""
    known = modules(root)
    return {name: set(_imported(ast.parse(path.read_text()), known)) - {name} for name, path in known.items()}


def _imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, "imports name the whole path"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in (n if n in known else node.module for n in inside) if name in known)
        yield from _imported(node, known)


def circle(graph: Graph) -> list[str]:
    """Modules that import each other in a circle, [] if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def circles(graph: Graph) -> int:
    """Groups of modules that reach each other by imports."""

    def reached(start: str) -> set[str]:
        found, waiting = set[str](), [start]
        while waiting:
            new = graph[waiting.pop()] - found
            found |= new
            waiting += new
        return found

    reach = {name: reached(name) for name in graph}
    return len({frozenset(o for o in reach[name] if name in reach[o]) for name in graph if name in reach[name]})


def floors(graph: Graph) -> int:
    """The longest chain of imports; a circle counts as one floor."""
    done: dict[str, int] = {}

    def floor(name: str, above: frozenset[str]) -> int:
        if name not in done:
            below = [floor(other, above | {name}) for other in graph[name] - above]
            done[name] = 1 + max(below, default=0)
        return done[name]

    return max(floor(name, frozenset()) for name in graph)


def rooms(graph: Graph) -> Graph:
    """The same between the modules and packages at the top of dasgm."""

    def room(name: str) -> str:
        return name.split(".")[1] if name.startswith("dasgm.") else ""

    found: Graph = {room(name): set() for name in graph if room(name)}
    for name, others in graph.items():
        if room(name):
            found[room(name)] |= {room(other) for other in others} - {room(name), ""}
    return found


def files(root: Path) -> dict[str, int]:
    """Lines of every Python file."""
    found = [path for source in SOURCES for path in (root / source).rglob("*.py")]
    return {path.relative_to(root).as_posix(): len(path.read_text().splitlines()) for path in found}


def functions(root: Path) -> dict[str, int]:
    """Lines of every function, its docstring not counted."""
    found = {}
    for name in files(root):
        for node in ast.walk(ast.parse((root / name).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno
                first = node.body[0]
                words = ast.get_docstring(node) is not None and first.end_lineno - first.lineno + 1  # type: ignore[operator]
                found[f"{name}:{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1 - int(words)
    return found


def main(root: Path) -> None:
    """Print the numbers."""
    graph, lines, long = imports(root), files(root), functions(root)
    top = [path for path in (root / "dasgm").glob("*.py") if not path.stem.startswith("__")]
    print(f"modules at the top of dasgm    {len(top)}")
    print(f"circles of imports             {circles(graph)}")
    print(f"floors                         {floors(graph)}")
    print(f"imports between modules        {sum(map(len, graph.values()))}")
    between = rooms(graph)
    print(
        f"modules and packages at the top {len(between)}, imports between them {sum(map(len, between.values()))}, "
        f"floors {floors(between)}, circles {circles(between)}"
    )
    for kind in SOURCES:
        print(f"lines of {kind:<22}{sum(n for name, n in lines.items() if name.startswith(kind + '/'))}")
    for what, counts in (("file", lines), ("function", long)):
        name = max(counts, key=lambda one: counts[one])
        print(f"longest {what:<23}{counts[name]} lines, {name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[2])
