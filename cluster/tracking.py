"""Keeps MLflow up to date with run folders.

The folder is the truth: all that is sent, timestamps too, is read from its files. cluster/contents.py reads what MLflow
shall hold, cluster/writer.py writes it; here is when that is done, and by whom.

    python -m cluster.tracking RUN...                    sends run or sweep folders and prints where to look at them
    python -m cluster.tracking RUN... --register NAME    also registers the trained networks (cluster/registry.py)
    python -m cluster.tracking --paper EXPERIMENT        writes the paper's results from MLflow (cluster/paper.py)
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

from cluster.contents import (
    Content,
    content_of_run,
    content_of_sweep,
    identity,
    root_of,
    storage_of,
)
from cluster.stores import EXPERIMENT, address, alone, ensure_known, one_line, store_of
from cluster.writer import Writer
from dasgm.cli.arguments import Parser
from dasgm.pages.view import mlflow_ui
from dasgm.store.files import printable, shell_line
from dasgm.store.records import PLAN
from dasgm.store.replica import here

CHARTS = "&compareRunsMode=CHART"


def sync(
    folder: str | Path, uri: str | None = None, experiment: str | None = None, known: dict[str, Content] | None = None
) -> str | None:
    """Bring MLflow up to date with the folder of a run, or of a sweep and all its trials.

    It can be repeated: nothing is sent twice. A run that was deleted in MLflow stays deleted.

    Args:
        uri: MLflow's tracking server; by default $MLFLOW_TRACKING_URI, else SQLite beside the runs.
        experiment: by default $MLFLOW_EXPERIMENT_NAME, else dasgm.
        known: trials that have ended and were sent before; `sync` adds to it. A repeated call passes it again.

    Returns:
        The link to look at, a path (`/#/experiments/...`, which address() completes); None if the folder is empty.
        The link of a sweep leads to the ranked table, and with CHARTS appended to parallel coordinates and pictures.

    Raises:
        ValueError: another process is sending this folder, or the experiment is deleted.
        Exception: MLflow's own, if the store cannot be written.
    """
    folder = Path(folder).resolve()
    root = root_of(folder)
    if not any((root / name).is_file() for name in ("sweep.json", "run.json")):
        return None
    with alone(root):
        if not (root / "sweep.json").is_file():
            search = content_of_run(root)
            store = Writer(uri, experiment, storage_of(root), search.key)
            return store.run_link(store.send(search))
        store = Writer(uri, experiment, storage_of(root), identity(root))
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


def register(folders: Sequence[Path], name: str, uri: str | None = None, experiment: str | None = None) -> list[str]:
    """Send evaluations, register their networks, and send the links; arguments and lines as of `registry.register`."""
    from cluster import registry

    roots = list(dict.fromkeys(root_of(folder.resolve()) for folder in folders))
    for root in roots:
        sync(root, uri, experiment)
    lines = registry.register([folder.resolve() for folder in folders], name, uri, experiment)
    for root in roots:
        sync(root, uri, experiment)
    return lines


def compare(folders: Sequence[str | Path], uri: str | None = None, experiment: str | None = None) -> str:
    """The link to MLflow's comparison (parallel coordinates) of run folders. ValueError: one was never sent."""
    runs = []
    for folder in (Path(folder).resolve() for folder in folders):
        key = identity(folder)
        store = Writer(uri, experiment, storage_of(folder), key)
        if key not in store.runs:
            raise ValueError(f"{folder} is not in MLflow yet: `python -m cluster.tracking {folder}` sends it")
        runs.append(store.runs[key].info)
    ids, experiments = [run.run_id for run in runs], sorted({run.experiment_id for run in runs})
    return f"/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps(experiments))}"


def ui_command(storage: str | Path, uri: str | None = None) -> str:
    """The command that serves the store of `storage`; empty if a server does already."""
    uri = store_of(uri, Path(storage))
    return "" if uri.startswith("http") else mlflow_ui(uri)


