"""What a search would cost, before it starts: parameters, memory, and the time of a few real iterations."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from dasgm.config import SearchConfig
from dasgm.loop import device_of, fits
from dasgm.runs import hardware
from dasgm.search import Search

TIMED = 3  # iterations, after one that is not counted


@dataclass(frozen=True)
class Estimate:
    """Of one search on this machine, one process."""

    device: str
    split: str
    parameters: dict[str, int]
    iterations: int
    """Of the whole search, without warm-up and proxy."""
    seconds_per_iteration: float
    peak_memory: int
    """Bytes: of the device, or of the process on a CPU."""
    disk: int
    """Bytes of the checkpoints that are kept."""

    @property
    def hours(self) -> float:
        return self.iterations * self.seconds_per_iteration / 3600


def estimate(config: SearchConfig) -> Estimate:
    """Load the data, build the networks, take a few steps; nothing is written.

    Raises:
        ValueError: input that the search itself would refuse.
    """
    device = device_of(config.device)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    data = config.data.load(config.data_dir, device)
    fits(config, data, 1)
    search = Search(config, data)
    search.schedule()
    search.left = max(1, search.stage.epochs - search.stage.arch_start_epoch)  # iterations with all four stages
    search.iterate()
    begun = time.monotonic()
    for _ in range(TIMED):
        search.iterate()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    seconds = (time.monotonic() - begun) / TIMED
    players = {"W": search.W, "A": search.A, **dict(zip("GEB", search.gan.players, strict=True))}
    state = sum(t.numel() * t.element_size() for t in _tensors(search.state_dict()))
    return Estimate(
        hardware(device),
        data.describe(),
        {name: sum(p.numel() for p in player.params.values()) for name, player in players.items()},
        search.batches * config.method.epochs,
        seconds,
        _peak_memory(device),
        state * (config.checkpoints + 1),
    )


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [t for item in items for t in _tensors(item)]


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe(config: SearchConfig, trials: int = 1, at_once: int = 1) -> str:
    """`estimate` as lines to print, for `trials` searches of which `at_once` run side by side."""
    e = estimate(config)
    counts = ", ".join(f"{name} {n:,}" for name, n in e.parameters.items())
    whole = e.hours * trials / at_once
    lines = [
        f"data        {e.split}",
        f"parameters  {counts}",
        f"device      {e.device}, peak memory {e.peak_memory / 2**30:.2f} GiB",
        f"time        {e.seconds_per_iteration:.3f} s an iteration ({TIMED} timed), {e.iterations} iterations: "
        f"{e.hours:.2f} device hours a search",
        f"disk        {e.disk * trials / 2**20:.0f} MiB of checkpoints",
    ]
    if trials > 1:
        lines.append(
            f"sweep       {trials} searches, {at_once} at once: {whole:.2f} hours at most (without early stops)"
        )
    return "\n".join([*lines, "nothing was started (--dry-run)"])
