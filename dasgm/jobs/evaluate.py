"""An evaluation: what a design is worth, its network trained from scratch."""

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
from dasgm.bilevel import Player, Tensors, ensure_graph, seed_of
from dasgm.cpus import cpus
from dasgm.data._pictures import first_ten
from dasgm.designs.design import Design
from dasgm.designs.known import REFUSALS
from dasgm.device import device_of, ensure_bfloat16, ensure_room
from dasgm.distributed import average, broadcast, gather, rank, world_size
from dasgm.jobs.compiled import compile_network, ensure_compiler
from dasgm.jobs.loop import Loop
from dasgm.jobs.means import Means
from dasgm.jobs.memory import batch_advice
from dasgm.jobs.predictions import measure, sizes, unequal, write_results
from dasgm.jobs.proxy import UNCONNECTED
from dasgm.jobs.session import Hooks, Row, Session, run_job
from dasgm.jobs.training import TOP, Batches, InMemory, Training
from dasgm.measures.counts import measure_network
from dasgm.options import option
from dasgm.recipes import EvaluateConfig
from dasgm.search import SearchFailed
from dasgm.store.files import first_line
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


def torch_batches(data: Any, config: EvaluateConfig) -> Batches:
    """Batches of what this machine holds in memory, or reads by torch's DataLoader."""
    if not getattr(data, "streamed", False):
        return in_memory(data, config)
    from dasgm.data._loader import TorchLoader

    device = device_of(config.device)
    return TorchLoader(data, config.batch_size, config.seed, rank(), world_size(), device, decoders(device))


def opened(config: EvaluateConfig, device: str) -> Any:
    """The data set as the training uses it: some held out, balanced, and with a line about the sizes of the classes.

    Raises:
        ValueError: the files are missing or not as they should be, or the settings do not fit them.
    """
    data: Any = config.data.open(config.data_dir, device)
    data = replace(data, augmentation=config.augmentation) if getattr(data, "streamed", False) else data.whole()
    if config.folds:
        if not config.fold:
            raise ValueError(
                f"fold 0 of {config.folds}: expected the number of one part; dasgm evaluate goes through all"
            )
        data = data.fold(config.fold, config.folds, seed_of(config.data.split_seed, "folds"))
    if config.calibration:
        if data.held_out() is not None:
            raise ValueError(
                f"calibration {config.calibration}: val/ is held out already; leave {option('calibration')} out"
            )
        data = data.apart(config.calibration, seed_of(config.data.split_seed, "calibration"))
    if config.balance == "sampling":
        data = data.balancing()
    lines = sizes(data.classes, *data.class_counts())
    if config.balance == "none":
        lines += unequal(data.classes, data.class_counts()[0])
    return data.noting(lines)


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
            f"choose a smaller {option('batch_size')}"
        )
    if not tested:
        raise ValueError("the data set has no test images to measure the error on")


def fits(design: Design, config: EvaluateConfig, data: Any) -> None:
    """ValueError where there is no such network for these images, or the device lacks the precision."""
    config = design.settled(config)
    device = device_of(config.device)
    if config.precision == "bfloat16":
        ensure_bfloat16(device)
    if config.compile:
        ensure_compiler(device)
    with torch.device("meta"):
        training = Training(design, plainly(config), len(data.classes), "meta", "never drawn from")
    if design.connected:
        _ensure_classifier(design, training, data.image_size)
    ensure_room("a network", sum(p.numel() for p in training.network.parameters()), device)


def _ensure_classifier(design: Design, training: Training, size: int) -> None:
    """ValueError where the network does not take two images of this size in training, or gives no logits of them."""
    name = design.size(training.config)
    try:
        logits = training.network(torch.empty(2, 3, size, size, device="meta"))
    except REFUSALS as error:
        why = f"({first_line(error)[:160]}); choose another size"
        raise ValueError(f"{name} cannot be trained on images of {size} pixels {why}") from None
    shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != [2, training.classes]:
        raise ValueError(f"{name} gives {shape}, expected a row of {training.classes} logits for each image")


def plainly(config: EvaluateConfig) -> EvaluateConfig:
    """The same training, neither compiled nor recorded as a graph."""
    return replace(config, cuda_graph="off", compile=False)


