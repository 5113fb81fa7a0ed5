"""What to evaluate: given by name, of a run, or the best of a sweep, from its folder or from MLflow."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cluster.stores import EXPERIMENT, one_line, set_environment, store_of
from dasgm.api.places import run_of
from dasgm.designs.design import Design, load_design
from dasgm.genotype import LARGEST, Genotype, genotype_text, name_of
from dasgm.measures.scores import FIRST
from dasgm.pages.front import Bounds, metric, within
from dasgm.pages.view import ranking, read_trials
from dasgm.store.files import text
from dasgm.store.records import read_json, read_record
from dasgm.store.replica import here
from dasgm.store.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient


NO_BOUNDS: Bounds = MappingProxyType({})


@dataclass(frozen=True)
class Candidate:
    """A genotype or a known network, and where it comes from."""

    name: str
    """As in DARTS_V2 or t003: names its row of the table and its evaluations."""
    design: Design
    source: str
    config: dict[str, Any] = field(default_factory=dict)
    """config.json of the search that found it; empty if it comes from elsewhere."""
    searched: dict[str, str] = field(default_factory=dict)
    """That search: its sweep and trial, `run` (its tag `dasgm.run` in MLflow), `mlflow_run` if it came from there."""


def named(sources: Sequence[str]) -> list[Candidate]:
    """By known names, files, folders of runs, or as text. ValueError: there is none, or two share a name."""
    found = [_named(source) for source in sources]
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two genotypes are called {twice}: rename one of the files, or evaluate them one by one")
    return found


def _named(source: str) -> Candidate:
    design = load_design(source)
    if genotype_text(source):
        return Candidate(name_of(source), design, name_of(source))
    run = run_of(str(here(source)))
    if not (run / "run.json").is_file():
        return Candidate(run.absolute().name if run.is_dir() else run.stem.replace(":", "-"), design, source)
    run = run.absolute()
    in_sweep = (run.parent / "sweep.json").is_file()
    name = f"{run.parent.name}-{run.name}" if in_sweep else run.name
    sweep = run.parent.name if in_sweep else ""
    return Candidate(name, design, source, read_json(run / "config.json"), _searched(run, sweep))


def _searched(run: Path, sweep: str) -> dict[str, str]:
    from cluster.contents import identity

    return ({"sweep": sweep} if sweep else {}) | {"trial": run.name, "run": identity(run.resolve())}


def of_sweep(name: str, storage: Path, top: int, at_most: Bounds = NO_BOUNDS) -> list[Candidate]:
    """The `top` best genotypes of the sweep called `name`, best first, of those that keep all bounds.

    Raises:
        ValueError: there is no such sweep, it still runs, or fewer of its searches finished.
    """
    if top < 1:
        raise ValueError(f"--top {top}: expected at least 1")
    folder = here(storage / name, depth=1)
    info = read_record(folder / "sweep.json")
    if not info:
        return _from_mlflow(name, storage, top, at_most)
    if info.get("kind") == "evaluations":
        raise ValueError(f"{folder} holds evaluations, no sweep of searches: name one with --from-sweep")
    if Run(folder).busy:
        raise ValueError(f"the sweep {folder} is still running: wait for its end")
    ranked = ranking(read_trials(folder), str(info.get("objective") or FIRST))
    done = [one for one in ranked if one.rank is not None and one.run.genotype is not None]
    best = [one.run for one in within(done, at_most, str(folder))]
    _enough(str(folder), len(best), top)
    return [
        Candidate(
            run.folder.name,
            run.genotype,
            str(run.folder.absolute()),
            run.config,
            _searched(run.folder.absolute(), folder.name),
        )
        for run in best[:top]
        if run.genotype is not None
    ]


def _enough(where: str, finished: int, top: int) -> None:
    if finished < top:
        raise ValueError(f"--top {top}: in {where} {finished} searches with a genotype have finished; ask for fewer")


def _from_mlflow(name: str, storage: Path, top: int, at_most: Bounds) -> list[Candidate]:
    """The same from MLflow, by what the sweep sent there: the objective, genotype.json and config.json."""
    uri = store_of(None, storage)
    missing = f"--from-sweep {name}: there is no sweep in {storage / name}"
    if uri.startswith("sqlite") and not (storage / "mlflow.db").is_file() and "MLFLOW_TRACKING_URI" not in os.environ:
        raise ValueError(f"{missing}; name its --storage, or set MLFLOW_TRACKING_URI")
    set_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(uri)
    try:
        runs = _trials(client, name)
        if runs is None:
            raise ValueError(f"{missing}, and none of that name in MLflow at {uri}")
        for kind, most in at_most.items():
            runs = [run for run in runs if run.data.metrics.get(metric(kind), math.inf) <= most]
        _enough(f"MLflow's sweep {name}", len(runs), top)
        return [_downloaded(client, run, name) for run in runs[:top]]
    except MlflowException as error:
        raise ValueError(f"{missing}, and MLflow at {uri} fails: {one_line(error)}") from None


def _trials(client: MlflowClient, name: str) -> list[Any] | None:
    """MLflow's runs of the finished trials of the latest sweep of this name, best first; None: no such sweep."""
    from cluster.writer import every

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    where = experiment.experiment_id
    sweeps = [
        run
        for run in every(client, where, "tags.kind = 'sweep'")
        if run.data.tags["dasgm.run"].rpartition("@")[0] == name
    ]
    if not sweeps:
        return None
    sweep = max(sweeps, key=lambda run: run.info.start_time)
    found = every(client, where, f"tags.`mlflow.parentRunId` = '{sweep.info.run_id}'")
    objective = sweep.data.tags.get("objective") or FIRST  # older versions had one and sent no tag
    done = [run for run in found if run.data.tags.get("state") == "finished" and objective in run.data.metrics]
    return sorted(done, key=lambda run: (-run.data.metrics[objective], run.data.tags["dasgm.run"]))


def _downloaded(client: MlflowClient, run: Any, sweep: str) -> Candidate:
    number, key = run.info.run_id, run.data.tags["dasgm.run"]
    trial = key.rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        genotype = text(Path(client.download_artifacts(number, "genotype.json", folder)), LARGEST)
        config = read_json(Path(client.download_artifacts(number, "config.json", folder)))
    searched = {"sweep": sweep, "trial": trial, "run": key, "mlflow_run": number}
    return Candidate(trial, Genotype.from_json(genotype), f"MLflow run {number} ({sweep} {trial})", config, searched)
