"""MLflow's model registry: trained networks as registered models, which `mlflow models serve` serves.

A version is the ONNX file of one run in MLflow's ONNX flavour: no pickle, and neither dasgm nor torch is needed to
serve it. What is registered already is found by the digest of its weights, so registering can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cluster.champion import ALIAS, Contender, decide
from cluster.contents import identity, name_of, root_of, storage_of
from cluster.patience import told
from cluster.stores import address, alone, ensure_known, ensure_model_name, one_line, store_of, without_password
from cluster.writer import Writer, connect, points
from dasgm.measures.answers import PREDICTIONS
from dasgm.model import DESCRIPTION, WEIGHTS
from dasgm.pages.view import registrations
from dasgm.store.files import shell_line
from dasgm.store.records import ENDS, read_metrics, read_record
from dasgm.store.run import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

    from dasgm.model import Model

DIGEST = "dasgm.sha256"
"""Tag of a model and of its versions: the digest of the weights."""
PORT = 5001


# ------------------------------------------------------------------------------------------------ before training


def ensure_installed(name: str) -> None:
    """ValueError where `name` is none for a model, or a package is missing that exports one: one line."""
    from dasgm import export

    ensure_model_name(name)
    export.ensure_installed(f"register {name}")


def ensure_possible(name: str, storage: Path) -> None:
    """Find out before anything is trained whether it could be registered.

    Args:
        storage: the folder in which the runs lie.

    Raises:
        ValueError: see `ensure_installed`, or MLflow's registry does not answer: one line.
    """
    ensure_installed(name)
    ensure_known()
    uri = store_of(None, storage)
    where = without_password(uri)
    if _will_be_made(uri, storage):
        return
    try:
        with told("looking at MLflow's model registry", lambda: where):
            connect(uri).search_registered_models(max_results=1)
    except Exception as error:  # mlflow, requests and SQLAlchemy each have their own
        raise ValueError(
            f"register {name}: MLflow's model registry at {where} does not answer: {one_line(error)}; start it, name "
            "another by MLFLOW_TRACKING_URI, or leave --register out"
        ) from None


def _will_be_made(uri: str, storage: Path) -> bool:
    """Whether the store is a SQLite database that is made when there is something to send."""
    path = Path(uri.removeprefix("sqlite:///"))
    writable = path.parent == storage.resolve() or path.parent.is_dir() and os.access(path.parent, os.W_OK)
    return uri.startswith("sqlite:///") and not path.exists() and writable


def trained(folder: Path) -> list[Path]:
    """The folders of the trained networks in a folder: of an evaluation, or of a group in the order of its command.

    Raises:
        ValueError: there is none.
    """
    group = read_record(folder / "sweep.json")
    if group and group.get("kind") != "evaluations":
        again = shell_line(["python", "cluster/evaluate.py", "--from-sweep", folder.name, "--register", "NAME"])
        raise ValueError(f"its searches have no trained network to register; `{again}` trains one")
    runs = sorted(path.parent for path in folder.glob("*/run.json")) if group else [folder]
    records = {run: read_record(run / "run.json") for run in runs}
    done = [run for run in runs if records[run].get("state") == "finished" and (run / DESCRIPTION).is_file()]
    if not (found := sorted(done, key=lambda run: records[run].get("asked") or 0.0)):
        raise ValueError(f"there is no trained network ({DESCRIPTION}) in it; an evaluation that has finished has one")
    return found


# ------------------------------------------------------------------------------------------------ registering


@dataclass(frozen=True)
class Registered:
    """A run's version, and whether it was made just now."""

    run: Path
    version: ModelVersion
    new: bool


