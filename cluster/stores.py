"""Where MLflow keeps what is sent to it: $MLFLOW_TRACKING_URI, else SQLite beside the runs. Does not import mlflow."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from dasgm.plugins import nearest
from dasgm.store.files import short

DATABASES = ("postgresql", "mysql", "sqlite", "mssql")
SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")
EXPERIMENT = "dasgm"
ENVIRONMENT = {  # set unless the user has: with its defaults MLflow waits 4 to 20 minutes for a server that is gone
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what goes wrong is raised as well, and said once
}
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves a database
EXAMPLES = "http://127.0.0.1:5000 or sqlite:////home/me/mlflow.db"


def set_environment() -> None:
    """Set what mlflow reads from the environment; to be called before it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def store_of(uri: str | None, storage: Path) -> str:
    """The address of the store for what lies in `storage`."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.resolve()}/mlflow.db"


def address(link: str, storage: Path, uri: str | None = None) -> str:
    """A page of MLflow as a browser takes it: at the server, or where `mlflow ui` serves the database.

    Args:
        link: its path, such as /#/experiments/1.
        storage, uri: see `store_of`.
    """
    uri = store_of(uri, storage)
    return (uri.rstrip("/") if uri.startswith("http") else LOCAL) + link


def experiment_of(name: str | None = None) -> str:
    """The experiment's name: `name`, else $MLFLOW_EXPERIMENT_NAME, else dasgm."""
    return name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def ensure_known(uri: str | None = None) -> None:
    """ValueError if MLflow has no store for `uri`, by default $MLFLOW_TRACKING_URI.

    MLflow itself takes seconds to import, and would raise its error only when a search already runs.
    """
    named = "" if uri else "MLFLOW_TRACKING_URI "
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return
    try:
        kind, host = _kind(uri), urlsplit(uri).hostname
    except ValueError as error:
        raise ValueError(f"{named}{_shown(uri)}: {error}; expected such as {EXAMPLES}") from None
    if kind in ("", "file"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
            raise ValueError(
                f"{named}{_shown(uri)}: it names a folder, and MLflow no longer writes to folders; name a server or a "
                f"database, such as {EXAMPLES}"
            )
        return
    plugins = [point.name for point in entry_points(group="mlflow.tracking_store")]
    if kind not in (*DATABASES, *SERVERS, *plugins):
        kinds = [*SERVERS, *DATABASES, *plugins]
        raise ValueError(
            f"{named}{_shown(uri)}: MLflow has no store of the kind {kind!r}{nearest(kind, kinds)}; there are: "
            f"{', '.join(kinds)}; expected such as {EXAMPLES}"
        )
    if kind in ("http", "https") and not host:
        raise ValueError(f"{named}{_shown(uri)}: it names no host; expected such as {EXAMPLES}")


def ensure_model_name(name: str) -> None:
    """ValueError where a registered model cannot be called so, or `models:/NAME@ALIAS` would not be its address."""
    if not re.fullmatch(r"\w([\w. -]{0,198}\w)?", name):
        raise ValueError(
            f"register {short(name)}: expected a name of at most 200 letters, digits, spaces and '.', '_', '-', with a "
            "letter or a digit at both ends, as in --register pictures"
        )


def _kind(uri: str) -> str:
    """The scheme of an address as MLflow reads it: a database without its driver; empty for a path."""
    if uri in SERVERS:  # databricks, without an address
        return uri
    scheme = urlsplit(uri).scheme.lower()
    if len(scheme) < 2:  # a path; C:\\...
        return ""
    database, plus, _ = scheme.partition("+")
    return database if plus and database in DATABASES else scheme


def without_password(uri: str) -> str:
    """An address as it may be written down."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _shown(uri: str) -> str:
    """An address as it is shown: without a password, and short."""
    return repr(re.sub(r"//[^/@]*@", "//...@", uri)[:100])


def one_line(error: Exception) -> str:
    """The gist of an error that mlflow, requests or SQLAlchemy tells over many lines."""
    text = str(error).strip()
    cause = re.search(r"Connection refused|timed out|Name or service not known|No route to host|is locked", text)
    return cause[0] if cause else f"{type(error).__name__}: {text}".removeprefix("ValueError: ").splitlines()[0][:500]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process sends a folder at a time, or both would create its runs. ValueError: another one does."""
    with open(folder / ".tracking.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is being sent to MLflow by another process: try again in a minute") from None
        except OSError:
            pass  # a file system without locks
        yield