def main(
    design: Design,
    config: EvaluateConfig,
    folder: Path,
    hooks: Hooks | None = None,
    batches: Callable[[Any, EvaluateConfig], Batches] = torch_batches,
) -> Row:
    """Run or continue the evaluation of `folder`; returns the last row, with `result/...`; leaves the model's files.

    The test set is measured after every epoch and chooses nothing: the last epoch is the result. What is interrupted
    goes on from the end of the last whole epoch.

    Args:
        design: a genotype or a known network. Settings of `config` that it does not use are turned off where they can.
        batches: function of data and configuration that returns the source of the images.

    Raises:
        ValueError: input that cannot be used, a folder in use, or one that began with other mathematics.
        SearchFailed: a loss is not finite, or memory does not suffice; the run is marked failed.
        Interrupted: stopped on request.
    """
    hooks, about = hooks or Hooks(), {"kind": "evaluation", "measured_on": "the test set"}
    job = EvaluateJob(design, design.settled(config), batches)
    return run_job(job, folder, replace(hooks, about=about | hooks.about))


@dataclass
class EvaluateJob:
    """An evaluation, for `run_job`."""

    design: Design
    config: EvaluateConfig
    batches: Callable[[Any, EvaluateConfig], Batches]
    source: Batches | None = None
    """Where images come from, once `check` has found that they can: before the folder is begun."""

    def load(self, device: str) -> Any:
        return opened(self.config, device)

    def check(self, data: Any) -> dict[str, str]:
        fits(self.design, self.config, data)
        enough(data, self.config, world_size())
        ensure_graph(self.config.cuda_graph, device_of(self.config.device), world_size())
        self.source = self.batches(data, self.config)
        return {self.design.kind: digest(self.design.to_json())}

    def advice(self, data: Any) -> str:
        config = self.config

        def step(batch: int) -> None:
            smaller = replace(plainly(config), batch_size=batch)
            training = Training(self.design, smaller, len(data.classes), device_of(config.device), "tried")
            training.step(*next(iter(self.batches(data, smaller).training(0))), 0, 0)

        return batch_advice(config.batch_size, self.design.size(config), step, config.cuda_graph != "off")

    def run(self, data: Any, session: Session) -> Row:
        assert self.source is not None
        held = data.held_out()
        held = held and self.batches(held, self.config)
        return EvaluateLoop(session, self.design, self.config, data, self.source, held).go()


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

    def __init__(
        self,
        session: Session,
        design: Design,
        config: EvaluateConfig,
        data: Any,
        batches: Batches,
        held: Batches | None,
    ):
        super().__init__(session, config, data)
        self.design, self.source, self.held = design, batches, held
        self.least, self.best_epoch = math.inf, 0  # the smallest test error of an epoch so far
        self.last: Row = {}
        self.told: set[str] = set()  # pictures that are left out

    def build(self) -> None:
        config, device = self.config, device_of(self.config.device)
        self.training = Training(
            self.design, config, len(self.data.classes), device, config.seed, "evaluate", say=cache(self.hooks.say)
        )
        if config.balance == "loss":
            self.training.weigh(self.data.class_counts()[0])

    def start(self) -> None:
        self.training.W.load_state_dict(broadcast(self.training.W.state_dict()))
        if rank() == 0:
            self.design.save(self.run.folder / f"{self.design.kind}.json")
        steps = self.epochs * self.length
        for line in self.design.notes(self.config, len(self.data.classes), self.data.image_size, steps):
            self.hooks.say(line)
        if not self.design.connected:
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
        return self.epoch < self.epochs and self.design.connected

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
        counts = measure_network(self.design, config, len(data.classes), data.image_size)
        row: Row = {"epoch": self.epoch, "phase": "result", "result/error": last["test/error"]}
        if "test/top5_error" in last:
            row["result/top5_error"] = last["test/top5_error"]
        row |= {"result/best_error": self.least, "result/best_epoch": self.best_epoch}
        row |= {f"result/{name}": counts[name] for name in ("parameters", "multiply_adds")}
        row |= self._classified() | {"cost/gpu_hours": self.hours, "time": time.time()}
        if rank() == 0:
            model.save(self.run.folder, self.training.network, self.design, config, data, row)
        return row

    def _classified(self) -> Row:
        """predictions.csv, metrics.json and the pictures that are mistaken; what the result's row has of them."""
        if not self.design.connected:
            return {}  # nothing is trained, so there is nothing to look at
        with _for_all(self.run):
            found = measure(self.training, self.source, self.held)
        row = write_results(self.run.folder, self.data, found, self.hooks.say) if rank() == 0 else {}
        return dict(broadcast(row))
