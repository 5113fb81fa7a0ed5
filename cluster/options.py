"""Options that several commands share: of a run on several workers, and of a folder of many runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dasgm.api.places import check_time_budget


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """How long a command waits for room."""

    wait: float = 1800.0
    """Seconds to wait for room on a joined cluster (RAY_ADDRESS), at the start and after the loss of a machine."""


@dataclass(frozen=True, kw_only=True)
class OnWorkers(OnCluster):
    """How many workers share one run."""

    workers: int = 1
    """Number of processes that share the run. Each has a batch of --batch-size of its own."""
    gpus: float | None = None
    """Number of GPUs of all workers together. By default one GPU per worker if there are as many GPUs, else 0."""


@dataclass(frozen=True)
class GroupOptions:
    """Where many runs lie, and how many of them run at once."""

    config: Any
    max_concurrent: int = 0
    """Largest number of runs at once. The default 0 is as many as the machine or the cluster has room for."""
    storage: Path = Path("runs")
    """Folder for all runs: a path, or an address in object storage such as s3://BUCKET/PREFIX."""
    name: str = ""
    """Name of the folder of these runs. Runs with this name are continued."""
    time_budget: float | None = None
    """Seconds after which no run is started and running ones stop; the same command continues them.
    None sets no limit."""
    dry_run: bool = False
    """Print the configuration and the cost of the runs (hours, memory, disk), and start nothing."""

    def __post_init__(self) -> None:
        if self.max_concurrent < 0:
            raise ValueError(f"max-concurrent {self.max_concurrent}: expected 1 or more, or 0 for as many as fit")
        check_time_budget(self.time_budget)

    def at_once(self, slots: int) -> int:
        """How many runs are done at once if there is room for `slots`."""
        return min(slots, self.max_concurrent or slots)
