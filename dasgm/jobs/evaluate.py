"""An evaluation: what a genotype is worth, its network trained from scratch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dasgm import model
from dasgm.bilevel import Player, Tensors, ensure_graph
from dasgm.cpus import cpus
from dasgm.data._pictures import first_ten
from dasgm.device import device_of, ensure_bfloat16, ensure_room
from dasgm.distributed import average, broadcast, gather, rank, world_size
from dasgm.genotype import Genotype
from dasgm.jobs.compiled import compile_network, ensure_compiler
from dasgm.jobs.loop import Loop
from dasgm.jobs.means import Means
from dasgm.jobs.memory import batch_advice
from dasgm.jobs.proxy import UNCONNECTED
from dasgm.jobs.session import Hooks, Row, Session, run_job
from dasgm.jobs.training import TOP, Batches, InMemory, Training
from dasgm.measures.counts import measure_genotype
from dasgm.networks.network import check_image_size
from dasgm.recipes import EvaluateConfig
from dasgm.search import SearchFailed
from dasgm.store.records import digest, is_row
from dasgm.store.run import Run

if TYPE_CHECKING:
    from dasgm.data._images import Data


def everything(data: Data) -> torch.Tensor:
    """Indices of the whole training set: J_1, J_2 and J_val."""
    return torch.cat([data.J1, data.J2, data.Jval]).sort().values


def in_memory(data: Data, config: EvaluateConfig) -> Batches:
    """The whole training set to learn from, the test set to measure."""
    J, how = everything(data), config.augmentation
    return InMemory(data, J, config.batch_size, config.seed, "evaluate", augmentation=how)


def opened(config: EvaluateConfig, device: str) -> Any:
    """The data set of a training; a streamed one knows how its pictures are changed."""
    data: Any = config.data.open(config.data_dir, device)
    return replace(data, augmentation=config.augmentation) if getattr(data, "streamed", False) else data


def torch_batches(data: Any, config: EvaluateConfig) -> Batches:
    """Batches of what this machine holds in memory, or reads by torch's DataLoader."""
    if not getattr(data, "streamed", False):
        return in_memory(data, config)
    from dasgm.data._loader import TorchLoader

    device = device_of(config.device)
    return TorchLoader(data, config.batch_size, config.seed, rank(), world_size(), device, decoders(device))


def decoders(device: str) -> int:
    """Processes that decode for this worker: on a GPU one for each CPU, which all workers of the machine share."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))  # Ray Train sets it: workers on this machine
    return 0 if device == "cpu" else max(1, cpus() // here)


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
    """ValueError where there is no such network for these images, or the device lacks the precision."""
    check_image_size(config.form, data.image_size)
    device = device_of(config.device)
    if config.precision == "bfloat16":
        ensure_bfloat16(device)
    if config.compile:
        ensure_compiler(device)
    with torch.device("meta"):
        training = Training(genotype, plainly(config), len(data.classes), "meta", "never drawn from")
    ensure_room("a network", sum(p.numel() for p in training.network.parameters()), device)


def plainly(config: EvaluateConfig) -> EvaluateConfig:
    """The same training, neither compiled nor recorded as a graph."""
    return replace(config, cuda_graph="off", compile=False)


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
        batches: function of data and configuration that returns the source of the images.

    Raises:
        ValueError: input that cannot be used, a folder in use, or one that began with other mathematics.
        SearchFailed: a loss is not finite, or memory does not suffice; the run is marked failed.
        Interrupted: stopped on request.
    """
    hooks, about = hooks or Hooks(), {"kind": "evaluation", "measured_on": "the test set"}
    return run_job(EvaluateJob(genotype, config, batches), folder, replace(hooks, about=about | hooks.about))


@dataclass
class EvaluateJob:
    """An evaluation, for `run_job`."""

    genotype: Genotype
    config: EvaluateConfig
    batches: Callable[[Any, EvaluateConfig], Batches]
    source: Batches | None = None
    """Where images come from, once `check` has found that they can: before the folder is begun."""

    def load(self, device: str) -> Any:
        return opened(self.config, device)

    def check(self, data: Any) -> dict[str, str]:
        fits(self.genotype, self.config, data)
        enough(data, self.config, world_size())
        ensure_graph(self.config.cuda_graph, device_of(self.config.device), world_size())
        self.source = self.batches(data, self.config)
        return {"genotype": digest(self.genotype.to_json())}

    def advice(self, data: Any) -> str:
        config = self.config

        def step(batch: int) -> None:
            smaller = replace(plainly(config), batch_size=batch)
            training = Training(self.genotype, smaller, len(data.classes), device_of(config.device), "tried")
            training.step(*next(iter(self.batches(data, smaller).training(0))), 0, 0)

        network = f"{config.cells} cells and {config.channels} channels"
        return batch_advice(config.batch_size, network, step, config.cuda_graph != "off")

    def run(self, data: Any, session: Session) -> Row:
        assert self.source is not None
        return EvaluateLoop(session, self.genotype, self.config, data, self.source).go()


@contextmanager
def _for_all(run: Run) -> Iterator[None]:
    """Inside, a file that one worker cannot read ends all workers.

    The others wait for this worker until it dies. The `fatal` entry of run.json tells the launcher not to start them
    again.
    """
    try:
        yield
    except ValueError as error:
        if world_size() == 1:
            raise
        run.note(fatal=str(error))
        raise RuntimeError(str(error)) from None


