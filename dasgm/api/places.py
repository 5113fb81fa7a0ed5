"""Where runs and their files lie, as named by a user. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path

from dasgm.store.bucket import local
from dasgm.store.replica import NO_RUNS, ensure_writable

TAKEN = (*NO_RUNS, "mlartifacts", "mlflow.db")  # what lies in runs, and beside them


def absolute(path: str | Path | None) -> str | None:
    """Workers may stand in other folders; an address is one anywhere."""
    if path is None or not str(path) or "://" in str(path):
        return None if path is None else str(path)
    return os.path.abspath(os.path.expanduser(path))


def ensure_name(name: str) -> None:
    """ValueError where it would not be a folder of its own below the storage."""
    parts = Path(name).parts
    if Path(name).is_absolute() or any(part.startswith(".") or part in TAKEN for part in parts):
        raise ValueError(f"name {name!r}: expected the name of a folder in --storage, other than {', '.join(TAKEN)}")


def check_time_budget(seconds: float | None) -> None:
    """ValueError where it is not more than nothing."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"time-budget {seconds}: expected seconds, more than 0")


def storage_here(storage: str | Path, name: str) -> Path:
    """The folder of a storage, which is a path or an address.

    Raises:
        ValueError: it cannot be written, or `name` is not that of a folder in it.
    """
    ensure_name(name)
    place = local(storage)
    ensure_writable(place)
    return place


def run_of(source: str | Path) -> Path:
    """The folder of the run that a genotype is of, if it is of one."""
    path = Path(source)
    return path.parent if path.name == "genotype.json" else path
