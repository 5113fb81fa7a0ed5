"""One run on several workers. `launch` makes the only trainer; the rest is what a worker does."""

from __future__ import annotations

import json
import math
import os
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cluster import connection
from cluster.connection import ASKED_ANEW, Failed, joined, last_line, signals_kept
from cluster.room import Workers, waiter
from dasgm.cpus import cpus
from dasgm.store.bucket import local
from dasgm.store.replica import age, discard, for_ray, of

RETRIES = 2  # of a run whose workers died


def workers_for(
    number: int, gpus_per_search: float | None, cpus_each: float = 1.0, wait: float = Workers.wait
) -> Workers:
    """The workers of a run.

    Args:
        number: of workers.
        gpus_per_search: GPUs of all workers together. None: one GPU per worker if this machine has as many, else 0;
            on a cluster $DASGM_GPUS per worker, else 0.
        cpus_each: CPUs of each worker.
        wait: seconds to wait for room on a cluster.

    Raises:
        ValueError: a number is out of range, there are fewer GPUs than workers, or more is asked for than this machine
            has.
    """
    if not wait >= 0:
        raise ValueError(f"wait {wait}: expected 0 or more seconds")
    if not 0 < cpus_each < math.inf:
        raise ValueError(f"{cpus_each} CPUs of each worker: expected more than 0")
    if number < 1:
        raise ValueError(f"{number} workers: expected at least 1")
    if gpus_per_search is not None and gpus_per_search < 0:
        raise ValueError(f"{gpus_per_search} GPUs: expected 0 or more")
    each = float(os.environ.get("DASGM_GPUS", 0)) if joined() else float(connection.visible_gpus() >= number)
    gpus = number * each if gpus_per_search is None else gpus_per_search
    if number > 1 and 0 < gpus < number:
        raise ValueError(
            f"{number} workers on {gpus:g} GPUs: NCCL cannot put two workers on one GPU; ask for fewer workers, for "
            f"{number} GPUs, or for 0 to compute on CPUs"
        )
    if gpus / number > 1 and gpus % number:
        raise ValueError(
            f"{gpus:g} GPUs for {number} worker(s): Ray gives each a share of one GPU, or whole GPUs; ask for a "
            f"multiple of {number}"
        )
    workers = Workers(number, gpus / number, cpus_each, not joined(), wait)
    if workers.private and not connection.slots_here(workers):
        raise ValueError(
            f"a search asks for {workers}; this machine has {cpus()} CPUs and "
            f"{connection.visible_gpus()} GPUs: ask for fewer, or join a cluster with RAY_ADDRESS"
        )
    return workers


def ensure_device(config: Any, workers: Workers) -> None:
    """ValueError if these workers cannot use `config.device`; Ray chooses the GPU of each worker."""
    kind, _, index = config.device.partition(":")
    if kind == "cuda" and not workers.gpus:
        raise ValueError(
            f"device {config.device!r}: the workers have no GPU; give them some (--gpus, or for a sweep "
            "--gpus-per-trial), or leave --device out"
        )
    if index:
        raise ValueError(f"device {config.device!r}: Ray chooses each worker's GPU; leave --device out")
    if kind == "mps" and workers.number > 1:
        raise ValueError("device 'mps': only one worker can use it; ask for one, or leave --device out")


def leave_for_data(workers: Workers, cpus: float) -> None:
    """Check that the workers leave Ray Data a CPU: it decodes pictures in tasks of one, and would wait for ever.

    Args:
        cpus: of the cluster.

    Raises:
        ValueError: they leave none.
    """
    left = cpus - workers.number * workers.cpus
    if left < 1 - 1e-6:
        raise ValueError(
            f"{workers} leave Ray Data {max(0.0, left):g} of {cpus:g} CPUs, and it needs 1 to decode pictures: "
            "ask for fewer workers or for fewer CPUs of each, or take --loader torch"
        )


def notes_in(scratch: Path, workers: Workers) -> dict[str, Any]:
    """Arguments of RunConfig that say where Ray keeps its own notes of a run."""
    place, system = (str(scratch), None) if workers.private else for_ray(scratch)
    return {"storage_path": place, "storage_filesystem": system}


def launch(
    work: Callable[[dict[str, Any]], Any],
    payload: dict[str, Any],
    workers: Workers,
    scratch: Path,
    callbacks: list[Any] | None = None,
    here: bool = False,
) -> None:
    """Run `work(payload)` on every worker, as one Ray Train run. If a worker dies, all are started again.

    That is done RETRIES times at most. If a machine is lost, its workers wait for room as at the start.

    Args:
        scratch: folder for Ray's own notes during the run. Several machines share it, so it may be object storage.
        callbacks: Ray Train's callbacks.
        here: see `Trainer`.

    Raises:
        ValueError: what `work` returned, a user's mistake: trying again would not help.
        Failed: the cause in one line, once the retries are used up or the workers' `wait` is over.
        KeyboardInterrupt: stopped by Ctrl-C.
    """
    import ray.train

    from cluster.trainer import Trainer

    os.environ.setdefault(ASKED_ANEW, f"{max(1.0, min(10.0, workers.wait)):g}")  # `fit` reads it; see `room.waiter`
    name, folder = uuid.uuid4().hex[:12], local(payload["folder"])
    trainer = Trainer(
        work,
        train_loop_config=payload | {"shared": not workers.private, "gpus": workers.gpus},
        backend_config=_backend(workers),
        here=here,
        private=workers.private,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.number, use_gpu=workers.gpus > 0, resources_per_worker=workers.bundle
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]
            name=name,
            **notes_in(scratch, workers),
            callbacks=[*(callbacks or []), _teller(folder), waiter(folder, workers)],
            failure_config=ray.train.FailureConfig(max_failures=RETRIES),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        with signals_kept():
            result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise Failed(last_line(error)) from None
    except ray.exceptions.RayActorError:
        raise Failed("Ray Train's controller, a process, is gone") from None
    except SystemExit:  # Ray's own way to end on Ctrl-C, and Tune's to stop a trial
        if here:
            raise
        raise KeyboardInterrupt from None
    finally:
        discard(scratch / name)
    if result.return_value:
        raise ValueError(result.return_value)


