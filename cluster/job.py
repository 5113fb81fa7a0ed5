"""One run on many workers: `launch` is the only TorchTrainer, `connected` the only ray.init."""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.room import Workers, wait_for_room, waiter
from dasgm.files import first_line
from dasgm.mirror import age, discard, for_ray, of
from dasgm.storage import local

# Ray reads these when it is imported, so they are set before. Each can be overridden in the environment.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.3",  # reports are passed on once a poll: 2 s would slow short epochs
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the first report, before any epoch, has no accuracy
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be switched off
    "PYTHONWARNINGS": "ignore",
}
PRIVATE = {
    "RAY_worker_maximum_startup_concurrency": "16",  # else a warning: drivers and controllers hold no CPU
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes every socket of Ray's loopback only
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process a search that watches for other machines to go
    "RAY_AUTH_MODE": "token",
    "GLOO_SOCKET_IFNAME": "lo",
}
LONGEST_TMPDIR = 20  # characters: Ray adds 80 or more to the path of a socket, of which systems take 103
NEEDED = 64 * 2**20  # bytes: its logs, of which some are mapped as they begin
ASKED_ANEW = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # seconds after which Ray Train asks anew for room


class Failed(RuntimeError):
    """What Ray did not do, in one line; the same command tries again."""


class ControllerLost(Failed):
    """Ray Train's controller, the process that watches a run's workers, is gone, and they with it."""


def workers_for(
    number: int, gpus_per_search: float | None, cpus_each: float = 1.0, wait: float = Workers.wait
) -> Workers:
    """Workers of a search: GPUs are used where there are some, unless a number is named.

    Of a cluster that is told by $DASGM_GPUS: GPUs of a worker where none are asked for.

    Raises:
        ValueError: fewer than one worker, GPUs or seconds below zero, no CPUs, or more than a private Ray has.
    """
    if not wait >= 0:
        raise ValueError(f"wait {wait}: expected 0 or more seconds")
    if not 0 < cpus_each < math.inf:
        raise ValueError(f"{cpus_each} CPUs of each worker: expected more than 0")
    if number < 1:
        raise ValueError(f"{number} workers: expected at least 1")
    if gpus_per_search is not None and gpus_per_search < 0:
        raise ValueError(f"{gpus_per_search} GPUs: expected 0 or more")
    each = float(os.environ.get("DASGM_GPUS", 0)) if joined() else float(visible_gpus() >= number)
    gpus = number * each if gpus_per_search is None else gpus_per_search  # NCCL takes no two workers on one GPU
    workers = Workers(number, gpus / number, cpus_each, not joined(), wait)
    if workers.private and not workers.slots(cpus(), visible_gpus()):
        raise ValueError(
            f"a search asks for {workers}; this machine has {cpus()} CPUs and {visible_gpus()} GPUs: "
            "ask for fewer, or join a cluster with RAY_ADDRESS"
        )
    return workers


def leave_for_data(workers: Workers, cpus: float) -> None:
    """Ray Data decodes pictures in tasks of one CPU; where the workers hold every CPU it would wait for ever.

    Raises:
        ValueError: the workers leave it none of the cluster's `cpus`.
    """
    left = cpus - workers.number * workers.cpus
    if left < 1 - 1e-6:
        raise ValueError(
            f"{workers} leave Ray Data {max(0.0, left):g} of {cpus:g} CPUs, and it needs 1 to decode pictures: "
            "ask for fewer workers or for fewer CPUs of each, or take --loader torch"
        )


def joined() -> bool:
    """Whether there is a cluster to join: $RAY_ADDRESS is set."""
    return bool(os.environ.get("RAY_ADDRESS"))


