"""What a large sweep costs beside its searches.

A simulated cluster (ray.cluster_utils: machines of one CPU, all on this one) runs a sweep of trials that compute
nothing, without Ray Train, through the sweep's own study, scheduler, folders and mirror, then one of real tiny
searches. Printed are, of each, the driver's memory over time, what a trial costs beside its work and in MLflow, and
what grows with the number of trials.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from cluster import connection, job
from cluster.room import Workers
from dasgm.cli.settings import choose
from dasgm.config import override
from dasgm.pages.view import RunView
from dasgm.store.run import Run
from tuning import sweep
from tuning.sweep import Options, Sweep

SIMULATED = Path(__file__).parents[1] / "tests" / "tools" / "simulated.py"
EPOCHS = 4
TINY = {
    "method.epochs": EPOCHS,
    "method.arch_start_epoch": 3,
    "method.channels": 2,
    "batch_size": 8,
    "proxy.epochs": 1,
    "proxy.channels": 4,
    "data.limit": 400,
    "data.holdout": 0.4,
    "gan.warmup": 3,
    "gan.channels": 4,
    "gan.shared_dim": 8,
    "gan.z_dim": 24,
    "pictures_every": 9,
}
LARGE = 10_000  # trials, that is asked about


class Trivial:
    """In place of tuning.sweep.Trial: a search's folder and reports, without a search."""

    def __init__(self, scratch: Path, workers: Workers):
        self.__name__ = "trivial"

    def __call__(self, config: dict[str, Any]) -> None:
        import random

        from ray import tune

        from dasgm.config import from_json, mathematics

        settings = json.loads(config["config"])
        draw = random.Random(config["name"])
        with Run(config["folder"]) as run:
            run.begin(settings, mathematics(from_json(settings)), json.loads(config["about"]))
            for epoch in range(1, EPOCHS + 1):
                row = {"epoch": epoch, "phase": "search 1", "time": time.time(), "speed/seconds": 0.0}
                row["val/accuracy"] = draw.random()
                run.log("metrics", row)
                run.log("alphas", {"epoch": epoch, "normal": [[0.125] * 8] * 14, "reduce": [[0.125] * 8] * 14})
                tune.report({"epoch": epoch, "val/accuracy": row["val/accuracy"]})
            best = {"epoch": EPOCHS, "phase": "best", "time": time.time(), "best/proxy": draw.random()}
            run.log("metrics", best | {"best/proxy_error": 0.1, "cost/gpu_hours": 0.0})
            run.note(state="finished", reason="", ended=time.time())


@dataclass
class Watch:
    """The driver's memory over time, seen from a thread of its own."""

    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)

    @contextmanager
    def ing(self) -> Iterator[None]:
        over, begun, me = threading.Event(), time.monotonic(), psutil.Process()

        def look() -> None:
            while not over.wait(1):
                self.seconds.append(time.monotonic() - begun)
                self.megabytes.append(me.memory_info().rss / 1e6)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def at(self, share: float) -> float:
        return self.megabytes[min(len(self.megabytes) - 1, int(share * len(self.megabytes)))]

    def growth(self, trials: int) -> float:
        """MB a trial over the second half, when everything has been imported."""
        half = len(self.seconds) // 2
        slope = np.polyfit(self.seconds[half:], self.megabytes[half:], 1)[0]
        return float(slope * self.seconds[-1] / trials)


@contextmanager
def cluster(nodes: int) -> Iterator[None]:
    """A simulated one to join."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
    os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, str(SIMULATED), folder, str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout and process.stdin
        os.environ["RAY_ADDRESS"] = next(line.strip() for line in process.stdout if line[0] in "[0123456789")
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(120)


IMPORTS = """
import importlib, psutil
from cluster import connection
connection.prepare()
before = psutil.Process().memory_info().rss
for name in ("torch", "torchvision", "ray", "ray.train.torch", "ray.tune", "optuna", "mlflow", "tuning.trials"):
    importlib.import_module(name)
    now = psutil.Process().memory_info().rss
    print(f"{name} {(now - before) / 1e6:.0f}", end=", ")
    before = now
print(f"in all {now / 1e6:.0f}")
"""


def imports() -> str:
    """MB that a driver takes before it does anything, by what it imports, in this order."""
    return subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout.strip()


def size(path: Path) -> int:
    """In bytes, of a file or of all below a folder."""
    return sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())


def empty_store() -> int:
    """Bytes of MLflow's database before there is anything in it."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return size(Path(folder) / "mlflow.db")


def timed(action: Callable[[], Any]) -> float:
    """Seconds, the least of three."""

    def once() -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    return min(once() for _ in range(3))


def worked(view: RunView) -> float:
    """Seconds that a trial of one worker computed; the warm-up's are on record of a finished one alone."""
    hours = sum(view.last(f"cost/{stage}_gpu_hours") or 0.0 for stage in ("warmup", "proxy"))
    return 3600 * hours + sum(value for _, value in view.curve("speed/seconds"))