def _teller(folder: Path) -> Any:
    """A callback that writes into a run's log why its workers had to be started again."""
    import ray.train

    from dasgm.store.run import Run

    class Teller(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            rank, error = min(worker_exceptions.items(), key=lambda item: item[0])
            with suppress(OSError, ValueError):  # if the error is that the folder cannot be written, neither can this
                Run(folder).note_incident(f"worker {rank} failed: {last_line(error)}")

    return Teller()


def _backend(workers: Workers) -> Any:
    """Ray Train's configuration of torch. A single worker needs none, nor has the driver to import torch for it.

    On one machine the workers find each other through a file, since torch's TCP store listens on every interface. On a
    cluster several workers use the TCP store.
    """
    import ray
    from ray.train.backend import BackendConfig

    if workers.number == 1:
        return BackendConfig()
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

    backend = "cpu:gloo,cuda:nccl" if workers.gpus else "gloo"  # both: metrics are averaged on the CPU

    class FileBackend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            n = len(worker_group)
            worker_group.execute(_set_torch_distributed_env_vars)
            meeting = os.path.join(tempfile.gettempdir(), f"dasgm-meet-{uuid.uuid4().hex}")
            ray.get([worker_group.execute_single_async(i, meet, meeting, i, n, backend) for i in range(n)])

    class FileConfig(TorchConfig):
        @property
        def backend_cls(self) -> type:
            return FileBackend

    return FileConfig() if workers.private else TorchConfig(backend)


def meet(path: str, rank: int, size: int, backend: str) -> None:
    """Join the process group of `size` workers that find each other through the file at `path`."""
    import torch.distributed as dist

    dist.init_process_group(backend, f"file://{path}", timedelta(minutes=30), size, rank)  # as Ray Train's own


def search(payload: dict[str, Any]) -> str | None:
    """All that a worker does: the search of a payload. Every epoch is reported to Ray Train.

    Returns:
        What is wrong with what the user asked for, in one line, else None. A search that failed is not tried again; its
        folder says why.
    """
    from dasgm.config import SearchConfig
    from dasgm.jobs.search import main

    return _work(payload, SearchConfig, main)


def pretrain(payload: dict[str, Any]) -> str | None:
    """The same for a pre-training."""
    from dasgm.config import PretrainConfig
    from dasgm.jobs.pretrain import main

    return _work(payload, PretrainConfig, main)


def evaluate(payload: dict[str, Any]) -> str | None:
    """The same for an evaluation. Ray Data or torch's DataLoader loads photographs."""
    from dasgm.designs.design import read_design
    from dasgm.jobs.evaluate import main, torch_batches
    from dasgm.recipes import EvaluateConfig
    from dasgm.store.run import Run

    if fatal := Run(payload["folder"]).about.get("fatal"):  # earlier workers found it, and these would too
        return str(fatal)
    design = read_design(payload["design"])
    batches: Callable[[Any, EvaluateConfig], Any] = torch_batches
    if payload["prefetch"]:
        from cluster.stream import streamed

        batches = streamed(payload["prefetch"])
    return _work(payload, EvaluateConfig, lambda config, folder, hooks: main(design, config, folder, hooks, batches))


def _work(payload: dict[str, Any], kind: type, main: Callable[..., Any]) -> str | None:
    import ray.train

    from dasgm.config import from_json
    from dasgm.distributed import world_size
    from dasgm.jobs.session import Hooks, Refused
    from dasgm.search import SearchFailed
    from dasgm.store.run import Locked, Run, Unwritable

    def report(row: dict[str, Any]) -> None:
        ray.train.report({key: row[key] for key in ("epoch", "val/accuracy") if key in row})

    folder, cache = local(payload["folder"]), local(payload["cache"])
    run = Run(folder)
    config = from_json(json.loads(payload["config"]), kind)
    if config.device == "auto" and not payload.get("gpus"):  # Ray may have given the GPUs of this machine to others
        config = replace(config, device="cpu")
    # the sign of life of a lost machine, or the lease of a file server, outlives it: wait, rather than fail
    patience = 2 * age() if of(folder) or payload.get("shared") else 0.0
    about = json.loads(payload["about"]) | {"driver": payload["driver"]}
    hooks = Hooks(report=report, say=run.say, about=about, cache=cache, patience=patience)
    try:
        main(config, folder, hooks)
    except SearchFailed:
        pass  # run.json has the reason
    except Locked:  # a worker that is just being killed has it; the next try comes later
        raise
    except Unwritable:  # a full disk or a lost mount may be mended before the next try
        raise
    except ValueError as error:
        # only this worker has it, and the others wait until it dies
        if world_size() > 1 and not isinstance(error, Refused):
            raise
        return str(error)
    return None