class EvaluateLoop(Loop):
    """A training from scratch, epoch by epoch; one cut short is begun anew."""

    phase = "evaluate"

    def __init__(self, session: Session, genotype: Genotype, config: EvaluateConfig, data: Any, batches: Batches):
        super().__init__(session, config, data)
        self.genotype, self.source = genotype, batches
        self.least, self.best_epoch = math.inf, 0  # the smallest test error of an epoch so far
        self.last: Row = {}
        self.told: set[str] = set()  # pictures that are left out

    def build(self) -> None:
        config, device = self.config, device_of(self.config.device)
        self.training = Training(
            self.genotype, config, len(self.data.classes), device, config.seed, "evaluate", say=cache(self.hooks.say)
        )

    def start(self) -> None:
        self.training.W.load_state_dict(broadcast(self.training.W.state_dict()))
        if rank() == 0:
            self.genotype.save(self.run.folder / "genotype.json")
        if not self.genotype.connected:
            self._chance()

    def _chance(self) -> None:
        """The result of a network that images do not reach."""
        self.hooks.say(UNCONNECTED)
        classes = len(self.data.classes)
        self.last = {"epoch": 0, "phase": self.phase, "time": time.time(), "test/error": 1 - 1 / classes}
        self.last |= {"test/top5_error": 1 - TOP / classes} if classes > TOP else {}
        self.least = self.last["test/error"]
        self.save(True)

    def resume(self) -> None:
        if self.config.compile:
            compile_network(self.training, self.data.image_size, self.hooks.say)

    # an epoch

    @property
    def epochs(self) -> int:
        return int(self.config.epochs)

    @property
    def length(self) -> int:
        return self.source.iterations

    @property
    def iteration(self) -> int:
        return self.epoch

    def more(self) -> bool:
        return self.epoch < self.epochs and self.genotype.connected

    def batches(self) -> Iterator[tuple[Any, Any]]:
        self.training.schedule(self.epoch)
        with _for_all(self.run):
            yield from self.source.training(self.epoch)

    def iterate(self, i: int, batch: Any) -> Tensors:
        x, y = batch
        with _for_all(self.run):
            loss, missed = self.training.step(x, y, self.epoch, i)
        return {"loss/train": loss, "train/error": missed / len(y)}

    def cut_short(self) -> None:
        """Nothing is kept: the next start loads the pictures for a whole epoch."""

    def close(self, means: Means) -> Row:
        losses = means.exact()  # which waits for the device
        seconds = self.clock()
        row = self._means(losses) | self._errors()
        return row | self.took(means.iterations, seconds)

    def _means(self, found: Tensors) -> Row:
        """Over the epoch and the workers. SearchFailed: a loss is not finite."""
        average(list(found.values()))
        losses = found["loss/train"]
        if not losses.isfinite().all():
            i = int((~losses.isfinite()).nonzero()[0])
            raise SearchFailed(f"epoch {self.epoch}, iteration {i + 1}: the loss is {losses[i].item()}")
        return {name: some.mean().item() for name, some in found.items()}

    def _errors(self) -> Row:
        """On the test set."""
        with _for_all(self.run):
            first, five, seen = self.training.counts(self.source)
        row: Row = {"test/error": (seen - first) / seen}
        if len(self.data.classes) > TOP:
            row["test/top5_error"] = (seen - five) / seen
        return row

    def best(self, row: Row) -> bool:
        self.last, better = row, row["test/error"] < self.least
        if better:
            self.least, self.best_epoch = row["test/error"], self.epoch
        return bool(better)

    def tell(self, row: Row) -> None:
        self._tell_of_unreadable()
        self.hooks.say(
            f"epoch {self.epoch}/{self.epochs}  loss {row['loss/train']:.3f}  training error {row['train/error']:.1%}  "
            f"test error {row['test/error']:.2%}  {row['speed/seconds']:.1f} s"
        )

    def _tell_of_unreadable(self) -> None:
        """Names the pictures that are left out, each once."""
        found = dict.fromkeys(name for names in gather(list(self.source.unreadable)) for name in names)
        if new := [name for name in found if name not in self.told]:
            self.told.update(new)
            self.hooks.say(f"left out, {len(new)} unreadable: {first_ten(new)}")

    # a checkpoint, and the end

    @property
    def players(self) -> list[Player]:
        return [self.training.W]

    def state(self) -> Row:
        own = {"best": self.least, "best_epoch": self.best_epoch, "last": self.last}
        return {"W": self.training.W.state_dict()} | own

    def restore(self, state: Row) -> None:
        self.training.W.load_state_dict(state["W"])
        self.least, self.best_epoch, self.last = float(state["best"]), int(state["best_epoch"]), state["last"]
        if not is_row(self.last) or "test/error" not in self.last:
            raise ValueError("no row of an epoch")

    def complete(self) -> bool:
        return not self.more()

    def finish(self) -> Row:
        """The model's files, and the result."""
        config, data, last = self.config, self.data, self.last
        counts = measure_genotype(
            self.genotype, config.form, config.channels, config.cells, len(data.classes), data.image_size
        )
        row: Row = {"epoch": self.epoch, "phase": "result", "result/error": last["test/error"]}
        if "test/top5_error" in last:
            row["result/top5_error"] = last["test/top5_error"]
        row |= {"result/best_error": self.least, "result/best_epoch": self.best_epoch}
        row |= {f"result/{name}": counts[name] for name in ("parameters", "multiply_adds")}
        row |= {"cost/gpu_hours": self.hours, "time": time.time()}
        if rank() == 0:
            model.save(self.run.folder, self.training.network, self.genotype, config, data, row)
        return row
