"""Writes what MLflow shall hold of a run or a sweep into an MLflow experiment. Imports mlflow inside functions only.

How far a run has got is written last, as a tag of MLflow's run (`dasgm.sent`). So any process on any machine can go on
from there, and after a process that died half-way the same points are sent again, which MLflow takes for the ones that
it has.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import shlex
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cluster.contents import PICTURES, STATUS, Content, is_error
from cluster.stores import experiment_of, set_environment, store_of, without_password
from dasgm.measures.scores import SCORES
from dasgm.pages.view import MOST_PIXELS, registrations
from dasgm.store.files import exclusive

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

LOAD = """    import dasgm, mlflow
    model = dasgm.load(mlflow.artifacts.download_artifacts("runs:/{}/model"))"""
MOST_CURVES = 50  # trials; of more, the chart of MLflow's view draws the best
TRAINING = "workflowType=machine_learning"  # without it MLflow opens its pages for language models


def _ensure_whole(uri: str) -> None:
    """Make a SQLite database that does not exist under another name first: MLflow never mends a half-made one."""
    from mlflow import MlflowClient

    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    making = path.with_name(f".{path.name}.{os.getpid()}")
    with exclusive(path.with_name(".mlflow.lock")):
        if not path.exists():  # nor made by another process meanwhile
            for left in making.parent.glob(f"{making.name}*"):  # of one that was killed and had this number
                left.unlink()
            MlflowClient(f"sqlite:///{making}").search_experiments()
            making.replace(path)


def connect(uri: str) -> MlflowClient:
    """A client of a store, which is made if it is a SQLite database that does not exist."""
    set_environment()
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of every retry
    from mlflow import MlflowClient

    _ensure_whole(uri)
    return MlflowClient(uri)


def every(client: MlflowClient, experiment: str, query: str, deleted: bool = False) -> Iterator[Run]:
    """The runs of an experiment that match a query, page by page: MLflow returns 1,000 at most."""
    from mlflow.entities import ViewType

    view, token = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None
    while True:
        page = client.search_runs([experiment], query, view, page_token=token)
        yield from page
        if not (token := page.token):
            return


class Writer:
    """Writes into one MLflow experiment the runs that belong to one sweep, or to one lone run.

    Args:
        uri, experiment: see `cluster.tracking.sync`.
        storage: the folder in which the runs lie.
        key: of the sweep or the run, see `Content`.
    """

    def __init__(self, uri: str | None, experiment: str | None, storage: Path, key: str):
        self.uri = uri = store_of(uri, storage)
        self.client = connect(uri)
        served = uri.startswith(("http", "databricks"))
        artifacts = None if served else str(storage.resolve() / "mlartifacts")
        self.experiment = self._experiment(uri, experiment_of(experiment), artifacts)
        self.number = self.experiment.experiment_id
        self.runs = self._search(key)

    def _experiment(self, uri: str, name: str, artifacts: str | None) -> Experiment:
        tags = {"mlflow.experimentKind": "custom_model_development"}
        found = self.client.get_experiment_by_name(name)
        if found and found.lifecycle_stage == "deleted":
            command = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise ValueError(
                f"experiment {name!r} is deleted; take another with MLFLOW_EXPERIMENT_NAME=NAME, or restore it: "
                f"`MLFLOW_TRACKING_URI={shlex.quote(uri)} {command}`"
            )
        return found or self.client.get_experiment(self.client.create_experiment(name, artifacts, tags))

    def _search(self, key: str) -> dict[str, Run]:
        """Runs by `dasgm.run`, deleted ones too: one search for a sweep and all its trials."""
        started = key.split("/")[0].rpartition("@")[2]  # names may hold quotes and wildcards
        found = every(self.client, self.number, f"tags.`dasgm.run` LIKE '%@{started}%'", deleted=True)
        return {run.data.tags["dasgm.run"]: run for run in found}

    def open(self, content: Content, parent: str = "") -> Run:
        """The run of this content, created if need be."""
        if content.key not in self.runs:
            tags = {"dasgm.run": content.key, "kind": content.tags["kind"]}
            tags |= {"mlflow.parentRunId": parent} if parent else {}
            started = _milliseconds(content.record["started"])
            self.runs[content.key] = self.client.create_run(self.number, started, tags, content.record["title"])
        return self.runs[content.key]

    def send(self, content: Content, parent: str = "") -> str:
        """Send what is new: metrics and parameters, then files, and last the tags that say so. Return the run's id."""
        from mlflow.entities import Metric, Param, RunTag

        run = self.open(content, parent)
        run_id = run.info.run_id
        if run.info.lifecycle_stage == "deleted":
            return run_id
        sent: dict[str, int] = json.loads(run.data.tags.get("dasgm.sent", "{}"))
        lines = [line for line in content.lines if line["epoch"] > sent.get(line["phase"], -1)]
        metrics = [Metric(*point) for line in lines for point in points(line)]
        unsent = {name: v for name, v in content.record["parameters"].items() if name not in run.data.params}
        params = [Param(name, f"{v:.4g}" if isinstance(v, float) else str(v)) for name, v in unsent.items()]
        if metrics or params:
            self.client.log_batch(run_id, metrics, params, synchronous=True)
        sent |= {line["phase"]: line["epoch"] for line in lines}
        for name, string in content.texts.items():
            if sent.get(name) != (checksum := zlib.crc32(string.encode())):
                self.client.log_text(run_id, string, name)
                sent[name] = checksum
        self._send_pictures(run_id, content.pictures, sent)
        for place, paths in ((None, content.pages), ("model", content.files), ("pictures", content.plots)):
            for path in paths:
                if sent.get(path.name) != (written := _milliseconds(path.stat().st_mtime)):
                    self.client.log_artifact(run_id, str(path), place)
                    sent[path.name] = written
        wanted = content.tags | self._searched(content) | {"mlflow.runName": content.record["title"]}
        wanted["dasgm.sent"] = json.dumps(sent)
        if content.files:
            wanted["mlflow.note.content"] += "\n\n" + LOAD.format(run_id)
        wanted["registered"], note = self._registered(content)
        wanted["mlflow.note.content"] += note
        changed = [RunTag(name, value) for name, value in wanted.items() if run.data.tags.get(name, "") != value]
        if changed:
            self.client.log_batch(run_id, tags=changed, synchronous=True)
        self._set_status(run, content)
        return run_id

    def _registered(self, content: Content) -> tuple[str, str]:
        """A tag, MODEL/VERSION, and Markdown with links: what the run's network is in this store's model registry."""
        store = without_password(self.uri)
        found = [(x["model"], x["version"]) for x in registrations(content.record) if x["store"] == store]
        lines = [f"\n\nRegistered: [{m}, version {v}](#/models/{quote(m)}/versions/{v})" for m, v in found]
        return ", ".join(f"{m}/{v}" for m, v in found), "".join(lines)

    def _searched(self, content: Content) -> dict[str, str]:
        """A tag of an evaluation: MLflow's run of the search that gave the genotype, if it is in this experiment."""
        searched = content.record.get("searched", {})
        known = self.open(content).data.tags.get("searched.mlflow_run") or searched.get("mlflow_run")
        if not known and (key := searched.get("run")) and (run := self._search(key).get(key)):
            known = run.info.run_id
        return {"searched.mlflow_run": known} if known else {}

    def _send_pictures(self, run_id: str, pictures: list[tuple[str, int, Path]], sent: dict[str, int]) -> None:
        from PIL import Image

        new = [(key, step, path) for key, step, path in pictures if step > sent.get(key, -1)]
        if not new:
            return
        there = {file.path.partition("+timestamp")[0] for file in self.client.list_artifacts(run_id, "images")}
        for key, step, path in new:
            if f"images/{key}+step+{step}" not in there:  # unlike points, a picture sent twice is shown twice
                with Image.open(path, formats=["PNG"]) as image:  # some of its formats start programs
                    if image.width * image.height > MOST_PIXELS:
                        raise ValueError(f"{path}: {image.width}x{image.height} pixels, which no picture of a run has")
                    flat = Image.new("RGBA", image.size, "white")
                    flat.alpha_composite(image.convert("RGBA"))  # what is transparent would turn black
                stamp = _milliseconds(path.stat().st_mtime)
                self.client.log_image(run_id, flat.convert("RGB"), None, key, step, stamp, synchronous=True)
            sent[key] = step

    def _set_status(self, run: Run, content: Content) -> None:
        status = STATUS[content.record["state"]]
        if status == run.info.status:
            return
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run.info.run_id, status)
        else:
            last = content.lines[-1]["time"] if content.lines else content.record["started"]
            self.client.set_terminated(run.info.run_id, status, _milliseconds(content.record["ended"] or last))

    def run_link(self, run_id: str) -> str:
        return f"/#/experiments/{self.number}/runs/{run_id}?{TRAINING}"

    def save_view(self, parent: str, sweep: Content, trials: dict[str, Content]) -> str:
        """The link to the trials ranked by the objective, with what was swept; as charts, parallel coordinates first.

        MLflow's own first look has neither trials nor columns. A view is a tag of the experiment; its format is
        internal (seen in 3.17).
        """
        objective = sweep.record["objective"]
        swept = [trial.record["parameters"] for trial in trials.values()]
        every = list(dict.fromkeys(name for parameters in swept for name in parameters))
        common = [name for name in every if all(name in parameters for parameters in swept)]
        scores = dict.fromkeys([objective, *(score.metric for score in SCORES.values())])
        metrics = [*scores, "best/proxy_error", "val/accuracy"]
        seconds = [f"best/{second}"] if (second := sweep.record.get("and_minimise")) else []
        if error := is_error(sweep.record):
            metrics = [objective, "result/top5_error", *(f"result/{name}" for name in ("parameters", "multiply_adds"))]
            metrics += ["speed/images_per_s", "cost/gpu_hours"]
        metrics += seconds
        curve = "test/error" if error else "val/accuracy"
        view = {
            "searchFilter": f"tags.mlflow.parentRunId = '{parent}'",
            "orderByKey": f"metrics.`{objective}`",
            "selectedColumns": [
                *(f"metrics.`{m}`" for m in metrics),
                *(f"params.`{p}`" for p in every),
                "tags.`state`",
            ],
            **_charts(common, every, [*seconds, objective], curve),
            "runsHiddenMode": "SHOW_ALL" if len(trials) <= MOST_CURVES else "FIRST_20_RUNS",
        }
        view |= {"orderByAsc": error, "startTime": "ALL", "lifecycleFilter": "Active"}
        view |= {"modelVersionFilter": "All Runs", "datasetsFilter": []}
        name = f"mlflow.sharedViewState.{parent}"
        value = "deflate;" + base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
        if self.experiment.tags.get(name) != value:
            self.client.set_experiment_tag(self.number, name, value)
        return f"/#/experiments/{self.number}/runs?{TRAINING}&viewStateShareKey={parent}"


