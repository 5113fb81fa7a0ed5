"""Evaluations for tests: settings, folders as a sweep of searches leaves them, and what came out."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT
from outcomes import rows_of
from photographs import digit_pictures, encoded, write_folder
from PIL import Image
from tracked import START, write_run

from cluster import stores
from dasgm.data import imagenet
from dasgm.jobs.session import Hooks
from dasgm.recipes import recipe
from dasgm.spaces.darts import KNOWN

SCRIPT, SWEEP = (str(ROOT / name) for name in ("cluster/evaluate.py", "tuning/sweep.py"))
TINY = ["--cells=3", "--channels=2", "--batch-size=16", "--threads=1"]
STREAMED = replace(
    recipe("imagenet-small").config,
    **{"data": imagenet.Config(image_size=32), "cells": 3, "channels": 2, "batch_size": 8, "threads": 1},
    **{"epochs": 3, "lr_schedule": "cosine"},
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "RAY_"))]:
        monkeypatch.delenv(name)
    for name, value in stores.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PNGs of several sizes, so that all decoders give the same pixels."""
    root = tmp_path_factory.mktemp("photographs")
    for part, counts, first in (("train", (12, 13, 10), 0), ("val", (4, 5, 4), 100)):
        made = digit_pictures(counts, first)
        for pictures in made.values():
            pictures[:] = [(name, encoded(Image.open(io.BytesIO(data)), "PNG")) for name, data in pictures]
        write_folder(root, **{part: made})
    return root


def search_sweep(folder: Path, state: str = "finished", objective: str = "best/proxy") -> Path:
    """A sweep's folder: t001 is best by the proxy, t000 by NASWOT; t002 was stopped early, t003 failed."""
    for name, best, ended, genotype in (
        ("t000", {"best": 0.90, "naswot": 700.0}, "finished", "DARTS_V1"),
        ("t001", {"best": 0.95, "naswot": 600.0}, "finished", "PDARTS"),
        ("t002", {}, "stopped", "DARTS_V2"),
        ("t003", {}, "failed", "DARTS_V2"),
    ):
        write_run(folder / name, 4, ended, gan="none", sweep=folder.name, **best)
        KNOWN[genotype].save(folder / name / "genotype.json")
        data = {"key": "digits", "image_size": 32, "holdout": 0.1, "limit": 500}
        (folder / name / "config.json").write_text(json.dumps({"data": data, "data_dir": None}))
    fields = {"format": 2, "name": folder.name, "state": state, "reason": "", "started": START, "ended": START + 9}
    fields |= {"preset": "quickstart", "dataset": "digits", "seed": 0, "command": "", "num_trials": 4}
    fields |= {"objective": objective, "config": {"seed": 0}, "machine": "2 CPUs"}
    (folder / "sweep.json").write_text(json.dumps(fields))
    return folder


def evaluated(folder: Path, name: str, seed: int, error: float, state: str = "finished") -> None:
    where = folder / f"{name}-s{seed}"
    where.mkdir(parents=True)
    about = {"kind": "evaluation", "state": state, "parameters": {"row": name, "seed": seed}}
    (where / "run.json").write_text(json.dumps(about))
    every = {"phase": "evaluate", "time": 1.0}
    rows: list[dict[str, Any]] = [every | {"epoch": e, "speed/images_per_s": 100.0 * e} for e in (1, 2, 3)]
    if state == "finished":
        result = {"epoch": 3, "result/error": error, "cost/gpu_hours": 2.0, "result/parameters": 3_300_000}
        rows.append(every | {"phase": "result"} | result)
    (where / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def quiet(**more: Any) -> Hooks:
    return Hooks(say=lambda line: None, **more)


def outcome(folder: Path) -> Any:
    return rows_of(folder), (folder / "model.safetensors").read_bytes()
