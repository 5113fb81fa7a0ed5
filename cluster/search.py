"""One search as a Ray Train job, the same as `dasgm search`'s: python cluster/search.py PRESET --workers 2 ..."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.connection import Failed, connected
from cluster.handover import HELP, hand_over
from cluster.job import ControllerLost, ensure_device, launch, workers_for
from cluster.job import search as work
from cluster.patience import answered, say_now, told
from cluster.room import Workers
from cluster.stores import ensure_known
from dasgm.cli.again import called
from dasgm.cli.arguments import fail
from dasgm.cli.catalogue import show_config
from dasgm.cli.search import SearchOptions, result_line, search_options
from dasgm.config import PretrainConfig, SearchConfig, to_json
from dasgm.store.bucket import lies_at, local
from dasgm.store.replica import discard, following
from dasgm.store.run import Run

AGAIN = "to continue, run the same command"


@dataclass(frozen=True)
class Options(SearchOptions):
    """Where a search lies, how many workers run it, and its settings."""

    workers: int = 1
    """Number of processes that share the search; each has a batch of --batch-size of its own."""
    gpus: float | None = None
    """Number of GPUs of all workers together. None takes one for each worker if this machine has as many."""
    wait: float = 1800.0
    """Seconds to wait for room on a joined cluster (RAY_ADDRESS), at the beginning and after a machine is lost."""


def payload(config: Any, folder: Path, cache: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A run, of whatever kind, as plain data for the workers; in its record they name this driver."""
    text, about = json.dumps(to_json(config)), about | {"driver": uuid.uuid4().hex}
    return {"config": text, "folder": lies_at(folder.absolute()), "cache": lies_at(cache.absolute()), "about": about}


def look_at_data(config: SearchConfig, workers: Workers, pretrain: bool = False) -> list[str]:
    """Load the data set once here, so that what is wrong with it, or with the pre-trained GAN, is said before anything
    starts; what it is. `pretrain`: that GAN is still to be made."""
    from dasgm.jobs.pretrain import wanted_by
    from dasgm.jobs.search import can_synchronise, fits
    from dasgm.pretrained import chosen

    ensure_device(config, workers)
    data = config.data.load(config.data_dir, "cpu")
    fits(config, data, workers.number)
    can_synchronise(config, workers.gpus > 0)
    if pretrain:
        wanted_by(config)
    else:
        chosen(config, data)
    return [data.describe(), *data.notes]


def attempt(
    work: Callable[[dict[str, Any]], Any],
    asked: dict[str, Any],
    workers: Workers,
    scratch: Path,
    callbacks: list[Any] | None = None,
    retried: bool = False,
) -> str:
    """`work` on every worker, one of several such runs; its folder says how it ended. '' or why it did not end well.

    ControllerLost: where who calls is `retried` when he fails.
    """
    try:
        launch(work, asked, workers, scratch, callbacks)
    except (Failed, ValueError) as error:
        if retried and isinstance(error, ControllerLost):
            raise
        with suppress(OSError, ValueError):  # where that cannot be written, `error` says so
            _not_to_its_end(asked, error)
        return str(error)
    return ""


def _not_to_its_end(asked: dict[str, Any], why: BaseException) -> None:
    """Note it, unless a worker has, or the trial was stopped and its workers were taken away from under it.

    Nor where the workers that ran, or run, are another driver's.
    """
    from dasgm.pages.report import report

    its = Run(asked["folder"]).latest()
    state, ours = its.about.get("state"), its.about.get("driver") == asked["about"]["driver"]
    if state == "waiting" or state == "running" and ours:
        # what befell the machine may pass, and the same command tries again; a user's mistake stays one
        state = "failed" if isinstance(why, ValueError) else "interrupted"
        with its.unheld():
            its.note(state=state, reason=str(why) or "stopped on request", ended=time.time())
            report(its.folder)


def _begun(asked: dict[str, Any]) -> bool:
    """Whether the workers of this driver have written into the run's folder."""
    return Run(asked["folder"]).about.get("driver") == asked["about"]["driver"]


def run(work: Callable[[dict[str, Any]], Any], asked: dict[str, Any], workers: Workers, what: str) -> None:
    """`work` on every worker, as one job that MLflow mirrors; what the workers say is printed.

    Raises:
        ValueError: a user's mistake, or a folder in use.
        Failed: why the run, called `what`, failed.
        KeyboardInterrupt: stopped.
    """
    from cluster.tracking import MlflowSync

    folder = local(asked["folder"])
    scratch = folder / ".ray"  # Ray's own notes while it runs, and what one that was killed left
    over = threading.Event()
    with Run(folder).driven():  # of two such commands at once one is refused before its workers are there
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
        except BaseException as error:  # Ray has taken the workers away
            with suppress(OSError, ValueError):
                _not_to_its_end(asked, error)
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


def main(argv: list[str] | None = None) -> int:
    """The command; the exit code as `dasgm search`'s."""
    words = sys.argv[1:] if argv is None else argv
    if (code := hand_over("cluster.search", words)) is not None:
        return code
    chosen, options = search_options(words, "cluster/search.py", Options, HELP)
    config, folder = chosen.config, options.storage / (options.name or chosen.name())
    command = called(words, "cluster/search.py")
    show_config(config)
    if options.dry_run:
        from dasgm.cli.estimate import describe

        print(describe(config, workers=options.workers, pretrain=options.pretrain))
        return 0

    def job() -> None:
        workers = workers_for(options.workers, options.gpus, wait=options.wait)
        what = f"{chosen.preset} on {chosen.dataset}"
        say_now(f"{what}: starting Ray; the run's folder is {lies_at(folder)}")
        look_at_data(config, workers, options.pretrain)
        begun = pretrained_first(config, options.storage, workers, command) if options.pretrain else config
        about = {"name": folder.name, "title": folder.name, "command": command, "published": chosen.published}
        run(work, payload(begun, folder, options.storage / "cache", about), workers, "search")
        print(result_line(Run(folder).rows()[-1], folder))

    return ended(job, folder, command)


def pretrained_first(config: SearchConfig, storage: Path, workers: Workers, command: str) -> SearchConfig:
    """The search's configuration with its pre-trained GAN, made first, as a job of as many workers, unless it is there.

    Raises:
        ValueError, Failed, KeyboardInterrupt: see `run`.
    """
    from cluster.job import pretrain
    from dasgm.jobs.pretrain import of_search

    def first(wanted: PretrainConfig, folder: Path) -> None:
        about = {"name": folder.name, "title": folder.name, "command": command}
        run(pretrain, payload(wanted, folder, storage / "cache", about), workers, "pre-training")

    return of_search(config, storage, first, say_now)


def ended(job: Callable[[], None], folder: Path, command: str) -> int:
    """Do the job, which tells what came of it; other ends in one line. The command's exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        ensure_known()
        with answered():
            job()
    except (ValueError, OSError) as error:
        fail(error)
    except Failed as error:
        fail(error, 1)
    except KeyboardInterrupt:
        say_now(f"stopped; what is done is in {lies_at(folder)}. To continue: {command}")
        return 130
    return 0


def _follow(path: Path, over: threading.Event, kick: Callable[[], None]) -> None:
    """Print what the workers say, from now on, and tell that there is something new."""
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


if __name__ == "__main__":
    raise SystemExit(main())
