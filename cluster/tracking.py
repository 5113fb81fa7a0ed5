"""MLflow as a mirror of run folders. The only importer of mlflow, inside functions: that import alone takes seconds.

The folder is the truth: all that is sent, timestamps too, is read from its files. How far a run has got is written
last, as a tag of the run itself (`dasgm.sent`): any process on any machine goes on from there, and after one that died
half-way the same points are sent again, which MLflow takes for the ones it has.

    python -m cluster.tracking RUN...        sends any run or sweep folders and prints where to look at them
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import math
import os
import re
import shlex
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from cluster.contents import (
    PICTURES,
    STATUS,
    Content,
    content_of_run,
    content_of_sweep,
    identity,
    is_error,
    root_of,
)
from cluster.stores import EXPERIMENT, ensure_known, experiment_of, store_of
from dasgm.cli.arguments import Parser
from dasgm.pages.view import MOST_PIXELS, mlflow_ui
from dasgm.store.files import exclusive, printable, shell_line
from dasgm.store.replica import here

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

LOCAL = "http://127.0.0.1:5000"  # where ui_command() serves
LOAD = """    import dasgm, mlflow
    model = dasgm.load(mlflow.artifacts.download_artifacts("runs:/{}/model"))"""
CHARTS = "&compareRunsMode=CHART"
TRAINING = "workflowType=machine_learning"  # without it MLflow opens its pages for language models
ENVIRONMENT = {  # where the user has set nothing: the defaults wait 4 to 20 minutes for a server that is gone
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is raised as well, and reported once
}


def sync(
    folder: str | Path, uri: str | None = None, experiment: str | None = None, known: dict[str, Content] | None = None
) -> str | None:
    """Brings MLflow up to date with a run folder, or with a sweep folder and all its trials; repeatable, no duplicates.

    `uri` defaults to $MLFLOW_TRACKING_URI, then to SQLite beside the runs; `experiment` to $MLFLOW_EXPERIMENT_NAME,
    then to dasgm. A run deleted in MLflow stays deleted.
    `known`: trials that ended and were sent, for who calls again and again; more are put in.
    Returns the link to look at, a path (`/#/experiments/...`; address() completes it), None while the folder is empty;
    a sweep's leads to the ranked table, and with CHARTS appended to parallel coordinates and pictures.
    Raises ValueError if another process is sending this folder or the experiment is deleted, and mlflow's errors if the
    store does not take it.
    """
    folder = Path(folder).resolve()
    root = root_of(folder)
    if not any((root / name).is_file() for name in ("sweep.json", "run.json")):
        return None
    with _alone(root):
        if not (root / "sweep.json").is_file():
            search = content_of_run(root)
            store = _Store(uri, experiment, root.parent, search.key)
            return store.run_link(store.send(search))
        store = _Store(uri, experiment, root.parent, identity(root))
        known = {} if known is None else known
        for name in [name for name, trial in known.items() if trial.key not in store.runs]:
            del known[name]  # a new database
        sweep, trials = content_of_sweep(root, known)
        parent = store.open(sweep).info.run_id
        ids = {name: store.send(trial, parent) for name, trial in trials.items() if folder in (root, root / name)}
        for name in ids:
            if (trial := trials[name]).ended and trial is not known.get(name):
                known[name] = replace(trial, lines=trial.lines[-1:])
        store.send(sweep)
        view = store.save_view(parent, sweep, trials)
        return view if folder == root else store.run_link(ids[folder.name])


def compare(folders: Sequence[str | Path], uri: str | None = None, experiment: str | None = None) -> str:
    """The link to MLflow's comparison (parallel coordinates) of run folders; ValueError if one was never sent."""
    runs = []
    for folder in (Path(folder).resolve() for folder in folders):
        key = identity(folder)
        store = _Store(uri, experiment, root_of(folder).parent, key)
        if key not in store.runs:
            raise ValueError(f"{folder} is not in MLflow yet: `python -m cluster.tracking {folder}` sends it")
        runs.append(store.runs[key].info)
    ids, experiments = [run.run_id for run in runs], sorted({run.experiment_id for run in runs})
    return f"/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps(experiments))}"


def ui_command(storage: str | Path, uri: str | None = None) -> str:
    """The command that serves the store of `storage`; empty if a server has it already."""
    uri = store_of(uri, Path(storage))
    return "" if uri.startswith("http") else mlflow_ui(uri)


def address(link: str, storage: str | Path, uri: str | None = None) -> str:
    """A link of sync() or compare() as a browser takes it: at the server, or where ui_command() serves."""
    uri = store_of(uri, Path(storage))
    return (uri.rstrip("/") if uri.startswith("http") else LOCAL) + link


