"""The workers of one search: who am I, and averages over all. Does nothing in a single process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def _group() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this worker computes by itself what does not depend on how many there are."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if _group() else 0


def world_size() -> int:
    """How many workers run this search."""
    return dist.get_world_size() if _group() else 1


def barrier() -> None:
    """Wait for every worker."""
    if _group():
        dist.barrier()


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the workers, in place: one message per dtype."""
    if not tensors or world_size() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):  # the same order on every worker
        some = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in some])
        dist.all_reduce(flat)
        flat /= world_size()
        for t, part in zip(some, flat.split([t.numel() for t in some]), strict=True):
            t.copy_(part.view_as(t))


def disagreeing(tensors: list[Tensor]) -> list[int]:
    """The workers that do not hold bit for bit what rank 0 holds; [] where all agree."""
    if world_size() == 1:
        return []
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(t.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    found = gather(digest.hexdigest())
    return [number for number, value in enumerate(found) if value != found[0]]


def gather(value: Any) -> list[Any]:
    """Every worker's plain value, by its number, on every worker."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def broadcast(value: Any) -> Any:
    """Rank 0's plain value, on every worker; its tensors on the CPU, or all workers would open rank 0's GPU."""
    if world_size() == 1:
        return value
    box: list[Any] = [_on_cpu(value) if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(part) for key, part in value.items()}
    return type(value)(map(_on_cpu, value)) if isinstance(value, list | tuple) else value
