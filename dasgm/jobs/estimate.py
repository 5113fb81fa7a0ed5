"""What a search would cost, before it starts: parameters, memory, and the time of a few real iterations."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from dasgm.adversary import by_name
from dasgm.bilevel import Player
from dasgm.config import PretrainConfig, SearchConfig
from dasgm.designs.design import Design
from dasgm.device import device_of, forget_peak, hardware
from dasgm.jobs import evaluate
from dasgm.jobs.pretrain import Pretraining, wanted_by
from dasgm.jobs.pretrain import fits as fits_alone
from dasgm.jobs.proxy import Proxy
from dasgm.jobs.search import fits
from dasgm.jobs.training import Batches, Training
from dasgm.jobs.warmup import WarmUp
from dasgm.pretrained import chosen
from dasgm.recipes import EvaluateConfig
from dasgm.search import Search
from dasgm.store.files import counted, printable

TIMED = 3  # iterations, after those that are not counted
Watch = Callable[[str], None]
"""Is told what is measured, again before each step of it. What it raises ends the measuring."""
LOADING = "reading the pictures"


@dataclass(frozen=True)
class Estimate:
    """The cost of one search or pre-training on this machine, in one process."""

    device: str
    split: str
    parameters: dict[str, int]
    iterations: int
    """Number of iterations of the run itself."""
    seconds_per_iteration: float
    """The mean over stages, and over iterations with architecture steps and without."""
    other_seconds: dict[str, float]
    """Seconds of what is done once besides: the GAN's warm-up (shared by all searches with it) and the proxy."""
    peak_memory: int
    """Bytes: what PyTorch holds of a GPU (CUDA itself takes some hundred MiB more), or of the process on a CPU."""
    disk: int
    """Bytes of the checkpoints that are kept."""
    notes: tuple[str, ...] = ()
    """Notes on the data: what was found, left out or ignored."""

    @property
    def hours(self) -> float:
        """Hours of one search, with warm-up and proxy."""
        return (self.iterations * self.seconds_per_iteration + sum(self.other_seconds.values())) / 3600


def silent(what: str) -> None:
    """A `Watch` that does nothing."""


def estimate(config: SearchConfig, workers: int = 1, pretrain: bool = False, watch: Watch = silent) -> Estimate:
    """Load the data, build the networks, take a few steps of one worker; nothing is written.

    Args:
        pretrain: the GAN will be a pre-trained one, which is not there yet.
        watch: is told what is measured.

    Raises:
        ValueError: input that the search itself would refuse.
    """
    device = _device(config)
    watch(LOADING)
    data = config.data.load(config.data_dir, device)
    fits(config, data, workers)
    pretrained = None if pretrain else chosen(config, data)
    search = Search(config, data, pretrained, print)
    iterations = search_seconds = 0.0
    for stage in config.stages:
        search.enter(stage)
        start = min(stage.arch_start_epoch, stage.epochs)
        for epochs, left in ((start, stage.epochs), (stage.epochs - start, 1)):
            if epochs:  # without architecture steps in the first epoch, then with them in the last
                search.left = left
                search.schedule()
                here = epochs * max(1, search.batches // workers)
                one = _timed(search.iterate, device, watch, "a few iterations")
                iterations, search_seconds = iterations + here, search_seconds + here * one
    other = {}
    if config.gan is not None and config.gan.warmup and not (pretrain or pretrained):
        few = replace(config, gan=replace(config.gan, warmup=1))
        warmed = Search(few, data)
        one = _timed(lambda: WarmUp(warmed, None).train(), device, watch, "the GAN's warm-up")
        other["warm-up"] = one * config.gan.warmup
    state = _size(search.state_dict())
    disk = state * (config.checkpoints + 1)
    if config.proxy.epochs:
        proxy = Proxy(search.genotype(), data, replace(config.proxy, epochs=1), seed=0)
        one = _timed(lambda: _train(proxy), device, watch, "an epoch of the proxy", 1)
        other["proxy"] = one * config.proxy.epochs / workers
        disk += state + _size(proxy.state())  # its checkpoint has the search's state too
    return Estimate(
        hardware(device),
        data.describe(),
        _weights(search.players),
        int(iterations),
        search_seconds / max(1.0, iterations),
        other,
        _peak_memory(device),
        disk,
        data.notes,
    )


def estimate_pretraining(config: PretrainConfig, workers: int = 1) -> Estimate:
    """The same of a pre-training."""
    device = _device(config)
    data = config.data.load(config.data_dir, device)
    fits_alone(config, data, workers)
    training = Pretraining(config, data)
    seconds = _timed(training.iterate, device)
    return Estimate(
        hardware(device),
        data.describe(),
        _weights(by_name(training.gan)),
        config.gan.pretraining_length,
        seconds,
        {},
        _peak_memory(device),
        _size(training.state_dict()) * config.checkpoints,
        data.notes,
    )


def gpu_memory(config: SearchConfig, pretrain: bool = False) -> tuple[int, int]:
    """Bytes of a GPU that a search takes at its peak, as PyTorch counts them, and bytes that are free on the fullest
    GPU of this machine before.

    Raises:
        ValueError: input that the search itself would refuse.
    """
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count()))
    return estimate(replace(config, device="cuda"), pretrain=pretrain).peak_memory, free


