"""What a genotype is worth: its network trained from scratch. The proxy ranks briefly; `main` is the real thing."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dasgm import model
from dasgm.config import ProxyConfig
from dasgm.data._base import DataConfig
from dasgm.data._pictures import first_ten
from dasgm.device import device_of, ensure_room
from dasgm.distributed import average, barrier, broadcast, gather, rank, world_size
from dasgm.genotype import Genotype
from dasgm.jobs.memory import batch_advice
from dasgm.jobs.session import (
    Hooks,
    Interrupted,
    JobBody,
    Row,
    called_again,
    of_first,
    restoring,
    run_job,
    steady_threads,
    tell_of_workers,
)
from dasgm.jobs.training import TOP, Batches, InMemory, Training
from dasgm.measures.counts import measure_genotype
from dasgm.networks.network import check_image_size
from dasgm.pages.report import report as write_report
from dasgm.recipes import EvaluateConfig
from dasgm.search import SearchFailed
from dasgm.store.records import FORMAT, digest, is_row
from dasgm.store.run import Run

if TYPE_CHECKING:
    from dasgm.data._images import Data


def proxy(
    genotype: Genotype, data: Data, config: ProxyConfig, seed: int, give_way: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Accuracy of the discretised network after a brief training on J_1, and its standard error.

    Measured on J_val; on J_2 where no J_val is set aside. The recipe is DARTS's (SGD, cosine to 0, clip 5). The error
    is Agresti and Coull's, which is not 0 where every image is right. `give_way` is called between steps.
    """
    brief = EvaluateConfig(
        data=DataConfig(),
        cells=config.cells,
        channels=config.channels,
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr=config.lr,
        auxiliary=0.0,
        drop_path=0.0,
        precision="float32",
        channels_last=False,
    )
    held_out = data.Jval if len(data.Jval) else data.J2
    batches = InMemory(data, data.J1, config.batch_size, seed, "proxy", held_out=held_out)
    training = Training(genotype, brief, len(data.classes), data.images.device, seed, "proxy")
    for epoch in range(config.epochs):
        training.schedule(epoch)
        for i, (x, y) in enumerate(batches.training(epoch)):
            give_way()
            training.step(x, y, epoch, i)
    right, _, seen = training.counts(batches)
    n = seen + 4
    adjusted = (right + 2) / n
    return right / seen, math.sqrt(adjusted * (1 - adjusted) / n)


def everything(data: Data) -> torch.Tensor:
    """Indices of the whole training set: J_1, J_2 and J_val."""
    return torch.cat([data.J1, data.J2, data.Jval]).sort().values


def in_memory(data: Data, config: EvaluateConfig) -> Batches:
    """The whole training set to learn from, the test set to measure."""
    return InMemory(data, everything(data), config.batch_size, config.seed, "evaluate")


