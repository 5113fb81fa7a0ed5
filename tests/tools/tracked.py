"""Folders as searches write them, and what a store of MLflow has of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from PIL import Image
from shared import once

from cluster import stores
from dasgm.store.files import write_atomic

START = 1_790_000_000.0
POINTS = {"loss/classifier": 2.0, "val/accuracy": 0.3, "arch/entropy_normal": 1.9, "speed/images_per_s": 900.0}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    for name, value in stores.ENVIRONMENT.items():  # restored afterwards, as the tracker itself sets them
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def write_run(folder: Path, epochs: int, state: str = "finished", gan: str = "biggan", **record: Any) -> Path:
    """Write what a search of so many epochs leaves; again with more epochs, it goes on. `best` is the final proxy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    best, naswot = record.pop("best", None), record.pop("naswot", None)
    seed = int(folder.name[1:]) if folder.name[1:].isdigit() else 0
    parameters: dict[str, Any] = {"classifier_lr": 0.01 * (seed + 1), "arch_lr": 3e-4, "gan": gan}
    if gan != "none":
        parameters |= {"generator_lr": 1e-3, "val_portion": 0.5}
    lines = [
        {"epoch": e, "phase": "search", "time": START + e} | {k: v + e for k, v in POINTS.items()}
        for e in range(1, epochs + 1)
    ]
    if best is not None:
        lines.append(
            {"epoch": epochs, "phase": "best", "time": START + 99, "best/proxy": best, "best/proxy_error": 0.02}
        )
        lines[-1] |= {} if naswot is None else {"best/naswot": naswot}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"seed": seed, "gan": {"key": gan}}))
    (folder / "genotype.json").write_text(json.dumps({"normal": [["skip_connect", epochs]]}))
    for epoch in range(0, epochs + 1, 3):
        for kind in ("cells", "samples") if gan != "none" else ("cells",):
            Image.new("RGB", (64, 32), (epoch * 9, seed * 20, 99)).save(folder / "pictures" / f"{kind}-{epoch:03d}.png")
    fields = {
        "format": 2,
        "name": folder.name,
        "title": folder.name if gan == "none" else f"{folder.name} {gan} v50",
        "sweep": None,
        "parameters": parameters,
        "state": state,
        "reason": "",
        "command": "dasgm search quickstart",
        "started": START,
        "ended": None if state in ("running", "waiting") else START + 100,
        "device": "cpu",
        "published": "",
    }
    write_atomic(folder / "run.json", json.dumps(fields | record))
    return folder


def write_sweep(folder: Path, state: str = "finished") -> Path:
    fields = {
        "format": 2,
        "name": folder.name,
        "state": state,
        "reason": "",
        "preset": "quickstart",
        "dataset": "digits",
        "seed": 0,
        "command": "python tuning/sweep.py --num-trials 3",
        "started": START,
        "ended": None if state == "running" else START + 200,
        "num_trials": 3,
        "objective": "best/proxy",
        "config": {"seed": 0},
        "machine": "2 CPUs, x86_64",
    }
    write_run(folder / "t000", 4, gan="none", best=0.9)
    write_run(folder / "t001", 6, best=0.95)
    write_run(folder / "t002", 2, "stopped", reason="stopped at rung 2: 0.43 < 0.51")
    write_atomic(folder / "sweep.json", json.dumps(fields))
    (folder / "report.html").write_text("<html>ranking</html>")
    return folder


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store with its schema, which takes seconds to make, to be copied."""

    def make(folder: Path) -> None:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return once(tmp_path_factory, "mlflow-store", make) / "mlflow.db"


@pytest.fixture
def storage(tmp_path: Path, new_store: Path) -> Path:
    folder = tmp_path / "my runs"
    folder.mkdir()
    shutil.copy(new_store, folder / "mlflow.db")
    return folder


def client_of(storage: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{storage}/mlflow.db")


def experiment_of(client: MlflowClient) -> Experiment:
    found = client.get_experiment_by_name("dasgm")
    assert found is not None
    return found


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """All active runs by name; no two of one name."""
    runs = client.search_runs([experiment_of(client).experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {str(run.info.run_name): run for run in runs}


def contents(client: MlflowClient) -> dict[str, Any]:
    """Everything that a resend could have doubled or lost."""
    everything = {}
    for name, run in runs_of(client).items():
        number = run.info.run_id
        histories = {
            key: [(m.value, m.timestamp, m.step) for m in client.get_metric_history(number, key)]
            for key in run.data.metrics
        }
        files = sorted(file.path for path in (None, "images") for file in client.list_artifacts(number, path))
        everything[name] = (run.info, run.data.params, run.data.tags, histories, files)
    return json.loads(json.dumps(everything, default=lambda info: dict(info)))