def measure(kind: str, trials: int, at_once: int, storage: Path) -> None:
    from cluster.tracking import sync
    from dasgm.pages.view import read_trials
    from tuning.asking import open_study

    chosen = choose(["--preset", "quickstart"], positional=False)
    options = Options(
        override(chosen.config, TINY), max_concurrent=at_once, storage=storage, name=kind, num_trials=trials
    )
    swept = Sweep(replace(chosen, config=options.config), options, options.plan(), "benchmarks/load.py")
    me, watch, begun = psutil.Process(), Watch(), time.monotonic()
    cpu = sum(me.cpu_times()[:2])
    with Run(swept.folder), watch.ing():
        swept.begin()
        whole = swept.run(job.workers_for(1, None))
    seconds, cpu = time.monotonic() - begun, sum(me.cpu_times()[:2]) - cpu
    sync(swept.folder)
    views = read_trials(swept.folder)
    states = {state: sum(view.state == state for view in views) for state in {view.state for view in views}}
    lasted = [view.info["ended"] - view.info["asked"] for view in views]
    computed = np.mean([worked(view) for view in views])
    study = open_study(swept.folder)
    mlflow, empty = size(storage / "mlflow.db") + size(storage / "mlartifacts"), empty_store()
    print(f"\n{kind}: {trials} trials, {at_once} at once, {'all ended' if whole else 'NOT ALL ENDED'}: {states}")
    rows: list[tuple[str, str]] = [
        ("the whole", f"{seconds:.0f} s"),
        ("a trial, from asked to ended", f"{np.mean(lasted):.1f} s (median {np.median(lasted):.1f})"),
        ("  of which warm-up, epochs and proxy", f"{computed:.1f} s"),
        ("overhead a trial, of its place", f"{seconds * at_once / trials - computed:.1f} s"),
        ("the driver's CPU time a trial", f"{cpu / trials:.2f} s"),
        ("the driver's memory, MB", " -> ".join(f"{watch.at(s):.0f}" for s in (0.1, 0.25, 0.5, 0.75, 1.0))),
        ("  growing", f"{1000 * watch.growth(trials):.0f} kB a trial"),
        ("a trial's folder", f"{size(swept.folder) / trials / 1000:.1f} kB"),
        ("the study", f"{size(swept.folder / 'study.db') / trials / 1000:.1f} kB a trial"),
        ("MLflow, beside an empty store", f"{(mlflow - empty) / trials / 1000:.1f} kB a trial"),
    ]
    rows += looked_at(swept.folder, study, trials)
    for name, value in rows:
        print(f"  {name:<36} {value}", flush=True)


def looked_at(folder: Path, study: Any, trials: int) -> list[tuple[str, str]]:
    """What a look at a sweep's folder costs, for who shows, sends and ranks it."""
    from cluster.tracking import sync
    from dasgm.pages.report import report
    from dasgm.pages.view import Trials, read_trials

    rows, board, known = list[tuple[str, str]](), Trials(folder), dict[str, Any]()
    board.look()
    sync(folder, known=known)
    for what, action in (
        ("the table's first look", lambda: read_trials(folder)),
        ("  the next, nothing new", board.look),
        ("the mirror's first look, all is sent", lambda: sync(folder)),
        ("  the next, nothing new", lambda: sync(folder, known=known)),
        ("reading the study", lambda: study.get_trials(deepcopy=False)),
        ("the result page", lambda: report(folder)),
    ):
        spent = timed(action)
        rows.append((what, f"{1000 * spent:.0f} ms; of {LARGE:,} trials {spent * LARGE / trials:.1f} s, if it grows as"
                     " they do"))  # fmt: skip
    return rows


def looks(trials: int, epochs: int = 50) -> None:
    """CPU seconds of looks at folders of trials of so many epochs, of which all but four have ended."""
    from dasgm.pages.view import Trials, read_trials

    edges = {kind: [[0.123456789] * 8] * 14 for kind in ("normal", "reduce")}
    figures = {f"loss/figure-{i}": 0.123456789 for i in range(25)}
    with tempfile.TemporaryDirectory() as root:
        for number in range(trials):
            run = Run(Path(root) / f"t{number:05d}")
            run.folder.mkdir()
            state = "waiting" if number >= trials - 4 else "finished"
            run.note(format=1, title=run.folder.name, state=state, started=1.79e9, ended=None)
            for name, row in (("metrics", figures | {"val/accuracy": 0.5}), ("alphas", edges)):
                rows = [{"epoch": e, "phase": "search 1", "time": 1.79e9 + e} | row for e in range(1, epochs + 1)]
                (run.folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        board = Trials(root)
        for what, look in (("all are read", lambda: read_trials(root)), ("first", board.look), ("next", board.look)):
            begun = time.process_time()
            look()
            print(f"{trials} folders of {epochs} epochs, {what}: {time.process_time() - begun:.3f} s of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trivial", type=int, default=200, help="trials that compute nothing; 0: none")
    parser.add_argument("--real", type=int, default=20, help="tiny searches; 0: none")
    parser.add_argument("--look", type=int, default=0, help="folders of 50 epochs that a table looks at; 0: none")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=8, help="simulated machines")
    parser.add_argument("--folder", type=Path, help="of the runs; by default one that is removed")
    asked = parser.parse_args()
    if asked.look:
        looks(asked.look)
        return
    print(f"importing, MB: {imports()}", flush=True)
    with tempfile.TemporaryDirectory() as temporary, cluster(asked.nodes):
        connection.prepare()
        root, real = asked.folder or Path(temporary), sweep.Trial
        for kind, trials, trial in (("trivial", asked.trivial, Trivial), ("real", asked.real, real)):
            if trials:
                sweep.Trial = trial  # type: ignore[misc, assignment]
                measure(kind, trials, asked.at_once, root / kind)


if __name__ == "__main__":
    main()
