"""The process that starts the workers of a run, follows them, and writes down how the run ended."""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.connection import Failed, connected
from cluster.job import ensure_device, launch
from cluster.patience import answered, say_now, told
from cluster.room import Workers
from dasgm.cli.arguments import fail
from dasgm.config import PretrainConfig, SearchConfig, to_json
from dasgm.store.bucket import lies_at, local
from dasgm.store.replica import discard, following
from dasgm.store.run import Run

AGAIN = "to continue, run the same command"

Work = Callable[[dict[str, Any]], Any]
"""What every worker of a run does with the run's payload: `search`, `pretrain` or `evaluate` of cluster/job.py."""


def payload(config: Any, folder: Path, cache: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What the workers of a run need to know, as text: it is encoded here, and decoded in the worker.

    Args:
        config: the run's configuration, of any kind.
        folder: the run's folder.
        cache: the folder of what several runs share, such as GAN warm-ups.
        about: entries of run.json.
    """
    return {
        "config": json.dumps(to_json(config)),
        "about": json.dumps(about),
        "folder": lies_at(folder.absolute()),
        "cache": lies_at(cache.absolute()),
    }


def _driven(asked: dict[str, Any]) -> dict[str, Any]:
    """A payload that names this driver. The workers write the name into run.json."""
    return asked | {"driver": uuid.uuid4().hex}


def look_at_data(config: SearchConfig, workers: Workers, pretrain: bool = False) -> list[str]:
    """Load the data set once, so that what is wrong with it, or with the pre-trained GAN, is said before Ray starts.

    Args:
        pretrain: the pre-trained GAN is still to be made.

    Returns:
        Lines that describe the data set.
    """
    from dasgm.bilevel import ensure_graph
    from dasgm.jobs.pretrain import wanted_by
    from dasgm.jobs.search import can_synchronise, fits, truth_of
    from dasgm.pretrained import chosen

    ensure_device(config, workers)
    truth_of(config)
    data = config.data.load(config.data_dir, "cpu")
    fits(config, data, workers.number)
    can_synchronise(config, workers.gpus > 0)
    ensure_graph(config.cuda_graph, "cuda" if workers.gpus else "cpu", workers.number)
    if pretrain:
        wanted_by(config)
    else:
        chosen(config, data)
    return [data.describe(), *data.notes]


def attempt(
    work: Work,
    asked: dict[str, Any],
    workers: Workers,
    scratch: Path,
    callbacks: list[Any] | None = None,
) -> str:
    """Do one of several runs, in a Ray actor. Its folder says how it ended.

    If the actor dies, `leftovers` frees what the workers held.

    Args:
        asked: the run's payload.
        scratch: folder for Ray's own notes.
        callbacks: Ray Train's callbacks.

    Returns:
        Why the run did not come to its end; empty if it did.
    """
    asked = _driven(asked)
    try:
        launch(work, asked, workers, scratch, callbacks, here=True)
    except (Failed, ValueError) as error:
        with suppress(OSError, ValueError):  # if the folder cannot be written, `error` says so
            _note_end(asked, error)
        return str(error)
    return ""


def _note_end(asked: dict[str, Any], why: BaseException) -> None:
    """Note in a run's folder that it did not come to its end.

    Nothing is noted if a worker has done so, if the trial was stopped, or if the workers belong to another driver.
    """
    from dasgm.pages.report import report

    found = Run(asked["folder"]).latest()
    state, ours = found.about.get("state"), found.about.get("driver") == asked["driver"]
    if state == "waiting" or state == "running" and ours:
        # a fault of the machine may pass, and the same command continues; a user's mistake stays one
        state = "failed" if isinstance(why, ValueError) else "interrupted"
        with found.unheld():
            found.note(state=state, reason=str(why) or "stopped on request", ended=time.time())
            report(found.folder)


def _begun(asked: dict[str, Any]) -> bool:
    """Whether the workers of this driver have written into the run's folder."""
    return Run(asked["folder"]).about.get("driver") == asked["driver"]


def run(work: Work, asked: dict[str, Any], workers: Workers, what: str) -> None:
    """Do a single run, send it to MLflow meanwhile, and print what its workers say.

    Args:
        asked: the run's payload.
        what: the kind of run, for messages: "search" or "pre-training".

    Raises:
        ValueError: a user's mistake, or the folder is in use.
        Failed: the run failed.
        KeyboardInterrupt: the run was stopped.
    """
    from cluster.tracking import MlflowSync

    asked, folder = _driven(asked), local(asked["folder"])
    scratch = folder / ".ray"  # Ray's own notes, also those of a run that was killed
    over = threading.Event()
    with Run(folder).driven():  # of two commands for one run, the second is refused before its workers start
        with Run(folder):  # refused here if another process has it
            pass
        mirror = MlflowSync(folder).start()
        follower = threading.Thread(target=_follow, args=(folder / "log.txt", over, mirror.kick), daemon=True)
        follower.start()
        try:
            with connected(workers), following(folder):
                try:
                    with told("starting the workers", lambda: "" if _begun(asked) else f"Ray to start {workers}"):
                        launch(work, asked, workers, scratch)
                except Failed as error:
                    again = "" if "the same command" in str(error) else f"; {AGAIN}"
                    raise Failed(f"the {what} failed: {error}{again}") from None
        except BaseException as error:  # Ray has removed the workers
            with suppress(OSError, ValueError):
                _note_end(asked, error)
            raise
        finally:
            over.set()
            follower.join(2)
            if missing := mirror.stop(20):
                print(missing)
            discard(scratch)
    about = Run(folder).about
    if about.get("state") == "failed":
        raise Failed(f"the {what} failed: {about['reason']}; what came before is in {lies_at(folder)}")


def _follow(path: Path, over: threading.Event, kick: Callable[[], None]) -> None:
    """Print new lines of a run's log until `over` is set, and call `kick` after each print."""
    place = path.stat().st_size if path.exists() else 0
    while True:
        last = over.is_set()
        if path.exists():
            with open(path) as file:
                file.seek(place)
                if said := file.read():
                    print(said, end="", flush=True)
                    kick()
                place = file.tell()
        if last:
            return
        time.sleep(0.3)


def pretrained_first(config: SearchConfig, storage: Path, workers: Workers, command: str) -> SearchConfig:
    """Pre-train the GAN of a search, unless that has been done; return the configuration with the GAN's file.

    Raises:
        ValueError, Failed, KeyboardInterrupt: see `run`.
    """
    from cluster.job import pretrain
    from dasgm.jobs.pretrain import of_search

    def first(wanted: PretrainConfig, folder: Path) -> None:
        about = {"name": folder.name, "title": folder.name, "command": command}
        run(pretrain, payload(wanted, folder, storage / "cache", about), workers, "pre-training")

    return of_search(config, storage, first, say_now)


def ended(job: Callable[[], int], folder: Path, command: str) -> int:
    """Do the job of a command and return its exit code; an end other than success is said in one line.

    Args:
        job: prints what came of it, and returns the exit code.
        folder: where what is done lies.
        command: continues the job after it was stopped.

    Returns:
        130 when the job was stopped. A user's mistake exits with 2, a failure with 1.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with answered():
            return job()
    except (ValueError, OSError) as error:
        fail(error)
    except Failed as error:
        fail(error, 1)
    except KeyboardInterrupt:
        say_now(f"stopped; what is done is in {lies_at(folder)}. To continue: {command}")
        return 130