def register(folders: Sequence[Path], name: str, uri: str | None = None, experiment: str | None = None) -> list[str]:
    """Register trained networks whose runs are in MLflow, and decide who is champion.

    Each run.json gets the entry `registered`, so that the run's pages link to the version.

    Args:
        folders: of their runs, those first that are best by what is known without the test pictures.
        name: of the registered model; it is made if there is none.
        uri, experiment: see `cluster.tracking.sync`.

    Returns:
        Lines for the user: the versions, the champion, and how to serve it.

    Raises:
        ValueError: the runs belong to several stores, one is not in MLflow, or its network cannot be exported.
        Exception: MLflow's own, if the store cannot be written.
    """
    ensure_model_name(name)
    storage, *others = dict.fromkeys(map(storage_of, folders))
    if others and len({store_of(uri, each) for each in (storage, *others)}) > 1:
        raise ValueError(
            f"{storage} and {others[0]} each have an MLflow database of their own; register the runs of one at a time, "
            "or name one store for both by --uri"
        )
    store = store_of(uri, storage)
    found = [_registered(folder, name, uri, experiment) for folder in folders]
    lines = []
    for one in found:
        link = without_password(address(f"/#/models/{quote(name)}/versions/{one.version.version}", storage, uri))
        _note(one, without_password(store), link)
        state = "is" if one.new else "was already"
        lines.append(f"{name_of(one.run)} {state} version {one.version.version} of {name}: {link}")
    lines += _crown(connect(store), name, found)
    serve = ["mlflow", "models", "serve", "-m", f"models:/{name}@{ALIAS}", "--env-manager", "local"]
    words = shell_line([*serve, "--host", "127.0.0.1", "--port", str(PORT)])
    place = without_password(store)
    lines.append(f"the registry with all versions of {name} is MLflow at {place}")
    return [*lines, f"serve the {ALIAS}: MLFLOW_TRACKING_URI={shell_line([place])} {words}"]


def _note(one: Registered, store: str, link: str) -> None:
    """Write the version into run.json and the run's page."""
    from dasgm.pages.report import report

    now = {"store": store, "model": one.version.name, "version": str(one.version.version), "link": link}
    run = Run(one.run)
    before = registrations(run.about)
    if now in before:
        return
    others = [known for known in before if (known["store"], known["model"]) != (store, now["model"])]
    with run.unheld():
        run.note(registered=[*others, now])
        report(run.folder)


def _registered(folder: Path, name: str, uri: str | None, experiment: str | None) -> Registered:
    """The version of a run's network, made if need be."""
    key = identity(folder)
    writer = Writer(uri, experiment, storage_of(folder), key)
    run, client = writer.runs.get(key), writer.client
    if run is None or run.info.lifecycle_stage == "deleted":
        what = "was deleted in MLflow: restore it there" if run else "is not in MLflow yet: send it first"
        raise ValueError(f"{folder} {what}")
    run_id, digest = run.info.run_id, hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    with alone(root_of(folder)):
        if (
            folder / PREDICTIONS
        ).is_file():  # versions of later runs are compared with them, wherever this folder is then
            client.log_artifact(run_id, str(folder / PREDICTIONS), _place(digest))
        for version in client.search_model_versions(f"run_id = '{run_id}'"):
            if (version.name, version.tags.get(DIGEST), version.status) == (name, digest, "READY"):
                return Registered(folder, version, False)
        model = _logged(writer, run, folder, digest)
        _make_model(client, name)
        # not models:/ID, which MLflow would look up in the store of its global settings
        tags = {DIGEST: digest, "dasgm.run": key}
        version = client.create_model_version(name, model.artifact_location, run_id, tags, model_id=model.model_id)
        _link(client, model.model_id, version)
    return Registered(folder, version, True)


def _link(client: MlflowClient, model_id: str, version: ModelVersion) -> None:
    """Note the version with the model, as a server does: MLflow's pages of the run and of the model link to it."""
    label = "mlflow.modelVersions"
    known = json.loads(client.get_logged_model(model_id).tags.get(label, "[]"))
    if not any((one["name"], str(one["version"])) == (version.name, str(version.version)) for one in known):
        known.append({"name": version.name, "version": version.version})
        client.set_logged_model_tags(model_id, {label: json.dumps(known)})


def _make_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _place(digest: str) -> str:
    """Where the predictions of a network lie among the artifacts of its run."""
    return f"registered/{digest[:12]}"


# ------------------------------------------------------------------------------------------------ the model