def _device(config: SearchConfig | PretrainConfig | EvaluateConfig) -> str:
    """The device that is measured, on which nothing has been measured yet."""
    device = device_of(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    forget_peak()
    return device


def _train(proxy: Proxy) -> None:
    proxy.go_through()
    proxy.accuracy()


def _timed(
    step: Callable[[], Any], device: str, watch: Watch = silent, what: str = "a few steps", times: int = TIMED
) -> float:
    """Seconds of one call, after two that are not counted (unless it is long): a GPU's first one makes its draws one by
    one, and in the second one a CUDA graph is recorded."""
    uncounted = 2 if device.startswith("cuda") else 1
    for _ in range(uncounted if times > 1 else 0):
        watch(what)
        step()
    _wait(device)
    begun = time.monotonic()
    for _ in range(times):
        watch(what)
        step()
    _wait(device)
    return (time.monotonic() - begun) / times


def _wait(device: str) -> None:
    """Until a GPU has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _weights(players: dict[str, Player]) -> dict[str, int]:
    """The number of weights of each player."""
    return {name: sum(p.numel() for p in player.params.values()) for name, player in players.items()}


def _size(state: Any) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return sum(map(_size, items))


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _First:
    """The first batches of what is measured."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def testing(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        return islice(self.batches.testing(), TIMED)


@dataclass(frozen=True)
class TrainingEstimate:
    """The cost of one evaluation on this machine."""

    device: str
    data: str
    parameters: int
    """With the auxiliary head, if there is one."""
    auxiliary: bool
    """Whether there is one."""
    step: float
    """Seconds of a step of one worker."""
    iterations: int
    """Number of steps of an epoch."""
    test: float
    """Seconds of measuring the test set, after every epoch."""
    epochs: int
    peak_memory: int
    disk: int
    """Bytes of the checkpoints that are kept."""
    notes: tuple[str, ...] = ()

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return self.iterations * self.step + self.test

    @property
    def hours(self) -> float:
        """Hours of the whole training."""
        return self.epochs * self.epoch / 3600


def estimate_training(
    design: Design, config: EvaluateConfig, workers: int = 1, watch: Watch = silent
) -> TrainingEstimate:
    """A few real steps of one worker of an evaluation; nothing is written.

    Raises:
        ValueError: input that the evaluation itself would refuse.
    """
    device = _device(config)
    watch(LOADING)
    data = evaluate.opened(config, device)
    evaluate.fits(design, config, data)
    evaluate.enough(data, config, workers)
    _, tested = data.counts
    training = Training(design, config, len(data.classes), device, config.seed, "evaluate")
    training.schedule(config.epochs - 1)  # with drop-path
    batches = evaluate.torch_batches(data, config)
    drawn = batches.training(0)
    step = _timed(lambda: training.step(*next(drawn, None) or next(batches.training(0)), 0, 0), device, watch)
    watch("the test of a few batches")
    begun = time.monotonic()
    measured = training.counts(_First(batches))[2]
    return TrainingEstimate(
        hardware(device),
        data.describe(),
        sum(p.numel() for p in training.network.parameters()),
        training.config.auxiliary > 0,
        step,
        max(1, batches.iterations // workers),
        (time.monotonic() - begun) * tested / measured / workers,
        config.epochs,
        _peak_memory(device),
        _size(training.W.state_dict()) * (config.checkpoints + 1),
        tuple(data.notes),
    )


def describe_training(design: Design, config: EvaluateConfig, workers: int = 1, runs: int = 1, at_once: int = 1) -> str:
    """What `runs` evaluations of `workers` each, of which `at_once` run side by side, would cost, as lines to print.

    Raises:
        ValueError: input that the evaluation itself would refuse.
    """
    if config.folds and not config.fold:
        config, runs = replace(config, fold=1), runs * config.folds
    e = estimate_training(design, config, workers)
    disk = e.disk // 2**20
    together = f"{runs} evaluations, {at_once} at once: about {e.hours * runs / at_once:.2f} hours, {disk * runs} MiB"
    return "\n".join(
        [
            f"data        {e.data}",
            *_indented(e.notes),
            f"parameters  {e.parameters:,}" + " (with the auxiliary head)" * e.auxiliary,
            f"device      {e.device}, peak memory {e.peak_memory / 2**30:.2f} GiB",
            f"time        {e.step:.3f} s a step ({TIMED} timed), {e.iterations} steps an epoch, test {e.test:.1f} s, "
            f"{counted(e.epochs, 'epoch')}: {e.hours:.2f} hours",
            f"disk        {disk} MiB of checkpoints",
            *([f"in all      {together}"] if runs > 1 else []),
            "nothing was started (--dry-run)",
        ]
    )


def describe(config: SearchConfig, trials: int = 1, at_once: int = 1, workers: int = 1, pretrain: bool = False) -> str:
    """`estimate` as lines to print, for `trials` searches of `workers` each, of which `at_once` run side by side;
    `pretrain`: after a pre-training, once for all."""
    first = estimate_pretraining(wanted_by(config), workers) if pretrain else None
    e = estimate(config, workers, pretrain)
    whole = e.hours * trials / at_once
    lines = _lines(e, "a search", trials)
    if first:
        lines.insert(-1, f"before      {_time(first, 'a pre-training, once for all searches with this GAN')}")
    if trials > 1:
        lines.append(f"sweep       {trials} searches, {at_once} at once: about {whole:.2f} hours without early stops")
    return "\n".join([*lines, "nothing was started (--dry-run)"])


def describe_pretraining(config: PretrainConfig, workers: int = 1) -> str:
    """`estimate_pretraining` as lines to print."""
    return "\n".join([*_lines(estimate_pretraining(config, workers), "in all"), "nothing was started (--dry-run)"])


def _lines(e: Estimate, what: str, times: int = 1) -> list[str]:
    return [
        f"data        {e.split}",
        *_indented(e.notes),
        f"parameters  {', '.join(f'{name} {n:,}' for name, n in e.parameters.items())}",
        f"device      {e.device}, peak memory {e.peak_memory / 2**30:.2f} GiB",
        f"time        {_time(e, what)}",
        f"disk        {e.disk * times / 2**20:.0f} MiB of checkpoints",
    ]


def _indented(notes: Sequence[str]) -> list[str]:
    return [f"            {printable(note)}" for note in notes]


def _time(e: Estimate, what: str) -> str:
    besides = "".join(f", {name} {seconds:.0f} s" for name, seconds in e.other_seconds.items())
    return (
        f"{e.seconds_per_iteration:.3f} s an iteration ({TIMED} timed), {e.iterations} iterations{besides}: "
        f"{e.hours:.2f} hours {what}"
    )