class MlflowSync:
    """A thread that keeps MLflow up to date with a folder. It never raises into the caller and never holds it up.

    `mirror = MlflowSync(folder).start()`, `mirror.kick()` after each epoch, `mirror.stop(10)` at the end. `link` is
    sync()'s, `error` one line about the last attempt, empty if all went well.
    """

    def __init__(self, folder: str | Path, uri: str | None = None, experiment: str | None = None, pause: float = 2.0):
        self.folder, self.uri, self.experiment, self.pause = Path(folder).resolve(), uri, experiment, pause
        self.link: str | None = None
        self.error = ""
        self._known: dict[str, Content] = {}
        self._wake, self._last = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def start(self) -> MlflowSync:
        self._thread.start()
        return self

    def kick(self) -> None:
        """Something is new. Returns at once; kicks within `pause` seconds become one sync."""
        self._wake.set()

    def stop(self, timeout: float = 10.0) -> str:
        """A last sync, waited for `timeout` seconds at most. Returns one line if something did not arrive, else ''."""
        self._last.set()
        self._wake.set()
        self._thread.join(timeout)
        error = f"no answer within {timeout:g} s" if self._thread.is_alive() else self.error
        where = store_of(self.uri, root_of(self.folder).parent)
        to = f"--uri {shell_line([where])} " if where.startswith("http") else ""
        later = f"`python -m cluster.tracking {to}{shell_line([self.folder])}` sends what is missing"
        return f"MLflow at {where}: {error}; {later}" if error else ""

    def _run(self) -> None:
        failed, where = 0, store_of(self.uri, root_of(self.folder).parent)
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._last.is_set()  # read before the sync: what was written before stop() is then in it
            try:
                self.link, self.error = sync(self.folder, self.uri, self.experiment, {} if last else self._known), ""
                if failed > 1:
                    print(f"MLflow at {where}: it answers again, and what was missing is there", flush=True)
                failed = 0
            except Exception as error:  # no tracking server is worth a search
                self.error, failed = one_line(error), failed + 1
                if failed == 2 and not last:  # once may be chance
                    print(f"MLflow at {where}: {self.error}; going on without, and trying again", flush=True)
            if last:
                return
            self._last.wait(self.pause)


def one_line(error: Exception) -> str:
    """The gist of an error that mlflow, requests or SQLAlchemy tells over many lines."""
    text = str(error).strip()
    cause = re.search(r"Connection refused|timed out|Name or service not known|No route to host|is locked", text)
    return cause[0] if cause else f"{type(error).__name__}: {text}".removeprefix("ValueError: ").splitlines()[0][:500]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One sender at a time, or both would create the runs. Raises ValueError if there is one."""
    with open(folder / ".tracking.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is being sent to MLflow by another process: try again in a minute") from None
        except OSError:
            pass  # a file system without locks
        yield


# ------------------------------------------------------------------------------------------------ writing to MLflow


def _ensure_whole(uri: str) -> None:
    """A database that is not there yet is made under another name: one whose making was cut off, MLflow never mends."""
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


def every(client: MlflowClient, experiment: str, query: str, deleted: bool = False) -> Iterator[Run]:
    """The runs of an experiment that fit a query, page by page: MLflow gives 1,000 at most."""
    from mlflow.entities import ViewType

    view, token = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY, None
    while True:
        page = client.search_runs([experiment], query, view, page_token=token)
        yield from page
        if not (token := page.token):
            return


class _Store:
    """One MLflow experiment, and those of its runs that belong to the sweep or the search of `key`."""

    def __init__(self, uri: str | None, experiment: str | None, storage: Path, key: str):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of every retry
        from mlflow import MlflowClient

        uri = store_of(uri, storage)
        _ensure_whole(uri)
        self.client = MlflowClient(uri)
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
        """What is new: metrics and parameters, then files, and last the tags that say so. Returns the run's id."""
        from mlflow.entities import Metric, Param, RunTag

        run = self.open(content, parent)
        run_id = run.info.run_id
        if run.info.lifecycle_stage == "deleted":
            return run_id
        sent: dict[str, int] = json.loads(run.data.tags.get("dasgm.sent", "{}"))
        lines = [line for line in content.lines if line["epoch"] > sent.get(line["phase"], -1)]
        metrics = [Metric(*point) for line in lines for point in _points(line)]
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
        for place, paths in ((None, content.pages), ("model", content.files)):
            for path in paths:
                if sent.get(path.name) != (written := _milliseconds(path.stat().st_mtime)):
                    self.client.log_artifact(run_id, str(path), place)
                    sent[path.name] = written
        wanted = content.tags | self._searched(content) | {"mlflow.runName": content.record["title"]}
        wanted["dasgm.sent"] = json.dumps(sent)
        if content.files:
            wanted["mlflow.note.content"] += "\n\n" + LOAD.format(run_id)
        changed = [RunTag(name, value) for name, value in wanted.items() if run.data.tags.get(name, "") != value]
        if changed:
            self.client.log_batch(run_id, tags=changed, synchronous=True)
        self._set_status(run, content)
        return run_id

    def _searched(self, content: Content) -> dict[str, str]:
        """Of an evaluation, as a tag: MLflow's run of the search that gave the genotype, where it is here."""
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
        metrics = [objective, f"{objective}_error", "val/accuracy"]
        if error := is_error(sweep.record):
            metrics = [objective, "result/top5_error", *(f"result/{name}" for name in ("parameters", "multiply_adds"))]
            metrics += ["speed/images_per_s", "cost/gpu_hours"]
        charts: list[dict[str, Any]] = [  # a trial that lacks a parameter is not drawn: hence the second one
            {"type": "PARALLEL", "selectedParams": names, "selectedMetrics": [objective], "showAllRuns": True}
            for names in ([common, every] if common != every else [every])
        ] + [{"type": "IMAGE", "imageKeys": [key], "step": 0} for key in PICTURES]
        shared = {"metricSectionId": "sweep", "deleted": False, "isGenerated": False, "runsCountToCompare": 10}
        view = {
            "searchFilter": f"tags.mlflow.parentRunId = '{parent}'",
            "orderByKey": f"metrics.`{objective}`",
            "selectedColumns": [
                *(f"metrics.`{m}`" for m in metrics),
                *(f"params.`{p}`" for p in every),
                "tags.`state`",
            ],
            "compareRunCharts": [chart | shared | {"uuid": f"sweep-{i}"} for i, chart in enumerate(charts)],
            "compareRunSections": [{"uuid": "sweep", "name": "sweep", "display": True, "isReordered": False}],
            "isAccordionReordered": True,  # else sections are sorted by name
        }
        view |= {"orderByAsc": error, "startTime": "ALL", "lifecycleFilter": "Active"}
        view |= {"modelVersionFilter": "All Runs", "datasetsFilter": []}
        name = f"mlflow.sharedViewState.{parent}"
        value = "deflate;" + base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
        if self.experiment.tags.get(name) != value:
            self.client.set_experiment_tag(self.number, name, value)
        return f"/#/experiments/{self.number}/runs?{TRAINING}&viewStateShareKey={parent}"