def _logged(writer: Writer, run: Any, folder: Path, digest: str) -> LoggedModel:
    """The run's MLflow model with these weights. One that a killed process left half-made is removed."""
    import dasgm
    from dasgm.export import export

    client, run_id = writer.client, run.info.run_id
    for known in client.search_logged_models([writer.number], f"source_run_id = '{run_id}'"):
        if known.tags.get(DIGEST) == digest:
            if known.status == "READY":
                return known
            client.delete_logged_model(known.model_id)
    model = dasgm.load(folder)
    with TemporaryDirectory() as temporary:
        file, saved = Path(temporary) / "model.onnx", Path(temporary) / "saved"
        export(model, file, "onnx")
        made = client.create_logged_model(
            writer.number, "model", run_id, {DIGEST: digest}, dict(run.data.params), "image classifier"
        )
        _save(model, file, saved, made.model_id, made.artifact_location, run_id)
        client.log_model_artifacts(made.model_id, str(saved))
    _log_metrics(client, run_id, made.model_id, folder)
    return client.finalize_logged_model(made.model_id, "READY")


def _save(model: Model, file: Path, folder: Path, model_id: str, location: str, run_id: str) -> None:
    """Write MLflow's folder of the model: the ONNX file, signature, input example, requirements and class names."""
    import numpy as np
    import onnx
    import onnxruntime
    from mlflow import onnx as flavour
    from mlflow.models import Model as Description
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    from dasgm.export import metadata

    size, single = model.image_size, np.dtype(np.float32)
    images = TensorSpec(single, (-1, 3, size, size), "images")
    logits = TensorSpec(single, (-1, len(model.classes)), "logits")
    flavour.save_model(
        onnx.load(file),
        str(folder),
        mlflow_model=Description(artifact_path=location, run_id=run_id, model_uuid=model_id, model_id=model_id),
        signature=ModelSignature(Schema([images]), Schema([logits])),
        input_example={"images": np.zeros((1, 3, size, size), single)},  # a picture of the mean colour
        pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],  # MLflow adds itself
        onnx_execution_providers=["CPUExecutionProvider"],  # on which its outputs were compared with the network's
        metadata=json.loads(json.dumps(metadata(model))),
        save_as_external_data=False,
    )


def _log_metrics(client: MlflowClient, run_id: str, model_id: str, folder: Path) -> None:
    """Tell MLflow that the model is the run's, and that the run's result is the model's: the same points once more."""
    from mlflow.entities import LoggedModelOutput, Metric

    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    rows = [row for row in read_metrics(folder) if row["phase"] in ENDS]
    metrics = [Metric(*point, model_id=model_id, run_id=run_id) for row in rows[-1:] for point in points(row)]
    client.log_batch(run_id, metrics, synchronous=True)


# ------------------------------------------------------------------------------------------------ the champion


def _crown(client: MlflowClient, name: str, found: Sequence[Registered]) -> list[str]:
    """Let the alias go to the version that deserves it; lines that say why."""
    present = client.get_registered_model(name).aliases.get(ALIAS)
    with TemporaryDirectory() as temporary:
        others = [_contender(client, one.version, Path(temporary)) for one in found]
        champion = None
        if present is not None:
            champion = _contender(client, client.get_model_version(name, present), Path(temporary))
        best, lines = decide(name, champion, others)
    if best.version != str(present):
        client.set_registered_model_alias(name, ALIAS, best.version)
    return lines


def _contender(client: MlflowClient, version: ModelVersion, temporary: Path) -> Contender:
    """A version with the predictions that were sent when it was registered; it may be of another program's making."""
    from mlflow.exceptions import MlflowException

    number, place = str(version.version), _place(version.tags.get(DIGEST, ""))
    root, _, trial = version.tags.get("dasgm.run", "").partition("/")
    name = trial or root.rpartition("@")[0] or "not registered by dasgm"
    kept, folder = f"{place}/{PREDICTIONS}", temporary / number
    folder.mkdir(exist_ok=True)
    try:
        if version.run_id and kept in [file.path for file in client.list_artifacts(version.run_id, place)]:
            return Contender(number, name, Path(client.download_artifacts(version.run_id, kept, str(folder))))
    except MlflowException:  # its run was removed for good
        pass
    return Contender(number, name, None)
