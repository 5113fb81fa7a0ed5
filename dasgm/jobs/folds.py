"""k-fold cross-validation: an evaluation for each part of all images, and what all of them say together."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from dasgm.config import to_json
from dasgm.designs.design import Design
from dasgm.jobs import evaluate
from dasgm.jobs.predictions import METRICS, MOST_MISTAKES, write_metrics
from dasgm.jobs.proxy import UNCONNECTED
from dasgm.jobs.session import Hooks, OutOfTime, Row
from dasgm.jobs.training import Batches
from dasgm.measures.answers import PREDICTIONS
from dasgm.measures.classification import figures, together
from dasgm.options import option
from dasgm.pages.report import report
from dasgm.recipes import EvaluateConfig
from dasgm.store import replica
from dasgm.store.files import contents, text, write_atomic
from dasgm.store.records import FORMAT, kept_record, read_json_strict
from dasgm.store.run import Run

MERITS = ("balanced_accuracy", "nll")
MEANS = ("loss/train", "train/error", "test/error", "test/top5_error", "speed/images_per_s")
OF_EACH = "not set for all together: each fold's network has its own, in fold-1/metrics.json and so on"


def main(
    design: Design,
    config: EvaluateConfig,
    folder: Path,
    hooks: Hooks,
    batches: Callable[[Any, EvaluateConfig], Batches] = evaluate.torch_batches,
) -> Row:
    """Run or continue the evaluation of each part, in folder/fold-1 and so on, then write what they say together.

    `folder` becomes a run folder without a network: its predictions.csv has each image once, said by the network that
    was not trained on it. Interrupted, it goes on within the part in progress.

    Raises:
        ValueError, SearchFailed, Interrupted: as `evaluate.main`.
    """
    if (folder / "run.json").is_file() and not kept_record(folder / "run.json").get("folds"):
        raise ValueError(f"run {folder} is an evaluation without {option('folds')}: choose another --name")
    if not design.connected:
        raise ValueError(f"folds {config.folds}: {UNCONNECTED}")
    if replica.of(folder):
        raise ValueError(f"folds {config.folds}: not in object storage; choose a folder for --storage")
    begun = time.monotonic()
    parts = [folder / f"fold-{number}" for number in range(1, config.folds + 1)]
    for number, part in enumerate(parts, start=1):
        left = hooks.time_budget
        if left is not None and (left := left - (time.monotonic() - begun)) <= 0:
            raise OutOfTime
        hooks.say(f"fold {number} of {config.folds}")
        about = hooks.about | {"name": part.name, "title": f"{folder.name}, fold {number} of {config.folds}"}
        of_part = replace(hooks, about=about, time_budget=left)
        evaluate.main(design, replace(config, fold=number), part, of_part, batches)
    return _summarise(design, config, folder, parts, hooks.about)


def _summarise(design: Design, config: EvaluateConfig, folder: Path, parts: Sequence[Path], about: Row) -> Row:
    """Write the run folder of all parts together; the last row."""
    rows = [Run(part).rows() for part in parts]
    found = [read_json_strict(part / METRICS) for part in parts]
    value = _together(found, folder, parts)
    write_atomic(folder / PREDICTIONS, _predictions(parts))
    write_metrics(folder, value)
    ends, sd = [its[-1] for its in rows], value["spread"]["sd"]
    row = {key: ends[0][key] for key in ("epoch", "phase", "result/parameters", "result/multiply_adds")}
    row |= {"result/error": 1 - value["accuracy"]["value"], "result/error_sd": sd, "result/folds": len(parts)}
    row |= {f"result/{name}": value[name] for name in MERITS if value[name] is not None}
    row |= {"result/ece": value["ece"]["value"], "cost/gpu_hours": sum(end["cost/gpu_hours"] for end in ends)}
    lines = [*_means(rows), row | {"time": ends[-1]["time"]}]
    write_atomic(folder / "config.json", json.dumps(to_json(config), indent=1))
    write_atomic(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_atomic(folder / f"{design.kind}.json", contents(parts[0] / f"{design.kind}.json"))
    first = kept_record(parts[0] / "run.json")
    record = {key: first[key] for key in ("device", "workers", "commit", "machine", "started") if key in first} | about
    record |= {"format": FORMAT, "kind": "evaluation", "state": "finished", "reason": "", "folds": len(parts)}
    identity = {key: value for key, value in first["mathematics"].items() if key != "fold"}
    record |= {"mathematics": identity, "measured_on": value["measured_on"], "ended": lines[-1]["time"]}
    write_atomic(folder / "run.json", json.dumps(record, indent=1))
    report(folder)
    return lines[-1]


def _together(found: Sequence[Row], folder: Path, parts: Sequence[Path]) -> Row:
    """metrics.json of all parts."""
    names = [one["name"] for one in found[0]["classes"]]
    matrix = np.sum([one["confusion"] for one in found], axis=0)
    bins = together([one["ece"]["bins"] for one in found])
    losses = [(one["pictures"], one["nll"]) for one in found]
    nll = None if any(loss is None for _, loss in losses) else sum(n * loss for n, loss in losses) / matrix.sum()
    value: Row = {"format": 1, "measured_on": f"each of {len(parts)} folds in turn"} | figures(names, matrix, bins, nll)
    for one, *its in zip(value["classes"], *(each["classes"] for each in found), strict=True):
        one["train"] = round(statistics.fmean(each["train"] for each in its))
    accuracies = [one["accuracy"]["value"] for one in found]
    value["spread"] = {"mean": statistics.fmean(accuracies), "sd": statistics.stdev(accuracies), "n": len(parts)}
    value["folds"] = [
        {"pictures": one["pictures"], "accuracy": one["accuracy"]["value"], "ece": one["ece"]["value"]}
        | {name: one[name] for name in MERITS}
        for one in found
    ]
    value["temperature"] = {"value": None, "why": OF_EACH}
    listed = [(one, part) for part, each in zip(parts, found, strict=True) for one in each["mistakes"]]
    value["mistakes"] = _mistakes(folder, sorted(listed, key=lambda pair: -pair[0]["probability"])[:MOST_MISTAKES])
    return value


def _mistakes(folder: Path, listed: Sequence[tuple[Row, Path]]) -> list[Row]:
    """Of all parts the most confident mistakes, their pictures copied into the folder."""
    (folder / "pictures").mkdir(exist_ok=True)
    found = []
    for i, (one, part) in enumerate(listed):
        file = f"pictures/mistake-{i:02d}.png"
        shutil.copyfile(part / one["file"], folder / file)
        found.append(one | {"file": file})
    return found


def _predictions(parts: Sequence[Path]) -> str:
    """The tables of all parts one below the other, with the number of the part as the last column."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, part in enumerate(parts, start=1):
        head, *rows = csv.reader(StringIO(text(part / PREDICTIONS), newline=""))
        if number == 1:
            writer.writerow([*head, "fold"])
        writer.writerows([*row, number] for row in rows)
    return out.getvalue()


def _means(rows: Sequence[list[Row]]) -> list[Row]:
    """A row for each epoch: means over the parts."""
    found = []
    for some in zip(*(its[:-1] for its in rows), strict=True):
        means = {key: statistics.fmean(row[key] for row in some) for key in MEANS if all(key in row for row in some)}
        found.append({key: some[0][key] for key in ("epoch", "phase", "time")} | means)
    return found
