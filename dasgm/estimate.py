"""What a search would cost, before it starts: parameters, memory, and the time of a few real iterations."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dasgm import evaluate
from dasgm.config import SearchConfig
from dasgm.evaluate import proxy
from dasgm.genotype import Genotype
from dasgm.loop import fits
from dasgm.pretrain import train
from dasgm.recipes import EvaluateConfig
from dasgm.runs import hardware
from dasgm.search import Search
from dasgm.session import device_of
from dasgm.training import Training

TIMED = 3  # iterations, after one that is not counted


@dataclass(frozen=True)
class Estimate:
    """Of one search on this machine, one process."""

    device: str
    split: str
    parameters: dict[str, int]
    iterations: int
    """Of the search itself."""
    seconds_per_iteration: float
    """The mean over stages, and over iterations with architecture steps and without."""
    other_seconds: dict[str, float]
    """Of what is done besides, once: the GAN's warm-up (shared by all searches with it) and the proxy."""
    peak_memory: int
    """Bytes: of the device, or of the process on a CPU."""
    disk: int
    """Bytes of the checkpoints that are kept."""

    @property
    def hours(self) -> float:
        """Of one search, warm-up and proxy included."""
        return (self.iterations * self.seconds_per_iteration + sum(self.other_seconds.values())) / 3600


def estimate(config: SearchConfig, workers: int = 1) -> Estimate:
    """Load the data, build the networks, take a few steps of one worker; nothing is written.

    Raises:
        ValueError: input that the search itself would refuse.
    """
    device = device_of(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    data = config.data.load(config.data_dir, device)
    fits(config, data, workers)
    search = Search(config, data)
    iterations = search_seconds = 0.0
    for stage in config.method.outline():
        search.enter(stage)
        start = min(stage.arch_start_epoch, stage.epochs)
        for epochs, left in ((start, stage.epochs), (stage.epochs - start, stage.epochs - start)):
            if epochs:  # without architecture steps, then with
                search.left = left
                search.schedule()
                here = epochs * max(1, search.batches // workers)
                iterations, search_seconds = iterations + here, search_seconds + here * _timed(search.iterate, device)
    other = {}
    if config.gan is not None and config.gan.warmup:
        few = replace(config, gan=replace(config.gan, warmup=1))
        one = _timed(lambda: train(Search(few, data), lambda line: None, lambda: None), device)
        other["warm-up"] = one * config.gan.warmup
    if config.proxy.epochs:
        short = replace(config.proxy, epochs=1)
        one = _timed(lambda: proxy(search.genotype(), data, short, 0), device, 1)
        other["proxy"] = one * config.proxy.epochs / workers
    players = {"W": search.W, "A": search.A, **dict(zip("GEB", search.gan.players, strict=True))}
    state = sum(t.numel() * t.element_size() for t in _tensors(search.state_dict()))
    return Estimate(
        hardware(device),
        data.describe(),
        {name: sum(p.numel() for p in player.params.values()) for name, player in players.items()},
        int(iterations),
        search_seconds / iterations,
        other,
        _peak_memory(device),
        state * (config.checkpoints + 1),
    )


def _timed(step: Callable[[], Any], device: str, times: int = TIMED) -> float:
    """Seconds of one call, after one that is not counted (unless it is long)."""
    if times > 1:
        step()
    begun = time.monotonic()
    for _ in range(times):
        step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (time.monotonic() - begun) / times


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [t for item in items for t in _tensors(item)]


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe_training(genotype: Genotype, config: EvaluateConfig, workers: int = 1) -> str:
    """What an evaluation of `workers` would cost, as lines to print: a few real steps of one; nothing is written.

    Raises:
        ValueError: input that the evaluation itself would refuse.
    """
    device = device_of(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    data = config.data.load(config.data_dir, device)
    evaluate.fits(genotype, config, data)
    evaluate.enough(data, config, workers)
    training = Training(genotype, config, len(data.classes), device, config.seed, "evaluate")
    training.schedule(config.epochs - 1)  # with drop-path
    batches = evaluate.in_memory(data, config)
    drawn = batches.training(0)
    step = _timed(lambda: training.step(*next(drawn, None) or next(batches.training(0)), 0, 0), device)
    iterations = max(1, batches.iterations // workers)
    test = _timed(lambda: training.counts(batches), device, 1) / workers
    hours = config.epochs * (iterations * step + test) / 3600
    parameters = sum(p.numel() for p in training.network.parameters())
    disk = sum(t.numel() * t.element_size() for t in _tensors(training.W.state_dict()))
    return "\n".join(
        [
            f"data        {data.describe()}; learnt from: {len(evaluate.everything(data)):,}",
            f"parameters  {parameters:,} (with the auxiliary head)",
            f"device      {hardware(device)}, peak memory {_peak_memory(device) / 2**30:.2f} GiB",
            f"time        {step:.3f} s a step ({TIMED} timed), {iterations} steps an epoch, test {test:.1f} s, "
            f"{config.epochs} epochs: {hours:.2f} hours",
            f"disk        {disk * (config.checkpoints + 1) / 2**20:.0f} MiB of checkpoints",
            "nothing was started (--dry-run)",
        ]
    )


def describe(config: SearchConfig, trials: int = 1, at_once: int = 1, workers: int = 1) -> str:
    """`estimate` as lines to print, for `trials` searches of `workers` each, of which `at_once` run side by side."""
    e = estimate(config, workers)
    counts = ", ".join(f"{name} {n:,}" for name, n in e.parameters.items())
    whole = e.hours * trials / at_once
    besides = "".join(f", {name} {seconds:.0f} s" for name, seconds in e.other_seconds.items())
    lines = [
        f"data        {e.split}",
        f"parameters  {counts}",
        f"device      {e.device}, peak memory {e.peak_memory / 2**30:.2f} GiB",
        f"time        {e.seconds_per_iteration:.3f} s an iteration ({TIMED} timed), {e.iterations} iterations"
        f"{besides}: "
        f"{e.hours:.2f} hours a search",
        f"disk        {e.disk * trials / 2**20:.0f} MiB of checkpoints",
    ]
    if trials > 1:
        lines.append(f"sweep       {trials} searches, {at_once} at once: about {whole:.2f} hours without early stops")
    return "\n".join([*lines, "nothing was started (--dry-run)"])