class MlflowSync:
    """A thread that keeps MLflow up to date with a folder. It never raises an error in the caller, nor delays it.

    `mirror = MlflowSync(folder).start()`, then `mirror.kick()` after each epoch, and `mirror.stop(10)` at the end.

    Attributes:
        link: see `sync`.
        error: one line about the last attempt; empty if all went well.

    Args:
        pause: seconds between two attempts.
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
        """Tell that something is new. It returns at once; kicks within `pause` seconds become one sync."""
        self._wake.set()

    def stop(self, timeout: float = 10.0) -> str:
        """Sync a last time, for at most `timeout` seconds; return one line if something did not arrive, else ""."""
        self._last.set()
        self._wake.set()
        self._thread.join(timeout)
        error = f"no answer within {timeout:g} s" if self._thread.is_alive() else self.error
        where = store_of(self.uri, storage_of(self.folder))
        to = f"--uri {shell_line([where])} " if where.startswith("http") else ""
        later = f"`python -m cluster.tracking {to}{shell_line([self.folder])}` sends what is missing"
        return f"MLflow at {where}: {error}; {later}" if error else ""

    def _run(self) -> None:
        failed, where = 0, store_of(self.uri, storage_of(self.folder))
        while True:
            self._wake.wait()
            self._wake.clear()
            last = self._last.is_set()  # read before the sync: what was written before stop() is then in it
            try:
                self.link, self.error = sync(self.folder, self.uri, self.experiment, {} if last else self._known), ""
                if failed > 1:
                    print(f"MLflow at {where}: it answers again, and what was missing has been sent", flush=True)
                failed = 0
            except Exception as error:  # no tracking server is worth a search
                self.error, failed = one_line(error), failed + 1
                if failed == 2 and not last:  # once may be chance
                    print(f"MLflow at {where}: {self.error}; the run continues, and it is tried again", flush=True)
            if last:
                return
            self._last.wait(self.pause)


# ------------------------------------------------------------------------------------------------ the command


def fetched(place: str) -> Path:
    """The folder that a path or an address names. For the address of a trial, its whole sweep is fetched."""
    folder = here(place, depth=1).resolve()
    if "://" in place and (folder / "run.json").is_file():
        parts = urlsplit(place.rstrip("/"))
        if above := parts.path.strip("/").rpartition("/")[0]:
            here(parts._replace(path=f"/{above}").geturl(), depth=1)
    return folder


def _send(place: str, options: argparse.Namespace) -> Path:
    """Send the folder that a path or an address names, and say where to look at it. ValueError: one line."""
    folder = None
    try:
        folder = fetched(place)
        if (link := sync(folder, options.uri, options.experiment)) is None:
            if (folder / PLAN).is_file():
                raise ValueError(f"it holds the runs of a fit: name one of them, such as {Path(place) / 'training'}")
            raise ValueError("it has neither run.json nor sweep.json: name the folder of a search or of a sweep")
    except Exception as error:
        named = f"{place}: " if folder else ""  # an address that is refused may hold a password
        if folder and not isinstance(error, ValueError):
            named = f"MLflow at {store_of(options.uri, storage_of(folder))}: "
        raise ValueError(f"{named}{one_line(error)}") from None
    print(f"{place}: {address(link, storage_of(folder), options.uri)}")
    return folder


def _register(folders: Sequence[Path], options: argparse.Namespace) -> None:
    """Register the networks in these folders, and say what came of it. ValueError: one line."""
    from cluster import registry

    runs = []
    for folder in folders:
        try:
            runs += registry.trained(folder)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
    try:
        lines = register(runs, options.register, options.uri, options.experiment)
    except Exception as error:
        raise ValueError(f"register {options.register}: {one_line(error)}") from None
    print(*map(printable, lines), sep="\n")


def _write_paper(options: argparse.Namespace) -> int:
    """Write the page of the paper's results. ValueError: one line."""
    if options.folders or options.register is not None or options.experiment is not None:
        raise ValueError("--paper sends nothing: leave runs, --experiment and --register out")
    from cluster.paper import paper

    print(*(printable(str(path)) for path in paper(options.paper, options.uri, options.output or Path("."))), sep="\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m cluster.tracking", description="Sends run folders to MLflow.")
    parser.add_argument(
        "folders",
        nargs="*",
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
    parser.add_argument(
        "--register",
        metavar="NAME",
        help="Model in MLflow's registry that gets a version of each trained network (default: none is registered).",
    )
    parser.add_argument(
        "--paper",
        metavar="EXPERIMENT",
        help="MLflow's experiment of whose runs every table and figure of the paper is written, as by dasgm report "
        "--paper, instead of sending runs. Without --uri its store is $MLFLOW_TRACKING_URI, else runs/mlflow.db.",
    )
    parser.add_argument(
        "--output", type=Path, help="Folder that gets paper.html and paper.md of --paper (default: the current one)."
    )
    options = parser.parse_args(arguments)
    try:
        ensure_known(options.uri)
        if options.paper is not None:
            return _write_paper(options)
        if not options.folders or options.output:
            raise ValueError("name the runs to send, or with --paper the experiment whose results are written")
        if options.register is not None:
            from cluster.registry import ensure_installed

            ensure_installed(options.register)
        folders = [_send(place, options) for place in options.folders]
        if options.register is not None:
            _register(folders, options)
    except ValueError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    for command in sorted({ui_command(storage_of(folder), options.uri) for folder in folders} - {""}):
        print(f"start this to open these pages: {command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
