"""What ran in a storage, run by run: as plain data, as a table for people, as JSON for programs. Free of torch."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

from dasgm.store.bucket import lies_at
from dasgm.store.files import printable
from dasgm.store.records import read_record
from dasgm.store.run import Run, runs, state_of


def overview(storage: Path) -> list[dict[str, Any]]:
    """An object for each run, ordered by name; a value that there is not (yet), or that is not finite, is None.

    name            path of the run's folder below the storage; a sweep's run is SWEEP/TRIAL
    kind            "search", "pretrain" or "evaluation"
    sweep           name of the sweep, or of the evaluations, that the run is a part of
    state           "waiting", "running", "finished", "stopped", "interrupted", "failed" or "unknown"
    reason          why it stopped or failed
    folder          absolute path or address of the run's folder
    epoch           epochs done
    accuracy        of the supernet on held-out images after the last epoch, 0 to 1
    proxy_accuracy  of the found network after the short training from scratch, 0 to 1; proxy_error: its standard error
    naswot          its score without training (NASWOT, arXiv 2006.04647), at least 0
    true_accuracy   on CIFAR-10 of the latest genotype, 0 to 1, where the run had a table of true accuracies (`--truth`)
    test_error      of a network trained from scratch, after the last epoch, 0 to 1
    disk_bytes      size of all files in the folder on this machine
    started, ended  seconds since 1970
    command         the command that began it
    """
    return [_run(folder, storage) for folder in runs(storage)]


def _run(folder: Path, storage: Path) -> dict[str, Any]:
    about, rows = read_record(folder / "run.json"), Run(folder).rows()
    sweep = folder.parent.relative_to(storage)

    def last(key: str) -> float | None:
        found = next((row[key] for row in reversed(rows) if key in row), None)
        return found if found is not None and math.isfinite(found) else None

    return {
        "name": str(folder.relative_to(storage)),
        "kind": about.get("kind", "search"),
        "sweep": str(sweep) if sweep.parts else None,
        "state": state_of(folder),
        "reason": about.get("reason", ""),
        "folder": lies_at(folder.absolute()),
        "epoch": max((row["epoch"] for row in rows), default=0),
        "accuracy": last("val/accuracy"),
        "proxy_accuracy": last("best/proxy"),
        "proxy_error": last("best/proxy_error"),
        "naswot": last("best/naswot"),
        "true_accuracy": last("truth/cifar10"),
        "test_error": last("test/error"),
        "disk_bytes": sum(map(_size, folder.rglob("*"))),
        "started": about.get("started"),
        "ended": about.get("ended"),
        "command": about.get("command", ""),
    }


def as_json(storage: Path) -> str:
    """A JSON array, a run a line. Names that are no UTF-8 keep their bytes, as Python's surrogates (os.fsencode)."""
    lines = (json.dumps(run, allow_nan=False) for run in overview(storage))
    return "[" + ",\n ".join(lines) + "]"


def as_table(storage: Path) -> Any:
    """The same for people, by rich. True accuracies have a column where a run has one."""
    from rich.table import Column, Table

    found = overview(storage)
    true = ["true"] * any(run["true_accuracy"] is not None for run in found)
    others = ("state", "epoch", "accuracy", "proxy", "naswot", *true, "test error", "disk")
    columns = (Column(name, no_wrap=True) for name in others)
    table = Table(Column("run", overflow="fold"), *columns, title=printable(f"runs in {lies_at(storage)}"))
    for run in found:
        proxy, error = run["proxy_accuracy"], run["proxy_error"]
        table.add_row(
            printable(run["name"]),
            run["state"],
            str(run["epoch"]),
            _written(run["accuracy"], ".3f"),
            "-" if proxy is None or error is None else f"{proxy:.3f} ± {error:.3f}",
            _written(run["naswot"], ".1f"),
            *(_written(run["true_accuracy"], ".4f") for _ in true),
            _written(run["test_error"], ".2%"),
            f"{run['disk_bytes'] / 1e6:.1f} MB",
        )
    return table


def _written(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _size(path: Path) -> int:
    """In bytes; 0 of what is no file, or has just gone."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