def torch_batches(data: Any, config: EvaluateConfig) -> Batches:
    """Batches of what this machine holds in memory, or reads by torch's DataLoader: on a GPU by all of its CPUs."""
    if not config.data.streamed:
        return in_memory(data, config)
    from dasgm.data._loader import TorchLoader

    device = device_of(config.device)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))  # Ray Train sets it: workers on this machine
    processes = 0 if device == "cpu" else max(1, (os.cpu_count() or 1) // here)
    return TorchLoader(data, config.batch_size, config.seed, rank(), world_size(), device, processes)


def enough(data: Any, config: EvaluateConfig, workers: int) -> None:
    """ValueError where the training set is less than a batch of all workers, or there is no test set."""
    n, (there, tested) = config.batch_size * workers, data.counts
    if n > there:
        raise ValueError(
            f"batch-size {config.batch_size} on {workers} worker(s) needs {n} training images, there are {there}; "
            "choose a smaller --batch-size"
        )
    if not tested:
        raise ValueError("the data set has no test images to measure the error on")


def fits(genotype: Genotype, config: EvaluateConfig, data: Any) -> None:
    """ValueError where there is no such network for these images."""
    check_image_size(config.form, data.image_size)
    with torch.device("meta"):
        training = Training(genotype, config, len(data.classes), "meta", "never drawn from")
    ensure_room("a network", sum(p.numel() for p in training.network.parameters()), device_of(config.device))


def main(
    genotype: Genotype,
    config: EvaluateConfig,
    folder: Path,
    hooks: Hooks | None = None,
    batches: Callable[[Any, EvaluateConfig], Batches] = torch_batches,
) -> Row:
    """Run or continue the evaluation of `folder`; returns the last row, with `result/...`; leaves the model's files.

    The test set is measured after every epoch and chooses nothing: the last epoch is the result. What is interrupted
    goes on from the end of the last whole epoch.

    Args:
        batches: of the data and the configuration, where images come from.

    Raises:
        ValueError: input that cannot be used, a folder in use, or one that began with other mathematics.
        SearchFailed: a loss is not finite, or memory does not suffice; the run is marked failed.
        Interrupted: stopped on request.
    """
    hooks = hooks or Hooks()
    hooks.about = {"kind": "evaluation", "measured_on": "the test set"} | hooks.about

    def prepare(data: Any) -> tuple[JobBody, dict[str, str]]:
        fits(genotype, config, data)
        enough(data, config, world_size())
        loop = _Loop(genotype, config, data, batches(data, config))
        return loop.go, {"genotype": digest(genotype.to_json())}

    def advice(config: EvaluateConfig, data: Any) -> str:
        def step(batch: int) -> None:
            smaller = replace(config, batch_size=batch)
            training = Training(genotype, smaller, len(data.classes), device_of(config.device), "tried")
            training.step(*next(iter(batches(data, smaller).training(0))), 0, 0)

        return batch_advice(config.batch_size, f"{config.cells} cells and {config.channels} channels", step)

    return run_job(config, folder, hooks, prepare, advice, lambda device: config.data.open(config.data_dir, device))


@contextmanager
def _for_all(run: Run) -> Iterator[None]:
    """What one worker cannot read ends them all: the others wait for it until it dies, and who starts them again finds
    in run.json that this is `fatal`."""
    try:
        yield
    except ValueError as error:
        if world_size() == 1:
            raise
        run.note(fatal=str(error))
        raise RuntimeError(str(error)) from None


class _Loop:
    run: Run
    hooks: Hooks
    stop: list[int]

    def __init__(self, genotype: Genotype, config: EvaluateConfig, data: Any, batches: Batches):
        self.genotype, self.config, self.data, self.batches = genotype, config, data, batches
        self.epoch, self.hours = 0, 0.0  # epochs done; device hours of all workers
        self.best, self.best_epoch = math.inf, 0
        self.last: Row = {}
        self.told: set[str] = set()  # pictures that are left out

    def go(self, run: Run, hooks: Hooks, stop: list[int]) -> Row:
        self.run, self.hooks, self.stop = run, hooks, stop
        state: Row | None = of_first(lambda: run.load(hooks.say))
        steady_threads(run, self.config)
        device, config = device_of(self.config.device), self.config
        self.training = Training(self.genotype, config, len(self.data.classes), device, config.seed, "evaluate")
        if state:
            self._restore(state)
            if finished := self._finished():
                return finished
        else:
            self.training.W.load_state_dict(broadcast(self.training.W.state_dict()))
            of_first(lambda: run.cut(-1))
            if rank() == 0:
                self.genotype.save(run.folder / "genotype.json")
        barrier()
        while self.epoch < self.config.epochs:
            self._epoch()
        return self._end()

    def _restore(self, state: Row) -> None:
        with restoring(self.run):
            self.training.W.load_state_dict(state["W"])
            self.epoch, self.hours, self.last = int(state["epoch"]), float(state["hours"]), state["last"]
            self.best, self.best_epoch, workers = float(state["best"]), int(state["best_epoch"]), int(state["workers"])
            if not is_row(self.last) or "test/error" not in self.last:
                raise ValueError("no row of an epoch")
        tell_of_workers(workers, self.config.batch_size, self.hooks.say)

    def _finished(self) -> Row | None:
        """The result, where there is one already; else what is after the checkpoint is dropped."""
        rows = broadcast(self.run.rows() if rank() == 0 else None)
        if self.epoch >= self.config.epochs and rows and rows[-1].get("phase") == "result":
            called_again(self.run, rows[-1])
            return rows[-1]
        of_first(lambda: self.run.cut(self.epoch))
        self.hooks.say(f"going on after epoch {self.epoch} of {self.run.folder}")
        return None

    def _epoch(self) -> None:
        config, training, begun, losses, wrong = self.config, self.training, time.monotonic(), [], []
        training.schedule(self.epoch)
        iterations = self.batches.iterations
        with _for_all(self.run):
            for i, (x, y) in enumerate(self.batches.training(self.epoch)):
                self.hooks.watch(self.epoch + 1, config.epochs, i, iterations)
                loss, missed = training.step(x, y, self.epoch, i)
                losses.append(loss)
                wrong.append(missed / len(y))
                if self.stop and i + 1 < iterations:
                    raise Interrupted  # an epoch cut short is begun anew
        means = torch.stack([torch.stack(losses), torch.stack(wrong)]).double().cpu()
        seconds = time.monotonic() - begun
        average([means])
        epoch = self.epoch + 1
        if not means[0].isfinite().all():
            i = int((~means[0].isfinite()).nonzero()[0])
            raise SearchFailed(f"epoch {epoch}, iteration {i + 1}: the loss is {means[0][i].item()}")
        with _for_all(self.run):
            first, five, seen = training.counts(self.batches)
        error = (seen - first) / seen
        self.hours += (time.monotonic() - begun) * world_size() / 3600
        row: Row = {"epoch": epoch, "phase": "evaluate", "time": time.time()}
        row |= {"loss/train": means[0].mean().item(), "train/error": means[1].mean().item(), "test/error": error}
        if len(self.data.classes) > TOP:
            row["test/top5_error"] = (seen - five) / seen
        images = iterations * config.batch_size * world_size()
        row |= {"speed/images_per_s": images / seconds, "speed/seconds": seconds, "cost/gpu_hours": self.hours}
        better = error < self.best
        if better:
            self.best, self.best_epoch = error, epoch
        self.epoch, self.last = epoch, row
        if rank() == 0:
            self.run.log("metrics", row)
            self._save(better)
        self.hooks.report(row)
        self._tell_of_unreadable()
        self.hooks.say(
            f"epoch {epoch}/{config.epochs}  loss {row['loss/train']:.3f}  training error {row['train/error']:.1%}  "
            f"test error {error:.2%}  {seconds:.1f} s"
        )
        if self.stop:
            raise Interrupted

    def _tell_of_unreadable(self) -> None:
        """Names the pictures that are left out, each once."""
        found = dict.fromkeys(name for names in gather(list(self.batches.unreadable)) for name in names)
        if new := [name for name in found if name not in self.told]:
            self.told.update(new)
            self.hooks.say(f"left out, {len(new)} unreadable: {first_ten(new)}")

    def _save(self, better: bool) -> None:
        """Rank 0's state is the truth: gradients and floating buffers are averaged."""
        state = {
            "format": FORMAT,
            "W": self.training.W.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "last": self.last,
            "hours": self.hours,
            "workers": world_size(),
        }
        self.run.save(state, self.epoch, self.config.checkpoints, better)

    def _end(self) -> Row:
        """The model's files, then the result, and the page."""
        config, data, last = self.config, self.data, self.last
        counts = measure_genotype(
            self.genotype, config.form, config.channels, config.cells, len(data.classes), data.image_size
        )
        row: Row = {"epoch": self.epoch, "phase": "result", "result/error": last["test/error"]}
        if "test/top5_error" in last:
            row["result/top5_error"] = last["test/top5_error"]
        row |= {"result/best_error": self.best, "result/best_epoch": self.best_epoch}
        row |= {f"result/{name}": counts[name] for name in ("parameters", "multiply_adds")}
        row |= {"cost/gpu_hours": self.hours, "time": time.time()}
        if rank() == 0:
            model.save(self.run.folder, self.training.network, self.genotype, config, data, row)
            self.run.log("metrics", row)
            self.run.note(state="finished", reason="", ended=time.time())
            write_report(self.run.folder)
        barrier()
        return row
