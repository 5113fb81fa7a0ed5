"""Ray: a cluster is joined if there is one, else a private Ray starts on this machine. Only `connected` starts it."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.patience import say_now, told
from cluster.room import Workers, wait_for_room
from dasgm.cpus import cpus
from dasgm.store.files import first_line

# Ray reads these when it is imported, so they are set before. The environment overrides them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # reports wait for a poll: 2 s would slow short epochs
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "300",  # a stopped search's driver frees its workers before the next search
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a search that fails reports no accuracy
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker that asks for no GPU sees none
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be switched off
    "PYTHONWARNINGS": "ignore",
}
PRIVATE = {
    "RAY_worker_maximum_startup_concurrency": "16",  # avoids a warning: drivers and controllers hold no CPU
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes every socket of Ray's loopback only
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves the process per search that watches for the loss of machines
    "RAY_AUTH_MODE": "token",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
LONGEST_TMPDIR = 20  # characters: Ray adds 80 or more to the path of a socket, of which systems take 103
NEEDED = 64 * 2**20  # bytes: its logs, of which some are mapped as they begin
ASKED_ANEW = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # seconds after which Ray Train asks anew for room


class Failed(RuntimeError):
    """What Ray failed to do, in one line. The same command tries again."""


def joined() -> bool:
    """Whether there is a cluster to join: $RAY_ADDRESS is set."""
    return bool(os.environ.get("RAY_ADDRESS"))


def visible_gpus() -> int:
    """Number of GPUs of this machine. CUDA is not started."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def slots_here(workers: Workers) -> int:
    """How many runs with such workers this machine has room for at once."""
    return workers.slots(cpus(), visible_gpus())


def machine() -> str:
    """This machine in words, for those who read a result."""
    return f"{cpus()} CPUs, {visible_gpus()} GPUs, {platform.machine()}"


def set_environment() -> None:
    """Set what Ray reads from the environment; to be called before Ray is imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not joined():
        os.environ.update(PRIVATE)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextmanager
def connected(workers: Workers, say: Callable[[str], None] = say_now) -> Iterator[int]:
    """Join the Ray cluster at $RAY_ADDRESS, or start a private Ray on this machine that ends with the block.

    Args:
        workers: of each run.
        say: gets a line every 5 seconds until Ray has started.

    Yields:
        How many such runs there is room for at once, at least 1.

    Raises:
        ValueError: the cluster does not answer, or has no room within the workers' `wait`.
        Failed: Ray did not start.
    """
    set_environment()
    with ExitStack() as stack:
        folder = None if joined() else stack.enter_context(_scratch())
        if folder is None:
            stack.callback(_disconnect)
            address = os.environ["RAY_ADDRESS"]
            with told("joining Ray", lambda: f"the cluster at RAY_ADDRESS {address} to answer", say):
                _init(address=address, runtime_env=_env())
                _lasting_actors_here()
            yield wait_for_room(workers, say)
        else:
            with told("starting Ray", _awaited, say):
                stack.callback(_disconnect, _children())
                _start(folder)
            yield slots_here(workers)


def _start(folder: Path) -> None:
    """A private Ray, whose processes write into `folder`. They have the environment of this process. There is no
    dashboard, which would be ten processes more."""
    where: dict[str, Any] = {"address": "local", "_temp_dir": str(folder), "include_dashboard": False}
    _init(num_cpus=cpus(), num_gpus=visible_gpus(), **where)


def _awaited() -> str:
    """Which part of a private Ray is to start next: its processes start one after another."""
    if not hasattr(sys.modules.get("ray"), "init"):
        return "Python to import it"
    import psutil

    with suppress(psutil.Error):
        there = {child.name() for child in psutil.Process().children(recursive=True)}
        if "gcs_server" not in there:
            return "its first process to start (gcs_server)"
    return "its scheduler to answer (raylet)"


def _init(**options: Any) -> None:
    """Start Ray, or join it.

    ValueError, Failed: see `connected`.
    """
    import ray

    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told in one line, from the folders
    try:
        with signals_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises bare ones too if its processes are too slow
        if joined():
            raise ValueError(f"RAY_ADDRESS {os.environ['RAY_ADDRESS']}: {last_line(error)}") from None
        raise Failed(f"Ray did not start: {first_line(error)}; the same command tries again") from None


@contextmanager
def signals_kept() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT afterwards: Ray replaces one as it starts, the other during a run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children() -> list[Any]:
    """Processes that this one has begun."""
    import ray  # noqa: F401

    import psutil  # isort: skip  (Ray brings its own)

    return psutil.Process().children()


def _disconnect(others: list[Any] | None = None) -> None:
    """Leave Ray. No process of a private Ray may be left: all that began since there were only `others`."""
    import ray

    import psutil  # isort: skip  (Ray brings its own)

    rays = []
    for child in [] if others is None else set(_children()) - set(others):
        with suppress(psutil.NoSuchProcess):
            rays += [child, *child.children(recursive=True)]
    ray.shutdown()
    for process in psutil.wait_procs(rays, timeout=2)[1]:  # its agents look only now and then whether it is gone
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def _scratch() -> Iterator[Path]:
    """The folder of a private Ray, which is $TMPDIR for its processes and is removed at the end.

    Folders that killed processes left are removed first.
    """
    root = tempfile.gettempdir()
    root = root if len(root) <= LONGEST_TMPDIR else "/tmp"
    for old in Path(root).glob("dasgm-ray-*"):
        with suppress(OSError):
            if old.lstat().st_uid != os.getuid():
                continue
            with open(old / "lock", "a") as lock:  # fails if it is in use
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
    if (free := shutil.disk_usage(root).free) < NEEDED:  # Ray itself reports this in ever different ways
        raise Failed(
            f"Ray did not start: {root} has {free / 2**20:.0f} MiB free, and Ray writes there; make room, or name "
            "another folder in TMPDIR"
        )
    made = Path(tempfile.mkdtemp(prefix="dasgm-new-", dir=root))
    with open(made / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when this process dies
        folder = made.rename(made.with_name(made.name.replace("new", "ray")))
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop("TMPDIR")
            os.environ |= {"TMPDIR": before} if before else {}
            shutil.rmtree(folder, ignore_errors=True)


def _env() -> dict[str, Any]:
    """What the processes of a cluster get of this one's environment."""
    names = (*QUIET, ASKED_ANEW, "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}


def _lasting_actors_here() -> None:
    """If machines come and go, make the lasting actors of Ray Train and Ray Data here, on the head.

    Ray makes each of them once per cluster, on the machine that needs it first, and never removes a machine that has
    one (ray-project/ray#58481).
    """
    if "DASGM_SLOTS" in os.environ:
        from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
        from ray.data._internal.stats import get_or_create_stats_actor

        get_or_create_autoscaling_coordinator()
        get_or_create_stats_actor()


def last_line(error: BaseException) -> str:
    """The last line of a long error of Ray, which is the cause, without the name of its class."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return re.sub(r"^([a-z_]\w*\.)*[A-Z]\w*: ", "", line)
