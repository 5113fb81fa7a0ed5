"""What MLflow shall hold of a run, or of a sweep and its trials, read from the files of their folders alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dasgm.pages.plots import paths
from dasgm.store import legacy
from dasgm.store.files import LARGEST, text, version
from dasgm.store.records import ENDED, ENDS, FORMAT, PLAN, read_metrics, read_record

STATUS = {"waiting": "SCHEDULED", "running": "RUNNING", "finished": "FINISHED", "stopped": "FINISHED"}
STATUS |= {"failed": "FAILED", "interrupted": "KILLED"}
MODEL = ("model.json", "model.safetensors")
PICTURES = ("cells", "samples", "nearest")  # pictures/cells-003.png is epoch 3's


def identity(folder: Path) -> str:
    """The tag `dasgm.run` of a folder in MLflow: NAME@started for a sweep or a lone run, with /TRIAL for a trial.

    NAME is the folder's, of a run in a fit's folder that of `name_of`.
    """
    root = root_of(folder)
    return _name(root, record_of(root)) + (f"/{folder.name}" if folder != root else "")


@dataclass
class Content:
    """What MLflow shall hold of one folder."""

    key: str  # see `identity`
    record: dict[str, Any]  # run.json or sweep.json
    tags: dict[str, str]
    lines: list[dict[str, Any]] = field(default_factory=list)  # of metrics.jsonl
    texts: dict[str, str] = field(default_factory=dict)  # artifact's name -> its text
    pages: list[Path] = field(default_factory=list)  # files that are artifacts as they are
    pictures: list[tuple[str, int, Path]] = field(default_factory=list)  # key, step, PNG
    plots: list[Path] = field(default_factory=list)  # Plotly's figures as JSON
    files: list[Path] = field(default_factory=list)  # of a trained network
    versions: list[tuple[int, int]] = field(default_factory=list)  # of what it was read from

    @property
    def ended(self) -> bool:
        return self.record["state"] in ENDED

    @property
    def best(self) -> dict[str, Any]:
        """The line after the last epoch."""
        return next((line for line in reversed(self.lines) if line["phase"] in ENDS), {})


def versions_of(folder: Path) -> list[tuple[int, int]]:
    """Versions of all files of a run that MLflow shall hold: they differ once something has changed."""
    names = ("run.json", "config.json", "metrics.jsonl", "genotype.json", "network.json", "report.html", "pictures", "")
    return [version(folder / name) for name in names]


def content_of_run(folder: Path, sweep: str = "", **defaults: Any) -> Content:
    versions, record = versions_of(folder), record_of(folder, **defaults)
    names = ("config.json", "genotype.json", "network.json", "metrics.json", "predictions.csv")
    pages = _pages(folder, record, *names)
    config = text(folder / "config.json") if folder / "config.json" in pages else ""
    kind = "trial" if sweep and record["kind"] == "search" else record["kind"]
    tags = _tags(kind, record, record["reason"], config)
    tags |= {f"searched.{name}": value for name, value in record.get("searched", {}).items()}
    pictures = [(*path.stem.rpartition("-")[::2], path) for path in folder.glob("pictures/*.png")]
    return Content(
        key=f"{sweep}/{folder.name}" if sweep else _name(folder, record),
        record=record,
        tags=tags
        | {name: record.get(name) or "" for name in ("device", "published", "truth")}
        | {"workers": str(record["workers"]) if record.get("workers") else ""}
        | _protocols(record),
        lines=read_metrics(folder),
        pages=pages,
        pictures=sorted((key, int(step), path) for key, step, path in pictures if key in PICTURES and step.isdecimal()),
        files=[path for name in MODEL if (path := folder / name).is_file()] if record["state"] == "finished" else [],
        versions=versions,
    )


def _protocols(record: dict[str, Any]) -> dict[str, str]:
    """`protocol.gan/fid` says how gan/fid was measured."""
    protocols = record.get("protocols")
    return {f"protocol.{name}": text for name, text in protocols.items()} if isinstance(protocols, dict) else {}


def content_of_sweep(
    folder: Path, known: Mapping[str, Content] = MappingProxyType({})
) -> tuple[Content, dict[str, Content]]:
    """The sweep and, by the names of their folders, its trials. `known` trials are read again only if they changed."""
    record = record_of(folder)
    key, started, config = _name(folder, record), record["started"], json.dumps(record["config"], indent=2)

    def of(trial: Path) -> Content:
        before = known.get(trial.name)
        if before and before.versions == versions_of(trial):
            return before
        return content_of_run(trial, key, started=started)

    trials = {path.parent.name: of(path.parent) for path in sorted(folder.glob("*/run.json"))}
    kind = "evaluations" if record["kind"] == "evaluations" else "sweep"
    tags = _tags(kind, record, _sweep_note(record, list(trials.values())), config)
    tags["objective"] = record["objective"]  # by which winners.py takes the best
    return Content(
        key,
        record,
        tags,
        texts={"config.json": config},
        pages=_pages(folder, record, "table.md", "front.md", "front.svg"),
        plots=[path for path in paths(folder) if path.stat().st_size <= LARGEST],
    ), trials


def _pages(folder: Path, record: dict[str, Any], *names: str) -> list[Path]:
    """The files of a folder that are artifacts, without very large ones. The result page is sent once, at the end."""
    found = names if record["state"] in ("running", "waiting") else (*names, "report.html")
    paths = (folder / name for name in found)
    return [path for path in paths if path.is_file() and path.stat().st_size <= LARGEST]


def _tags(kind: str, record: dict[str, Any], note: str, config: str) -> dict[str, str]:
    return {
        "kind": kind,
        "state": record["state"],
        "reason": record["reason"],
        "config_sha": hashlib.sha256(config.encode()).hexdigest()[:12] if config else "",
        "mlflow.note.content": "\n\n".join(part for part in (note, f"    {record['command']}") if part)[:8000],
        "mlflow.source.name": "dasgm",
        "mlflow.source.git.commit": record.get("commit") or "",
        "mlflow.user": os.environ.get("USER", ""),
    }


def _sweep_note(record: dict[str, Any], trials: list[Content], top: int = 20) -> str:
    """Markdown: one line about the sweep, then its best trials."""

    def row(trial: Content) -> str:
        value, error = trial.best.get(objective), trial.best.get(f"{objective}_error")
        score = "" if value is None else f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")
        return f"| {trial.record['title']} | {score} | {trial.record['state']} |"

    objective = record["objective"]
    sign = -1 if is_error(record) else 1
    ranked = sorted(trials, key=lambda trial: sign * trial.best.get(objective, -sign * math.inf), reverse=True)[:top]
    what = f"{record['preset']} on {record['dataset']}, seed {record['seed']}, {record['machine']}"
    head = f"{what}: **{record['state']}** {record['reason']}"
    return "\n".join([head, "", f"| trial | {objective} | state |", "|---|---|---|", *map(row, ranked)])


def is_error(record: dict[str, Any]) -> bool:
    """Whether the objective is an error, of which less is better."""
    return record["objective"].endswith("error")


def record_of(folder: Path, **defaults: Any) -> dict[str, Any]:
    """sweep.json or run.json, with what a run that died early left out. ValueError: the file is not one of dasgm's."""
    path = folder / ("sweep.json" if (folder / "sweep.json").is_file() else "run.json")
    record = {
        "kind": "search",
        "title": folder.name,
        "reason": "",
        "command": "",
        "parameters": {},
        "started": 0.0,
        "ended": None,
    }
    record |= {"format": FORMAT} | defaults | read_record(path)
    lacks = {"objective", "config", "preset", "dataset", "seed", "machine"} - set(record)
    known = legacy.wrote(record) or record["format"] == FORMAT
    sound = known and record.get("state") in STATUS and record["started"] is not None
    if not sound or path.name == "sweep.json" and lacks:
        raise ValueError(
            f"{path} is not a record of format {legacy.FORMAT} or {FORMAT} of a search or a sweep: restore or remove "
            "its folder"
        )
    return record


def _name(folder: Path, record: dict[str, Any]) -> str:
    return f"{name_of(folder)}@{record['started']:.3f}"  # `started` is the first start, even if the run was resumed


def name_of(folder: Path) -> str:
    """What a run is called: as its folder, in a fit's folder with that one's name before it (fit-pets-s0-training)."""
    return f"{folder.parent.name}-{folder.name}" if _in_fit(folder) else folder.name


def storage_of(folder: Path) -> Path:
    """The folder of all runs, to which MLflow's database belongs: above a run, a sweep, or the fit that a run is of."""
    root = root_of(folder)
    return root.parent.parent if _in_fit(root) else root.parent


def _in_fit(folder: Path) -> bool:
    return (folder.parent / PLAN).is_file()


def root_of(folder: Path) -> Path:
    """The sweep's folder for a trial's, else the folder itself."""
    return folder.parent if (folder / "run.json").is_file() and (folder.parent / "sweep.json").is_file() else folder