def _points(line: dict[str, Any]) -> Iterator[tuple[str, float, int, int]]:
    """Key, value, timestamp, step; `best/*` at step 0. NaN and inf are left out: MLflow draws inf at 1.8e308."""
    step = 0 if line["phase"] == "best" else line["epoch"]
    for key in sorted(line, key=lambda key: key != "val/accuracy"):  # a comparison opens with the one sent first
        if "/" in key and isinstance(value := line[key], int | float) and math.isfinite(value):
            yield key, float(value), _milliseconds(line["time"]), step


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


# ------------------------------------------------------------------------------------------------ the command


def fetched(place: str) -> Path:
    """The folder of a path or of an address; of a trial's address its whole sweep is fetched too."""
    folder = here(place, depth=1).resolve()
    if "://" in place and (folder / "run.json").is_file():
        parts = urlsplit(place.rstrip("/"))
        if above := parts.path.strip("/").rpartition("/")[0]:
            here(parts._replace(path=f"/{above}").geturl(), depth=1)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m cluster.tracking", description="Sends run folders to MLflow.")
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="RUN",
        help="Run or sweep to send: a folder, or an address such as s3://BUCKET/PREFIX/NAME.",
    )
    parser.add_argument(
        "--uri", help="MLflow's tracking server (default: $MLFLOW_TRACKING_URI, else mlflow.db beside the runs)."
    )
    parser.add_argument(
        "--experiment",
        help=f"MLflow's experiment that gets the runs (default: $MLFLOW_EXPERIMENT_NAME, else {EXPERIMENT}).",
    )
    options = parser.parse_args(arguments)
    commands = set()
    try:
        ensure_known(options.uri)
    except ValueError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    for place in options.folders:
        folder = None
        try:
            folder = fetched(place)
            storage = root_of(folder).parent
            if (link := sync(folder, options.uri, options.experiment)) is None:
                raise ValueError("it has neither run.json nor sweep.json: name the folder of a search or of a sweep")
        except Exception as error:
            named = f"{place}: " if folder else ""  # an address that is refused may hold a password
            if folder and not isinstance(error, ValueError):
                named = f"MLflow at {store_of(options.uri, root_of(folder).parent)}: "
            print(printable(f"error: {named}{one_line(error)}"), file=sys.stderr)
            return 2
        print(f"{place}: {address(link, storage, options.uri)}")
        commands.add(ui_command(storage, options.uri))
    for command in sorted(filter(None, commands)):
        print(f"served by: {command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
