"""How many CPUs a process has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def cpus() -> int:
    """CPUs that this process may use. Under taskset, or a container's quota, these are fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, int(quota) // int(period))  # "max" is no number: no quota
    return max(1, allowed)
