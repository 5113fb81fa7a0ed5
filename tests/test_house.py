"""The layout: which module may import which, read from every import but those for types alone."""

from __future__ import annotations

import ast
import re

import pytest
from commands import ROOT
from layout import circle, files, functions, imports, rooms

PARTS_OF_A_SWEEP = ("trials", "halving", "callbacks", "table", "asking", "plan", "spaces", "pictures", "last_stage")

MOST_AT_THE_TOP = 16  # modules of dasgm besides __init__ and __main__
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 50  # its docstring not counted
GRAPH = imports(ROOT)


def test_no_circle_of_imports() -> None:
    assert sum(map(len, GRAPH.values())) > 300
    assert not circle(GRAPH)
    assert not circle(rooms(GRAPH)), "between the packages of dasgm"


def test_circles_are_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_no_file_and_no_function_is_long() -> None:
    lines, of_functions = files(ROOT), functions(ROOT)
    assert len(lines) > 200 and len(of_functions) > 2000
    assert not {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FILE}
    assert not {name: n for name, n in of_functions.items() if n > MOST_LINES_OF_A_FUNCTION}


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


def test_the_tests_that_a_page_names_are_there() -> None:
    """`test_x.py::test_name_...` names a file and the beginning of a function; `::test_name` is of the file before."""
    functions = {
        path.name: [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    missing, seen, file = [], 0, ""
    for page in (ROOT / "docs").rglob("*.md"):
        for named, name in re.findall(r"`(test_\w+\.py)?::([\w.]*)", page.read_text()):
            file, seen = named or file, seen + 1
            first, *others = (part.strip("_") for part in name.split("..."))
            if not any(f.startswith(first) and all(part in f for part in others) for f in functions.get(file, [])):
                missing.append(f"{page.name}: {file}::{name}")
    assert seen > 40 and not missing, missing


def test_only_the_suites_for_plug_ins_need_pytest() -> None:
    files = [path for package in ("dasgm", "cluster", "tuning") for path in (ROOT / package).rglob("*.py")]
    users = [
        path for path in files if re.search(r"^\s*(import|from) (pytest|dasgm\.testing)\b", path.read_text(), re.M)
    ]
    assert users and {path.parent for path in users} == {ROOT / "dasgm" / "testing"}