def cpus() -> int:
    """CPUs that this process may use: fewer than the machine's under taskset, or in a container with a quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, int(quota) // int(period))  # "max" is no number: no quota
    return max(1, allowed)


def visible_gpus() -> int:
    """GPUs of this machine, without starting CUDA."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def prepare() -> None:
    """Set what Ray reads from the environment when it is imported: to be called before that."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not joined():
        os.environ.update(PRIVATE)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))


@contextmanager
def connected(workers: Workers, say: Callable[[str], None] = print) -> Iterator[int]:
    """Ray: the cluster at $RAY_ADDRESS, else a private one on this machine that ends with the block.

    Yields how many searches of `workers` can run at once (at least 1).

    Raises:
        ValueError: a joined cluster has no room for one within their `wait`, or does not answer.
        Failed: Ray did not start.
    """
    prepare()
    with ExitStack() as stack:
        folder = None if joined() else stack.enter_context(_scratch())
        stack.callback(_disconnect)
        if folder is None:
            _init(address=os.environ["RAY_ADDRESS"], runtime_env=_env())
            _lasting_actors_here()
            yield wait_for_room(workers, say)
        else:
            port = _free_port()
            _init(
                address="local",
                num_cpus=cpus(),
                num_gpus=visible_gpus(),
                include_dashboard=True,  # frees what a stopped trial held; so does the sweep's janitor
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                _temp_dir=str(folder),
                runtime_env=_env({"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}),
            )
            yield workers.slots(cpus(), visible_gpus())


def _init(**options: Any) -> None:
    """Start Ray, or join it.

    ValueError, Failed: see `connected`.
    """
    import ray

    for name in ("ray", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told in one line, from the folders
    try:
        with _signals_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # bare ones too, of whatever its processes did not do in time
        if joined():
            raise ValueError(f"RAY_ADDRESS {os.environ['RAY_ADDRESS']}: {_last_line(error)}") from None
        raise Failed(f"Ray did not start: {first_line(error)}; the same command tries again") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """What SIGTERM and SIGINT do is afterwards as it was: Ray takes the one as it starts, the other for a run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _disconnect() -> None:
    """Leave Ray; of a private one no process may be left."""
    import ray

    import psutil  # isort: skip  (Ray brings its own)

    ours = [] if joined() else psutil.Process().children(recursive=True)
    ray.shutdown()
    for process in psutil.wait_procs(ours, timeout=2)[1]:  # its agents look only now and then whether it is gone
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A private Ray's folder, $TMPDIR of all its processes, gone at the end; those of killed ones go now, and those
    that a dying agent made again, which have no lock."""
    root = tempfile.gettempdir()
    root = root if len(root) <= LONGEST_TMPDIR else "/tmp"
    for old in Path(root).glob("dasgm-ray-*"):
        with suppress(OSError):
            if old.lstat().st_uid != os.getuid():
                continue
            with open(old / "lock", "a") as lock:  # it may be in use
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
    if (free := shutil.disk_usage(root).free) < NEEDED:  # Ray says something else each time
        raise Failed(
            f"Ray did not start: {root} has {free / 2**20:.0f} MiB free, and Ray writes there; make room, or name "
            "another folder in TMPDIR"
        )
    made = Path(tempfile.mkdtemp(prefix="dasgm-new-", dir=root))
    with open(made / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go when this process dies
        folder = made.rename(made.with_name(made.name.replace("new", "ray")))
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            os.environ.pop("TMPDIR")
            os.environ |= {"TMPDIR": before} if before else {}
            shutil.rmtree(folder, ignore_errors=True)


def _env(more: dict[str, str] | None = None) -> dict[str, Any]:
    kept = {k: os.environ[k] for k in (*QUIET, ASKED_ANEW, "GLOO_SOCKET_IFNAME") if k in os.environ}
    return {"env_vars": kept | (more or {})}


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _lasting_actors_here() -> None:
    """Where machines come and go, the actors that Ray Train and Ray Data leave behind have to live on the head, as this
    process does.

    Each is made once for a cluster, by who first needs it, where he runs: a machine that has one never goes
    (ray-project/ray#58481).
    """
    if "DASGM_SLOTS" in os.environ:
        from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
        from ray.data._internal.stats import get_or_create_stats_actor

        get_or_create_autoscaling_coordinator()
        get_or_create_stats_actor()


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def notes_in(scratch: Path, workers: Workers) -> dict[str, Any]:
    """Where Ray keeps its own notes of a run, as RunConfig wants it."""
    place, system = (str(scratch), None) if workers.private else for_ray(scratch)
    return {"storage_path": place, "storage_filesystem": system}


def launch(
    work: Callable[[dict[str, Any]], Any],
    payload: dict[str, Any],
    workers: Workers,
    scratch: Path,
    callbacks: list[Any] | None = None,
    retries: int = 2,
) -> None:
    """Run `work(payload)` on every worker, as one Ray Train run; a worker that dies is started again.

    Ray's own notes go below `scratch` for that time; several machines share it, so there it may be object storage.
    Room for workers that lost their machine is waited for as at the beginning.

    Raises:
        ValueError: what `work` returned: a user's mistake, which no retry mends.
        Failed: one line, the cause, once the retries are used up or there is no room within the workers' `wait`.
        KeyboardInterrupt: stopped by Ctrl-C.
    """
    import ray.train
    import ray.train.torch

    os.environ.setdefault(ASKED_ANEW, f"{max(1.0, min(10.0, workers.wait)):g}")  # `fit` reads it; see `room.waiter`
    quiet: Any = ray.train.LoggingConfig(log_level="ERROR")
    name, folder = uuid.uuid4().hex[:12], local(payload["folder"])
    payload = payload | {"shared": not workers.private}
    trainer = ray.train.torch.TorchTrainer(
        work,
        train_loop_config=payload,
        torch_config=_torch_config(workers),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.bundle,
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=name,
            **notes_in(scratch, workers),
            callbacks=[*(callbacks or []), _teller(folder), waiter(folder, workers)],
            failure_config=ray.train.FailureConfig(max_failures=retries),
            logging_config=quiet,
        ),
    )
    try:
        with _signals_kept():
            result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise Failed(_last_line(error)) from None
    except ray.exceptions.RayActorError:
        raise ControllerLost("Ray Train's controller, a process, is gone") from None
    except SystemExit:  # Ray's own way to end on Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        discard(scratch / name)
    if result.return_value:
        raise ValueError(result.return_value)


def _teller(folder: Path) -> Any:
    """Writes into a run's log why its workers had to be started again."""
    import ray.train

    from dasgm.runs import Run

    class Teller(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            rank, error = min(worker_exceptions.items(), key=lambda item: item[0])
            with suppress(OSError, ValueError):  # where that cannot be written, neither can this
                Run(folder).befell(f"worker {rank} failed: {_last_line(error)}")

    return Teller()


def _torch_config(workers: Workers) -> Any:
    """On one machine the process group meets through a file: torch's TCP store listens on every interface.

    One worker has nobody to meet, on a cluster neither.
    """
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

    class FileBackend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            n = len(worker_group)
            worker_group.execute(_set_torch_distributed_env_vars)
            if n > 1:
                meeting = os.path.join(tempfile.gettempdir(), f"dasgm-meet-{uuid.uuid4().hex}")
                backend = "cpu:gloo,cuda:nccl" if workers.gpus else "gloo"
                ray.get([worker_group.execute_single_async(i, meet, meeting, i, n, backend) for i in range(n)])

    class FileConfig(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return FileBackend

    # both: metrics are averaged on the CPU
    alone = workers.private or workers.number == 1
    return FileConfig() if alone else TorchConfig("cpu:gloo,cuda:nccl" if workers.gpus else "gloo")


def meet(path: str, rank: int, size: int, backend: str) -> None:
    """Join the process group of `size` workers that meet at `path`."""
    import torch.distributed as dist

    dist.init_process_group(backend, init_method=f"file://{path}", rank=rank, world_size=size)


def search(payload: dict[str, Any]) -> str | None:
    """A worker's whole work: the search of `payload`, reporting every epoch to Ray Train.

    Returns what is wrong with what the user asked, in one line. A search that failed is not tried again: its folder
    says why.
    """
    from dasgm.config import SearchConfig
    from dasgm.loop import main

    return _work(payload, SearchConfig, main)


def pretrain(payload: dict[str, Any]) -> str | None:
    """The same for a pre-training."""
    from dasgm.config import PretrainConfig
    from dasgm.pretrain import main

    return _work(payload, PretrainConfig, main)


def evaluate(payload: dict[str, Any]) -> str | None:
    """The same for an evaluation, whose photographs, if it has any, Ray Data or torch's DataLoader loads."""
    from dasgm.evaluate import local, main
    from dasgm.genotype import Genotype
    from dasgm.recipes import EvaluateConfig
    from dasgm.runs import Run

    if fatal := Run(payload["folder"]).about.get("fatal"):  # to the workers before these, and it would be again
        return str(fatal)
    genotype = Genotype.from_json(payload["genotype"])
    batches: Callable[[Any, EvaluateConfig], Any] = local
    if payload["prefetch"]:
        from cluster.stream import streamed

        batches = streamed(payload["prefetch"])
    return _work(payload, EvaluateConfig, lambda config, folder, seams: main(genotype, config, folder, seams, batches))


def _work(payload: dict[str, Any], kind: type, main: Callable[..., Any]) -> str | None:
    import ray
    import ray.train

    from dasgm.config import from_json
    from dasgm.runs import Locked, Run, Unwritable
    from dasgm.search import SearchFailed
    from dasgm.session import Seams

    group = ray.util.get_current_placement_group()
    mark = {"placement_group": group.id.hex()} if group else {}

    def report(row: dict[str, Any]) -> None:
        ray.train.report({key: row[key] for key in ("epoch", "val/accuracy") if key in row} | mark)

    folder, cache = local(payload["folder"]), local(payload["cache"])
    run = Run(folder)
    config = from_json(json.loads(payload["config"]), kind)
    ray.train.report({"epoch": 0} | mark)  # from now on the driver knows what to free
    # of a machine that is gone the last sign of life, or a file server's lease, counts for more: no failure of this try
    patience = 2 * age() if of(folder) or payload.get("shared") else 0.0
    seams = Seams(report=report, say=run.say, about=payload["about"], cache=cache, patience=patience)
    try:
        main(config, folder, seams)
    except SearchFailed:
        pass  # run.json says what and where
    except Locked:  # by a worker that is just being killed: the next try comes later
        raise
    except Unwritable:  # a full disk, a mount that is gone: it may be mended before the next try
        raise
    except ValueError as error:
        return str(error)
    return None
