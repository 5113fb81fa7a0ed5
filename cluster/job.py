"""One search on many workers: `launch` is the only TorchTrainer, `connected` the only ray.init."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    "GLOO_SOCKET_IFNAME": "lo",
}


@dataclass(frozen=True)
class Workers:
    """What one search asks of the cluster."""

    number: int = 1
    gpus: float = 0.0
    """Of each worker."""
    cpus: float = 1.0

    def slots(self, cpus: float, gpus: float) -> int:
        """How many such searches run at once on these resources."""
        by_cpu = int(cpus // (self.number * self.cpus)) if self.cpus else 10**6
        by_gpu = int(gpus // (self.number * self.gpus)) if self.gpus else 10**6
        return min(by_cpu, by_gpu)

    def __str__(self) -> str:
        gpus = f" and {self.number * self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.number} worker(s) with {self.number * self.cpus:g} CPUs{gpus} in all"


def workers_for(number: int, gpus_per_search: float | None) -> Workers:
    """Workers of a search: GPUs are used where there are some, unless a number is named.

    Raises:
        ValueError: fewer than one worker, or GPUs below zero.
    """
    if number < 1:
        raise ValueError(f"workers-per-trial {number}: expected at least 1")
    if gpus_per_search is not None and gpus_per_search < 0:
        raise ValueError(f"gpus-per-trial {gpus_per_search}: expected 0 or more")
    gpus = float(min(number, visible_gpus())) if gpus_per_search is None else gpus_per_search
    return Workers(number, gpus / number)


def visible_gpus() -> int:
    """GPUs of this machine, without starting CUDA."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextmanager
def connected(workers: Workers, wait: float = 600.0, say: Callable[[str], None] = print) -> Iterator[int]:
    """Ray: the cluster at $RAY_ADDRESS, else a private one on this machine that ends with the block.

    Yields how many searches of `workers` can run at once (at least 1).

    Raises:
        ValueError: a private Ray cannot hold one, or a joined cluster cannot within `wait` seconds.
    """
    os.environ.update({k: v for k, v in QUIET.items() if k not in os.environ})
    joined = bool(os.environ.get("RAY_ADDRESS"))
    temporary: Path | None = None
    if not joined:
        os.environ.update(PRIVATE | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)})
        if visible_gpus() < workers.number * workers.gpus or (os.cpu_count() or 1) < workers.number * workers.cpus:
            raise ValueError(
                f"a search asks for {workers}; this machine has {os.cpu_count()} CPUs and {visible_gpus()} GPUs: "
                "ask for fewer (--workers-per-trial, --gpus-per-trial), or join a cluster with RAY_ADDRESS"
            )
    import logging

    import ray

    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if joined:
            ray.init(
                address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR, runtime_env=_env()
            )
            slots = _wait_for_room(workers, wait, say)
        else:
            slots = workers.slots(os.cpu_count() or 1, visible_gpus())
            temporary = Path(tempfile.mkdtemp(prefix="dasgm-ray-"))
            port = _free_port()
            ray.init(
                address="local",
                num_cpus=os.cpu_count(),
                resources={"slot": slots},
                include_dashboard=True,  # frees what a stopped trial held; so does Sweep's janitor
                dashboard_host="127.0.0.1",
                dashboard_port=port,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(temporary),
                runtime_env=_env({"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}),
            )
        yield slots
    finally:
        ray.shutdown()
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _env(more: dict[str, str] | None = None) -> dict[str, Any]:
    kept = {k: os.environ[k] for k in (*QUIET, "GLOO_SOCKET_IFNAME") if k in os.environ}
    return {"env_vars": kept | (more or {})}


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait_for_room(workers: Workers, wait: float, say: Callable[[str], None]) -> int:
    import ray

    end, told = time.monotonic() + wait, False
    while True:
        there = ray.cluster_resources()
        slots = workers.slots(there.get("CPU", 0), there.get("GPU", 0))
        if slots:
            return slots
        have = f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs"
        if time.monotonic() > end:
            raise ValueError(f"a search asks for {workers}; after {wait:g} s the cluster has {have} (see --wait)")
        if not told:
            say(f"waiting up to {wait:g} s for room on the cluster: a search asks for {workers}, it has {have}")
            told = True
        time.sleep(2)


def launch(
    work: Callable[[dict[str, Any]], None],
    payload: dict[str, Any],
    workers: Workers,
    callbacks: list[Any] | None = None,
    retries: int = 2,
) -> None:
    """Run `work(payload)` on every worker, as one Ray Train run; a worker that dies is started again.

    Raises:
        RuntimeError: one line, the cause, once the retries are used up.
    """
    import ray.train
    import ray.train.torch

    limits: dict[str, Any] = {"max_failures": retries, "controller_failure_limit": 5}  # by default it waits for ever
    quiet: Any = ray.train.LoggingConfig(log_level="ERROR")
    storage = tempfile.mkdtemp(prefix="dasgm-train-")  # Ray's own notes; the run folder is the truth
    trainer = ray.train.torch.TorchTrainer(
        work,
        train_loop_config=payload,
        torch_config=_torch_config(workers),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.number,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=uuid.uuid4().hex[:12],
            storage_path=storage,
            callbacks=callbacks or [],
            failure_config=ray.train.FailureConfig(**limits),
            logging_config=quiet,
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's own classes, which differ by what failed
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(cause[-1]) from None
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def _torch_config(workers: Workers) -> Any:
    """On one machine the process group meets through a file: torch's TCP store listens on every interface."""
    import ray.train.torch

    if os.environ.get("RAY_ADDRESS"):
        return ray.train.torch.TorchConfig()
    return _file_config()


def _file_config() -> Any:
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

    class FileBackend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            n = len(worker_group)
            worker_group.execute(_set_torch_distributed_env_vars)
            if n > 1:
                meeting = os.path.join(tempfile.gettempdir(), f"dasgm-meet-{uuid.uuid4().hex}")
                ray.get([worker_group.execute_single_async(i, meet, meeting, i, n) for i in range(n)])

    class FileConfig(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return FileBackend

    return FileConfig()


def meet(path: str, rank: int, size: int) -> None:
    """Join the process group of `size` workers that meet at `path`."""
    import torch
    import torch.distributed as dist

    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=f"file://{path}", rank=rank, world_size=size)


def search(payload: dict[str, Any]) -> None:
    """A worker's whole work: the search of `payload`, reporting every epoch to Ray Train. A search that
    failed is not tried again: its folder says why."""
    import ray
    import ray.train

    from dasgm.config import from_json
    from dasgm.loop import Seams, main
    from dasgm.search import SearchFailed

    group = ray.util.get_current_placement_group()
    mark = {"placement_group": group.id.hex()} if group else {}

    def report(row: dict[str, Any]) -> None:
        ray.train.report({"epoch": row["epoch"], "val/accuracy": row["val/accuracy"]} | mark)

    folder = Path(payload["folder"])
    config = from_json(json.loads(payload["config"]))
    ray.train.report({"epoch": 0} | mark)  # from now on the driver knows what to free

    def say(line: str) -> None:
        with open(folder / "log.txt", "a") as log:
            print(line, file=log)

    with suppress(SearchFailed):  # run.json says what and where
        main(config, folder, Seams(report=report, say=say, about=payload["about"], cache=Path(payload["cache"])))
