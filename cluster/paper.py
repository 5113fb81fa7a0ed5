"""The page of the paper's results from an MLflow experiment: its runs as records, as they are read from folders."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.stores import one_line, store_of, without_password
from cluster.writer import connect, every
from dasgm.genotype import LARGEST, Genotype
from dasgm.jobs.paper import of_runs
from dasgm.measures.answers import PREDICTIONS
from dasgm.pages.gather import gathered
from dasgm.pages.paper_figures import opponents, painter_candidates
from dasgm.pages.view import RunView
from dasgm.store.files import shown, text
from dasgm.store.records import read_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KINDS = {"trial": "search", "search": "search", "evaluation": "evaluation"}
FILES = ("config.json", "genotype.json", "network.json")
CURVES = ("gan/fid", "gan/is", "gan/fd_proxy")
LAST = ("best/", "result/", "cost/")
PICTURE = re.compile(r"images/(samples|nearest)\+step\+(\d{1,9})\+[\w+-]+\.png")


def paper(experiment: str, uri: str | None, target: Path) -> list[Path]:
    """Write paper.html and paper.md of the runs of an experiment into a folder; their paths.

    Args:
        uri: MLflow's tracking server; by default $MLFLOW_TRACKING_URI, else SQLite in ./runs.

    Raises:
        ValueError: there is no such store, experiment or folder, or it does not answer.
    """
    where = store_of(uri, Path("runs"))
    shown_as = without_password(where)
    if where.startswith("sqlite:///") and not Path(where.removeprefix("sqlite:///")).is_file():
        raise ValueError(f"--paper {experiment}: there is no store at {where}; name it with --uri")
    if not target.is_dir():
        raise ValueError(f"--output {target}: no such folder; name one that is there")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            client = connect(where)
            found = client.get_experiment_by_name(experiment)
            if found is None:
                raise ValueError(f"--paper {experiment}: there is no such experiment in MLflow at {shown_as}")
            runs = _read(client, found.experiment_id, Path(scratch))
        except ValueError:
            raise
        except Exception as error:  # MLflow's own, and those of its databases and of HTTP
            raise ValueError(f"--paper {experiment}: MLflow at {shown_as}: {one_line(error)}") from None
        return of_runs(runs, f"MLflow's experiment {experiment} at {shown_as}", target, commands_in="")


def _read(client: MlflowClient, experiment: str, folder: Path) -> list[RunView]:
    """The searches and evaluations, each with a folder of the files and pictures that the page needs."""
    runs = [run for run in every(client, experiment, "") if run.data.tags.get("kind") in KINDS]
    views = {view.folder: view for run in runs if (view := _view(client, run, folder / run.info.run_id))}
    found = gathered(list(views.values()))
    for _, run in painter_candidates(found):
        if _download_pictures(client, run.folder):
            break
    for folder in {run.folder for pair in opponents(found) for run in (pair.ours, pair.theirs)}:
        _download(client, folder, PREDICTIONS)  # without them both are not compared, which the page says
    return list(views.values())


def _view(client: MlflowClient, run: Run, folder: Path) -> RunView:
    """A run as `read_run` gives it. Its folder has its number as name, whatever its tags say."""
    folder.mkdir()
    _download(client, folder, *FILES)
    try:
        genotype = Genotype.from_json(text(folder / "genotype.json", LARGEST))
    except (OSError, ValueError):
        genotype = None
    info = shown(_info(run) | {"network": read_json(folder / "network.json").get("network", "")})
    return RunView(folder, info["state"], info, read_json(folder / "config.json"), _metrics(client, run), genotype)


def _info(run: Run) -> dict[str, Any]:
    """What the page reads of run.json."""
    tags, params = run.data.tags, run.data.params
    sweep, _, trial = tags.get("dasgm.run", "").rpartition("/")
    parameters = {name: int(value) if value.isdecimal() else value for name, value in params.items()}
    own: dict[str, Any] = {name: tags.get(name, "") for name in ("state", "reason", "device", "published")}
    own |= {"kind": KINDS[tags["kind"]], "title": run.info.run_name, "sweep": sweep, "name": trial}
    own |= {"searched": _below(tags, "searched."), "protocols": _below(tags, "protocol.")}
    workers = tags.get("workers", "")
    return own | {"parameters": parameters, "workers": int(workers) if workers.isdecimal() else 1}


def _below(tags: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)}


def _metrics(client: MlflowClient, run: Run) -> list[dict[str, Any]]:
    """Rows with the curves and the last values that the page reads."""
    rows = defaultdict[int, dict[str, Any]](dict)
    for key in CURVES:
        for point in client.get_metric_history(run.info.run_id, key) if key in run.data.metrics else ():
            rows[point.step][key] = point.value
    last = {key: value for key, value in run.data.metrics.items() if key.startswith(LAST)}
    rows[max(rows, default=0)] |= last
    return [{"epoch": step, **row} for step, row in sorted(rows.items())]


def _download(client: MlflowClient, folder: Path, *names: str) -> None:
    """The artifacts of these names that the run has, into its folder."""
    there = {file.path for file in client.list_artifacts(folder.name)}
    for name in names:
        if name in there:
            client.download_artifacts(folder.name, name, str(folder))


def _download_pictures(client: MlflowClient, folder: Path) -> bool:
    """Those of generated images, under the names that they have in a run's folder; whether there are any."""
    (folder / "pictures").mkdir(exist_ok=True)
    for file in client.list_artifacts(folder.name, "images"):
        if match := PICTURE.fullmatch(file.path):
            path = Path(client.download_artifacts(folder.name, file.path, str(folder)))
            path.replace(folder / "pictures" / f"{match[1]}-{int(match[2]):03d}.png")
    return any((folder / "pictures").iterdir())
