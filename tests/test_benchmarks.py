"""The command that measures: what it knows, refuses, counts and writes. How fast anything is, no test says."""

from __future__ import annotations

import importlib
import statistics
import sys

import pytest
import torch
from commands import ROOT

NAMES = [path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py")]
pytestmark = pytest.mark.usefixtures("checkout")


@pytest.fixture
def checkout(monkeypatch):
    """`benchmarks` is no part of the package."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("name", NAMES)
def test_benchmarks_find_what_they_measure(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(getattr(module, "rows", None) or module.main)


def test_help_names_every_benchmark_with_its_line():
    from benchmarks.__main__ import known, words

    text = words().format_help()
    assert len(NAMES) > 8 and sorted(NAMES) == sorted(known())
    assert all(line and line in text and f"  {name} " in text for name, (line, _) in known().items())


@pytest.mark.parametrize("name", ["sarch", "load", "_rows", "../search"])
def test_unknown_names_are_refused_in_one_line(name, monkeypatch, capsys):
    from benchmarks.__main__ import main

    monkeypatch.setattr(sys, "argv", ["benchmarks", name])
    with pytest.raises(SystemExit, match=f"^error: benchmark {name!r} is not known.*; there are: .*search") as refused:
        main()
    assert "\n" not in str(refused.value)


def test_a_section_replaces_its_own_and_nothing_else():
    from benchmarks.__main__ import BEGIN, END, HEADING, written

    page = f"# Measurements\n\nby hand\n\n{BEGIN}\n{END}\n\n## by hand too\n"
    first = written(page, "search", f"{HEADING}`python -m benchmarks search`\n\none\n")
    second = written(first, "network", f"{HEADING}`python -m benchmarks network --cells 3`\n\ntwo\n")
    third = written(second, "search", f"{HEADING}`python -m benchmarks search --seconds 5`\n\nthree\n")
    for text in (first, second, third):
        assert text.startswith("# Measurements\n\nby hand\n\n") and text.endswith("\n\n## by hand too\n")
    assert "one" in second and "two" in second and third.index("two") < third.index("three") and "one" not in third
    assert written(third, "search", f"{HEADING}`python -m benchmarks search --seconds 5`\n\nthree\n") == third


def test_the_page_has_the_markers():
    from benchmarks.__main__ import BEGIN, END

    page = (ROOT / "BENCHMARKS.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1 and page.index(BEGIN) < page.index(END)


def test_a_row_in_words():
    from benchmarks._rows import measured, missing, table

    values = (3.0, 1.0, 2.0, 10.0, 2.5)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    row = measured("a", *values, unit="s", goal="1", note="n")
    assert row.median == 2.5 and row.quartiles == (low, high)
    assert table([row, missing("b", "no GPU")]).splitlines()[2:] == [
        "| a | 2.5 s | 2 to 3, 5 times | 1 | n |",
        "| b | not measured | | | no GPU |",
    ]


def test_operations_of_the_device_are_counted_without_views():
    from benchmarks._count import counted

    weight = torch.ones(3, 1, device="meta", requires_grad=True)

    def work() -> None:
        x = torch.ones(2, 3).to("meta")  # a copy
        loss = (x @ weight).relu().view(-1).sum()  # mm, relu, sum
        if loss.item():  # a value that the host waits for
            torch.autograd.grad(loss, weight)  # ones_like, threshold_backward, mm

    found = counted(work)
    assert (found.synchronisations, found.copies) == (1, 1)
    names = ["_to_copy", "mm", "relu", "sum", "ones_like", "threshold_backward", "mm"]
    assert sorted(found.operations.elements()) == sorted(names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_benchmark_measures_nothing(monkeypatch):
    from benchmarks import gpu
    from benchmarks._rows import Options

    rows = list(gpu.rows(Options()))
    assert len(rows) == len(gpu.PARTS) and all(row.figure() == "not measured" and row.what for row in rows)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="^error: PyTorch .* finds no GPU here: run this on a machine with one$"):
        gpu.main()