def _charts(common: list[str], every: list[str], metrics: list[str], curve: str) -> dict[str, Any]:
    """The charts of a view, as MLflow's page keeps them: two of its whole width, and a section that opens by a click.

    Args:
        common, every: parameters that all trials have, and all there are.
        metrics: the other axes of the parallel coordinates.
        curve: the metric of the learning curves.
    """

    def parallel(names: list[str]) -> dict[str, Any]:
        return {"type": "PARALLEL", "selectedParams": names, "selectedMetrics": metrics, "showAllRuns": True}

    line: dict[str, Any] = {"type": "LINE", "metricKey": curve, "selectedMetricKeys": [curve], "xAxisKey": "step"}
    line |= {"lineSmoothness": 0, "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric", "range": {}}
    line |= {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "yAxisExpressions": []}
    more = [parallel(every)] if common and common != every else []  # where a trial that lacks a parameter is not drawn
    charts = {
        "sweep": [parallel(common or every), line],
        "more": [*more, *({"type": "IMAGE", "imageKeys": [key], "step": 0} for key in PICTURES)],
    }
    shared = {"deleted": False, "isGenerated": False, "runsCountToCompare": MOST_CURVES}
    large, small = {"display": True, "columns": 1, "cardHeight": 380}, {"display": False}
    return {
        "compareRunCharts": [
            chart | shared | {"uuid": f"{section}-{i}", "metricSectionId": section}
            for section, its in charts.items()
            for i, chart in enumerate(its)
        ],
        "compareRunSections": [
            {"uuid": section, "name": section, "isReordered": False} | look
            for section, look in (("sweep", large), ("more", small))
        ],
        "isAccordionReordered": True,  # else sections are sorted by name
    }


def points(line: dict[str, Any]) -> Iterator[tuple[str, float, int, int]]:
    """Key, value, timestamp, step; `best/*` at step 0. NaN and inf are left out: MLflow draws inf at 1.8e308."""
    step = 0 if line["phase"] == "best" else line["epoch"]
    for key in sorted(line, key=lambda key: key != "val/accuracy"):  # a comparison opens with the one sent first
        if "/" in key and isinstance(value := line[key], int | float) and math.isfinite(value):
            yield key, float(value), _milliseconds(line["time"]), step


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
