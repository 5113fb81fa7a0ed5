"""Storages for tests as reproductions of the paper leave them: searches of rows, and trainings of what they found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pages import GENOTYPE, lines, noise, put

from dasgm.config import ProxyConfig, override, to_json
from dasgm.presets import row_config, small, with_dataset
from dasgm.recipes import RECIPES, on

START = 1.79e9


def searched(
    folder: Path,
    row: str,
    seed: int,
    proxy: float | None,
    dataset: str = "cifar10",
    full: bool = False,
    hours: float = 0.5,
    device: str = "cpu (a CPU)",
    state: str = "finished",
    changes: dict[str, Any] | None = None,
) -> Path:
    """The search of a row, at the paper's size or the small one; `proxy` is the accuracy of its short training."""
    config = row_config(row) if full else small(row_config(row))
    config = override(with_dataset(config, dataset), changes or {})
    config = replace(config, seed=seed, proxy=ProxyConfig(epochs=3))
    info = {"format": 2, "name": folder.name, "title": folder.name, "sweep": folder.parent.name, "state": state}
    info |= {
        "parameters": {"row": row, "seed": seed},
        "device": device,
        "workers": 1,
        "started": START,
        "published": "",
    }
    info |= {"protocols": {"gan/fd_proxy": "fd_proxy, not FID: of 100 images"}} if config.gan else {}
    put(folder / "run.json", info)
    put(folder / "config.json", to_json(config))
    epochs = [{"epoch": epoch, "phase": "search 1", "time": START + epoch} for epoch in range(1, 4)]
    each = [one | ({"gan/fd_proxy": 90.0 / one["epoch"]} if config.gan else {}) for one in epochs]
    best = {"epoch": 3, "phase": "best", "time": START + 9, "best/proxy": proxy, "cost/gpu_hours": hours}
    put(folder / "metrics.jsonl", lines([*each, best | {"best/parameters": 3_300_000}] if proxy is not None else each))
    put(folder / "genotype.json", GENOTYPE)
    for epoch in (0, 2, 3) if config.gan else ():
        noise(folder / f"pictures/samples-{epoch:03d}.png", (90, 60))
        noise(folder / f"pictures/nearest-{epoch:03d}.png", (180, 60))
    return folder


def trained(folder: Path, search: Path, seed: int, error: float, recipe: str = "cifar", **more: Any) -> Path:
    """The training of the network that a search found, on the search's data set."""
    config = json.loads((search / "config.json").read_text())
    found = replace(
        on(RECIPES[recipe].config, with_dataset(row_config("darts-1st"), config["data"]["key"]).data), seed=seed
    )
    sweep = search.parent.name
    info = {"format": 2, "name": folder.name, "kind": "evaluation", "state": "finished", "workers": 1, "started": START}
    info |= {"searched": {"sweep": sweep, "trial": search.name, "run": f"{sweep}@{START:.3f}/{search.name}"}}
    put(folder / "run.json", info | {"parameters": {"row": search.name, "seed": seed}})
    put(folder / "config.json", to_json(found))
    result = {"result/error": error, "result/parameters": 3_312_345, "result/multiply_adds": 5e8, "cost/gpu_hours": 9.0}
    put(folder / "metrics.jsonl", lines([{"epoch": 1, "phase": "result", "time": START} | result | more]))
    return folder


def record(folder: Path, kind: str = "") -> Path:
    """The record of a folder of searches, or of evaluations."""
    fields = {"format": 2, "name": folder.name, "state": "finished", "reason": "", "started": START, "ended": START + 9}
    fields |= {
        "preset": "rows-small",
        "dataset": "cifar10",
        "seed": 0,
        "command": "",
        "num_trials": 2,
        "machine": "2 CPUs",
    }
    fields |= {"objective": "result/error" if kind else "best/proxy", "config": {"seed": 0}}
    put(folder / "sweep.json", fields | ({"kind": kind} if kind else {}))
    return folder
