"""Processes for tests that work together."""

from __future__ import annotations

import torch
import torch.distributed as dist


def join(rank: int, folder: str, workers: int) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
