"""One search as a Ray Train job, the same as `dasgm search`'s: python cluster/search.py PRESET --workers 2 ..."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.handover import HELP, hand_over
from cluster.job import Workers, connected, launch, workers_for
from cluster.job import search as work
from dasgm.catalogue import show_config
from dasgm.cli import SearchOptions, fail, search_options
from dasgm.config import SearchConfig, to_json


@dataclass(frozen=True)
class Options(SearchOptions):
    """Where a search lies, how many workers run it, and its settings."""

    workers: int = 1
    """Processes that share the search; each has its own batch of --batch-size."""
    gpus: float | None = None
    """Of all workers together; by default one a worker where this machine has as many."""
    wait: float = 1800.0
    """Seconds to wait for room on a joined cluster (RAY_ADDRESS)."""


def payload(config: SearchConfig, folder: Path, cache: Path, about: dict[str, Any]) -> dict[str, Any]:
    """A search as plain data, for the workers."""
    folder, cache = folder.absolute(), cache.absolute()
    text = json.dumps(to_json(config))
    return {"config": text, "folder": str(folder), "cache": str(cache), "about": about}


def look_at_data(config: SearchConfig, workers: Workers) -> list[str]:
    """Load the data set once here, so that what is wrong with it is said before anything starts; what it is."""
    from dasgm.loop import fits

    data = config.data.load(config.data_dir, "cpu")
    fits(config, data, workers.number)
    return [data.describe(), *data.notes]


def main(argv: list[str] | None = None) -> int:
    """The command; the exit code as `dasgm search`'s."""
    words = sys.argv[1:] if argv is None else argv
    if (code := hand_over("cluster.search", words)) is not None:
        return code
    chosen, options = search_options(words, "cluster/search.py", Options, HELP)
    folder = options.storage / (options.name or chosen.name())
    command = shlex.join(["python", "cluster/search.py", *words])
    show_config(chosen.config)
    if options.dry_run:
        from dasgm.estimate import describe

        print(describe(chosen.config, workers=options.workers))
        return 0
    print(f"{chosen.preset} on {chosen.dataset}: starting Ray; the run's folder is {folder}", flush=True)
    from cluster.tracking import Mirror
    from dasgm.runs import Run

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scratch = folder.absolute() / f".ray-{os.getpid()}"
    try:
        workers = workers_for(options.workers, options.gpus)
        look_at_data(chosen.config, workers)
        with Run(folder):  # refused here if another process has it
            pass
        about = {"name": folder.name, "title": folder.name, "command": command, "published": chosen.published}
        said, over = (folder / "log.txt"), threading.Event()
        mirror = Mirror(folder).start()
        with connected(workers, options.wait):
            follower = threading.Thread(target=_follow, args=(said, over), daemon=True)
            follower.start()
            try:
                launch(work, payload(chosen.config, folder, options.storage / "cache", about), workers, scratch)
            finally:
                over.set()
                follower.join(2)
                told = mirror.stop(20)
                shutil.rmtree(scratch, ignore_errors=True)
    except (ValueError, OSError) as error:
        fail(str(error))
    except RuntimeError as error:
        fail(f"the search failed: {error}; to continue, run the same command", 1)
    except KeyboardInterrupt:
        print(f"stopped; what is done is in {folder}. To continue: {command}")
        return 130
    if told:
        print(told)
    run = Run(folder).about
    if run.get("state") == "failed":
        fail(f"the search failed: {run['reason']}; what came before is in {folder}", 1)
    print(f"finished; the result page is {folder / 'report.html'}")
    return 0


def _follow(path: Path, over: threading.Event) -> None:
    """Print what the workers say, from now on."""
    place = path.stat().st_size if path.exists() else 0
    while True:
        last = over.is_set()
        if path.exists():
            with open(path) as file:
                file.seek(place)
                sys.stdout.write(file.read())
                sys.stdout.flush()
                place = file.tell()
        if last:
            return
        time.sleep(0.3)


if __name__ == "__main__":
    raise SystemExit(main())
