"""Commands of ours run for real by tests: with one thread a process, on two CPUs, in their own process group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from patience import now

TOOLS = Path(__file__).parent
ROOT = TOOLS.parents[1]
TINY = [
    "--method.epochs=4",
    "--method.arch-start-epoch=3",
    "--method.channels=2",
    "--batch-size=8",
    "--proxy.epochs=1",
    "--proxy.channels=4",
    "--data.limit=400",
    "--data.holdout=0.4",
    "--pictures-every=9",
]
TINY_GAN = ["--gan.warmup=3", "--gan.channels=4", "--gan.shared-dim=8", "--gan.z-dim=24"]


def two_cpus() -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def environment_with(**more: str) -> dict[str, str]:
    """That of a command: this process's without what is Ray's and MLflow's, on one thread, without a GPU."""
    ours = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}:{TOOLS}"}
    return {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))} | ours | more


def start(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """`python WORDS`; a process that begins at once is warm.py's."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=environment_with(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=two_cpus,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors. What it said is in the report of a test whose limit ends it here."""
    said = None
    try:
        while True:
            try:
                out, err = process.communicate(timeout=5)
                return process.returncode, out, err
            except subprocess.TimeoutExpired as waiting:
                said = waiting
    except BaseException:
        for stream in (said.output, said.stderr) if said else ():
            print((stream or b"")[-4000:].decode(errors="replace"))
        raise


def wait_for(process: subprocess.Popen[str], condition: Callable[[], Any]) -> None:
    """Until the condition holds, while the process runs."""
    while not condition():
        assert process.poll() is None, finish(process)
        time.sleep(0.05)


@contextmanager
def busy() -> Iterator[None]:
    """A loop that never rests on each CPU that the tests' commands may use."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=two_cpus) for _ in range(2)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def family(process: subprocess.Popen[str]) -> list[list[float]]:
    """The process and all below it: [number, time of birth]."""
    me = psutil.Process(process.pid)
    return [[p.pid, p.create_time()] for p in [me, *me.children(recursive=True)]]


def title(pid: int) -> str:
    """What a process is called, as Ray names its own; '' where it is gone."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


def left_over(processes: Iterable[list[float]], seconds: float = 10) -> list[str]:
    """Those that are still there after `seconds` of this machine."""
    there = {(int(pid), born) for pid, born in processes}
    end = now() + seconds
    while there and now() < end:
        there = {(pid, born) for pid, born in there if _lives(pid, born)}
        time.sleep(0.1)
    return [" ".join(psutil.Process(pid).cmdline()) for pid, _ in there]


def _lives(pid: int, born: float) -> bool:
    try:
        process = psutil.Process(pid)
        return process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def probes(path: Path) -> list[dict[str, Any]]:
    """What probed.py wrote."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


OTHER_RAY = """
import os, ray, sys
dashboard = dict(include_dashboard=True, dashboard_port=0) if "dashboard" in sys.argv else dict(include_dashboard=False)
ray.init(address="local", num_cpus=1, _temp_dir=sys.argv[1], **dashboard)
print("up", flush=True)
sys.stdin.read()
"""


def another_ray(folder: Path, *more: str) -> subprocess.Popen[str]:
    """An unrelated Ray on this machine, with ten more processes if `more` is "dashboard". It ends with its input."""
    environment = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_RAY, str(folder), *more],
        env=os.environ | environment | {"RAY_AUTH_MODE": "disabled"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout and process.stdout.readline().strip() == "up"
    return process


RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 32, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
RAY |= {"RAY_USAGE_STATS_ENABLED": "0"}


class Simulated:
    """tests/tools/simulated.py, running."""

    def __init__(self, nodes: int, **more: str):
        self.folder = tempfile.TemporaryDirectory(prefix="r-", ignore_cleanup_errors=True)
        words = [sys.executable, str(TOOLS / "simulated.py"), self.folder.name, str(nodes)]
        environment = os.environ | RAY | {"PYTHONPATH": f"{ROOT}:{TOOLS}", "OMP_NUM_THREADS": "1"} | more
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self._line()

    def _line(self) -> str:
        """An address, or JSON: a list, a string or null."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line[0] in '["n0123456789':  # Ray says something now and then
                return line.strip()
        raise AssertionError("the simulated cluster did not come up")

    def ask(self, *words: str) -> Any:
        assert self.process.stdin
        print(*words, file=self.process.stdin, flush=True)
        return json.loads(self._line())

    def run(self, *words: str, cwd: Path | None = None, **more: str) -> subprocess.Popen[str]:
        return start(*words, cwd=cwd, RAY_ADDRESS=self.address, **RAY, **more)

    def stop(self) -> None:
        self.process.communicate("")
        self.folder.cleanup()
