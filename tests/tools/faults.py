"""Faults for tests: file systems of their own, and a search that is broken off and goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outcomes import rows_of

from dasgm.config import SearchConfig, override
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.presets import preset
from dasgm.store.records import read_lines
from dasgm.store.run import state_of

TINY = {"gan": "none", "method.epochs": 3, "method.arch_start_epoch": 1, "method.channels": 2, "batch_size": 8}
TINY |= {"data.limit": 100, "data.holdout": 0.2, "pictures_every": 9}
TINY |= {"proxy.epochs": 1, "proxy.channels": 4, "proxy.batch_size": 8}


def config() -> SearchConfig:
    return override(preset("quickstart").config, TINY)


def search(folder: Path, at_epoch: Callable[[int], None] = lambda epoch: None) -> list[str]:
    """Begin or continue it; what it said. `at_epoch` is called once an epoch is saved."""
    said: list[str] = []
    main(config(), folder, Hooks(say=said.append, report=lambda row: at_epoch(row["epoch"])))
    return said


def outcome(folder: Path) -> list[Any]:
    """All that must not depend on what happened on the way."""
    return [
        rows_of(folder),
        read_lines(folder / "alphas.jsonl"),
        (folder / "genotype.json").read_text(),
        state_of(folder),
    ]


def mount(*words: str | Path) -> None:
    if subprocess.run(["mount", *words], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs the right to mount")


@contextmanager
def unmounted(folder: Path) -> Iterator[None]:
    """Whatever is mounted there in the block is not afterwards."""
    try:
        yield
    finally:
        while subprocess.run(["umount", "--lazy", folder], stderr=subprocess.DEVNULL).returncode == 0:
            pass


def broken_off(folder: Path, at_epoch: Callable[[int], None], says: str) -> list[dict[str, Any]]:
    """Run into the fault that comes after epoch 1; the epochs that were reported before it."""
    with pytest.raises(OSError) as error:
        search(folder, at_epoch)
    line = str(error.value)
    assert line.startswith(f"storage {folder}: ") and says in line and len(line.splitlines()) == 1
    assert state_of(folder) == "interrupted" and not list((folder / "checkpoints").glob(".*"))
    return read_lines(folder / "metrics.jsonl")


def went_on(folder: Path, reported: list[dict[str, Any]], undisturbed: Path) -> None:
    """The same call ends as if nothing had been; what was reported and saved is not computed again."""
    said = search(folder)
    assert f"going on after epoch 1 of {folder}" in said
    assert read_lines(folder / "metrics.jsonl")[:1] == reported[:1]  # the time too
    assert outcome(folder) == outcome(undisturbed)
