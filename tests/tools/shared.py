"""What takes long to make, made once for all processes that test."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of that name, which `make` fills; the first process that asks calls it. Who uses it changes nothing."""
    root = factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        root = root.parent  # of all processes
    with open(root / f"{name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / f"{name}.made").exists():
            (root / name).mkdir()  # FileExistsError: it could not be made before
            make(root / name)
            (root / f"{name}.made").touch()
    return root / name
