"""The command: which benchmarks run, what is printed, and the section of BENCHMARKS.md."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import dasgm
from benchmarks._rows import Options, Row, table
from dasgm.device import device_of, hardware
from dasgm.plugins import nearest

HERE = Path(__file__).parent
PAGE = HERE.parent / "BENCHMARKS.md"
BEGIN, END = "<!-- python -m benchmarks: begin -->", "<!-- python -m benchmarks: end -->"
HEADING = "### "


def known() -> dict[str, tuple[str, bool]]:
    """Each benchmark's one line, and whether it gives rows of the table. Nothing is imported for that."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        tree = ast.parse(path.read_text())
        gives = any(isinstance(node, ast.FunctionDef) and node.name == "rows" for node in tree.body)
        found[path.stem] = ((ast.get_docstring(tree) or "").partition("\n")[0], gives)
    return found


def words() -> argparse.ArgumentParser:
    """The command line. Its help teaches."""
    there = known()
    width = max(map(len, there))

    def listed(gives: bool) -> str:
        return "\n".join(f"  {name:{width}}  {line}" for name, (line, rows) in there.items() if rows == gives)

    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description="Measures on this machine, prints a table and writes it into BENCHMARKS.md, in place of what the\n"
        "same benchmarks gave before. What needs another machine reads 'not measured'.",
        epilog=f"benchmarks:\n{listed(True)}\n\nby themselves, python -m benchmarks.NAME --help:\n{listed(False)}\n\n"
        "examples:\n"
        "  python -m benchmarks search --cells 3 --channels 8 --seconds 10   a quick look at ratios\n"
        "  python -m benchmarks operations --json                            counts, which no other work disturbs\n"
        "  python -m benchmarks --no-write                                   all of it\n"
        "A new benchmark is a new file in benchmarks/: its first line says what it measures, and its rows(options)\n"
        "gives the lines of the table.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks; none: all that give rows")
    parser.add_argument("--json", action="store_true", help="print JSON with every value, instead of the table")
    parser.add_argument("--no-write", action="store_true", help="leave BENCHMARKS.md as it is")
    parser.add_argument("--cells", type=int, default=default.cells, help="of supernets (default: the paper's 8)")
    parser.add_argument("--channels", type=int, default=default.channels, help="of supernets (default: the paper's 16)")
    parser.add_argument("--batches", type=int, nargs="+", default=default.batches, help="sizes (default: 8 64)")
    parser.add_argument("--seconds", type=float, default=default.seconds,
                        help="of each row, which is measured three times at least (default: 60)")  # fmt: skip
    parser.add_argument("--data-dir", help="ImageNet or a folder of photographs per WordNet id, for imagenet_loader")
    return parser


def choose(names: list[str]) -> list[str]:
    """The benchmarks of these names. Raises ValueError for one that there is not."""
    there = {name for name, (_, gives) in known().items() if gives}
    for name in names:
        if name not in there:
            raise ValueError(
                f"benchmark {name!r:.60} is not known{nearest(name, sorted(there))}; there are: "
                f"{', '.join(sorted(there))}"
            )
    return names or sorted(there)


def circumstances() -> dict[str, str]:
    """Machine, versions, date: without them a figure says nothing."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{hardware(device_of('auto'))}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "dasgm": dasgm.__version__,
        "torch": torch.__version__,
    }
    for package in ("ray", "mlflow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def section(name: str, rows: list[Row], where: dict[str, str], said: str) -> str:
    """What stands in BENCHMARKS.md under a benchmark's heading."""
    line = known()[name][0]
    circumstance = ", ".join(value if key in ("date", "machine") else f"{key} {value}" for key, value in where.items())
    return f"{HEADING}`{said}`\n\n{line} ({circumstance})\n\n{table(rows)}\n"


def written(page: str, name: str, text: str) -> str:
    """The page with this text in place of what the benchmark `name` wrote last; all else stays."""
    before, _, rest = page.partition(BEGIN)
    inside, _, after = rest.partition(END)
    parts = inside.split(HEADING)[1:]
    others = {part.split("`")[1].split()[3]: HEADING + part.strip() + "\n" for part in parts}
    others[name] = text
    return before + "\n\n".join([BEGIN, *(t.strip() for _, t in sorted(others.items())), END]) + after


def measure(names: list[str], options: Options) -> Iterator[tuple[str, list[Row]]]:
    for name in names:
        module, rows = importlib.import_module(f"benchmarks.{name}"), []
        for row in module.rows(options):
            rows.append(row)
            print(f"{row.what}: {row.figure()} {row.spread() and f'({row.spread()})'}", file=sys.stderr, flush=True)
        yield name, rows


def main() -> None:
    asked = words().parse_args()
    try:
        names = choose(asked.names)
        report(names, asked)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


def report(names: list[str], asked: argparse.Namespace) -> None:
    """Measures, prints and writes; what was measured is written even where a later benchmark fails."""
    options = Options(**{f.name: getattr(asked, f.name) for f in fields(Options)})
    own = [f"--{f.name.replace('_', '-')} {words_of(getattr(options, f.name))}" for f in fields(Options)
           if f.name != "data_dir" and tuple_of(getattr(options, f.name)) != tuple_of(f.default)]  # fmt: skip
    found = {}
    for name, rows in measure(names, options):
        where = circumstances()
        found[name] = where | {"rows": [row.plain() for row in rows]}
        text = section(name, rows, where, " ".join(["python -m benchmarks", name, *own]))
        if not asked.json:
            print(text)
        if not asked.no_write:
            PAGE.write_text(written(PAGE.read_text(), name, text))  # read now: others may have written it
    if asked.json:
        print(json.dumps(found, indent=1))


def tuple_of(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def words_of(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


if __name__ == "__main__":
    main()
