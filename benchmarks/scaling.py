"""One search over more and more workers.

    python -m benchmarks.scaling [PRESET ...] [--rounds N] [--workers 1 2]

Runs `cluster/search.py PRESET ... --workers N` for each N, one after the other, each with one thread a worker and the
same batch a worker, and prints the images a second of an epoch (median over the epochs but the first, of all rounds)
and the efficiency: that speed by N times the speed of the first N. Words that are not ours go to cluster/search.py.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from dasgm.device import device_of, hardware
from dasgm.pages.view import read_run


def speeds(workers: int, words: list[str], storage: Path, name: str) -> list[float]:
    """Images a second of all workers together, epoch by epoch without the first."""
    command = [sys.executable, "-m", "cluster.search", *words, "--workers", str(workers), "--threads", "1"]
    subprocess.run([*command, "--storage", str(storage), "--name", name], check=True, stdout=subprocess.DEVNULL)
    return [value for _, value in read_run(storage / name).curve("speed/images_per_s")[1:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="all of them, that many times in turn")
    asked, words = parser.parse_known_args()
    words = words or ["quickstart"]
    found: dict[int, list[float]] = {number: [] for number in asked.workers}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(asked.rounds):
            for number in asked.workers:
                found[number] += speeds(number, words, Path(folder), f"{number}-{turn}")
    print(f"{' '.join(words)}; {hardware(device_of('auto'))}, one thread a worker")
    first = asked.workers[0]
    alone = statistics.median(found[first]) / first
    for number, values in found.items():
        speed = statistics.median(values)
        spread = f"{min(values):.1f} to {max(values):.1f}, {len(values)} epochs"
        print(f"{number:3} worker(s) {speed:8.1f} images/s ({spread})  efficiency {speed / (number * alone):6.1%}")


if __name__ == "__main__":
    main()
