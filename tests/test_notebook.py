"""The notebook in examples/ runs, and what it shows was made by running it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from commands import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
MOST = 300_000  # bytes


def shown(notebook: Any) -> list[list[tuple[str, ...]]]:
    """Of each code cell the kinds of what it shows."""
    return [
        sorted({(one.output_type, *sorted(one.get("data", {}))) for one in cell.outputs})
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_it_was_executed_from_the_first_cell_to_the_last() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [kind for cell in shown(notebook) for kind, *_ in cell if kind == "error"]
    content = NOTEBOOK.read_text()
    assert len(content) < MOST and str(Path.home()) not in content and str(ROOT) not in content


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_and_shows_the_same_kinds_of_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = shown(notebook)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shown(notebook) == before
    assert (tmp_path / "runs" / "notebook" / "found" / "model.safetensors").is_file()
