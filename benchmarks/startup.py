"""Which processes a sweep starts, and what each imports: python benchmarks/startup.py [ARGUMENTS OF tuning/sweep.py]

Counts of processes and of imported modules are the same on every machine; seconds are processor time. Without arguments
it runs a sweep of two tiny searches.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    *("--num-trials=2", "--method.epochs=2", "--method.channels=2", "--batch-size=8", "--proxy.epochs=1"),
    *("--proxy.channels=4", "--data.limit=400", "--data.holdout=0.4", "--pictures-every=9", "--gan=none"),
]
WATCHED = ("torch", "torchvision", "ray.data", "ray.tune", "ray.train", "mlflow", "optuna", "pandas")
COUNTER = """
import builtins, os, sys, threading, time
_import, _local, _took = builtins.__import__, threading.local(), [0.0]
_file = os.open(os.path.join(os.environ["STARTUP_COUNTS"], str(os.getpid())), os.O_CREAT | os.O_WRONLY)
_watched = os.environ["STARTUP_WATCHED"].split()

def _counted(*args, **more):
    if getattr(_local, "within", False):
        return _import(*args, **more)
    _local.within, before, begun = True, len(sys.modules), time.thread_time()
    try:
        return _import(*args, **more)
    finally:
        _local.within = False
        if len(sys.modules) != before:
            _took[0] += time.thread_time() - begun
            there = [name for name in _watched if name in sys.modules]
            os.pwrite(_file, " ".join([f"{len(sys.modules):6d} {_took[0]:9.3f}", *there]).ljust(200).encode(), 0)

builtins.__import__ = _counted
"""


def watch(words: list[str], counts: Path) -> tuple[float, dict[int, dict[str, Any]]]:
    """Run a sweep; its seconds, and what was seen of each of its processes."""
    (counts / "sitecustomize.py").write_text(COUNTER)
    path = f"{counts}:{ROOT}"
    environment = os.environ | {
        "PYTHONPATH": path,
        "STARTUP_COUNTS": str(counts),
        "STARTUP_WATCHED": " ".join(WATCHED),
    }
    seen: dict[int, dict[str, Any]] = {}
    begun = time.time()
    process = subprocess.Popen([sys.executable, str(ROOT / "tuning" / "sweep.py"), *words], env=environment)
    family = psutil.Process(process.pid)
    while process.poll() is None:
        with suppress(psutil.Error):
            for one in [family, *family.children(recursive=True)]:
                with suppress(psutil.Error):
                    times, its = (
                        one.cpu_times(),
                        seen.setdefault(one.pid, {"begun": one.create_time() - begun, "cpu": 0.0, "memory": 0.0}),
                    )
                    if name := what(one.cmdline()):
                        its["name"] = name if name != "ray::IDLE" else its.get("name", name)
                    its |= {"cpu": times.user + times.system, "memory": one.memory_info().rss / 2**20}
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.time() - begun, seen


def what(words: list[str]) -> str:
    """A process in a word or two."""
    if not words:
        return ""
    if words[0].startswith(("ray::", "ray-")):
        return words[0].split(".")[0]
    scripts = [Path(word).name for word in words if word.endswith(".py")]
    return scripts[-1] if scripts else Path(words[0]).name


def imported(counts: Path, pid: int) -> tuple[int, float, str]:
    """Modules, seconds to import them, and which of the large packages are among them."""
    try:
        number, seconds, *there = (counts / str(pid)).read_text().split()
    except (OSError, ValueError):
        return 0, 0.0, ""
    return int(number), float(seconds), " ".join(there)


def main(argv: list[str] | None = None) -> None:
    words = (sys.argv[1:] if argv is None else argv) or TINY
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        storage = [] if any(word.startswith("--storage") for word in words) else [f"--storage={folder}/runs"]
        counts = Path(folder, "counts")
        counts.mkdir()
        seconds, seen = watch([*words, *storage], counts)
        found = {pid: imported(counts, pid) for pid in seen}
    print(f"\n{'process':38}{'begun':>7}{'cpu s':>8}{'imports':>9}{'modules':>9}{'MiB':>6}  large packages")
    for pid, its in sorted(seen.items(), key=lambda item: item[1]["begun"]):
        number, took, there = found[pid]
        name = its.get("name", "?")
        print(f"{name:38}{its['begun']:7.1f}{its['cpu']:8.2f}{took:9.2f}{number:9}{its['memory']:6.0f}  {there}")
    python = [one for one in found.values() if one[0]]
    modules, importing = sum(one[0] for one in python), sum(one[1] for one in python)
    busy = sum(its["cpu"] for its in seen.values())
    print(
        f"{seconds:.1f} s; {len(seen)} processes, {len(python)} of Python with {modules} modules; "
        f"{busy:.1f} s of processor time, {importing:.1f} of it for imports"
    )
    for name, number in sorted(Counter(its.get("name", "?") for its in seen.values()).items()):
        print(f"  {number} x {name}")


if __name__ == "__main__":
    main()
