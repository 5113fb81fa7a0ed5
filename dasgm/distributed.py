"""The workers of one search: their ranks, and averages over all of them.

In a single process these functions do nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dasgm.store.tensors import with_tensors

PATIENCE = timedelta(days=1)  # of work that rank 0 does alone: FID of 50,000 images takes hours on a CPU
_alone = False
_waiting: Any = None  # the process group with that timeout; all other communication keeps torch's


def _group() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this worker computes by itself, as if there were no others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank() -> int:
    """The number of this worker, from 0."""
    return dist.get_rank() if _group() else 0


def world_size() -> int:
    """The number of workers of this search."""
    return dist.get_world_size() if _group() else 1


def ready() -> None:
    """Prepares a long wait. Every worker calls it before one of them does something that takes long."""
    global _waiting
    if _group():
        _waiting = dist.new_group(timeout=PATIENCE, backend="gloo")


def barrier() -> None:
    """Waits for all workers."""
    if _group():
        dist.barrier(_waiting)


@torch.no_grad()
def average(tensors: list[Tensor]) -> None:
    """Replaces each tensor by its mean over the workers, in place, with one message per dtype."""
    if not tensors or world_size() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):  # the same order on every worker
        some = [t for t in tensors if t.dtype == dtype]
        flat = _flatten_dense_tensors(some)
        dist.all_reduce(flat)
        flat /= world_size()
        torch._foreach_copy_(some, _unflatten_dense_tensors(flat, some))


def disagreeing(tensors: list[Tensor]) -> list[int]:
    """The ranks of the workers whose tensors are not, bit for bit, those of the majority.

    [] if all agree, all ranks if there is no majority.
    """
    if world_size() == 1:
        return []
    digest = hashlib.sha256()
    for t in tensors:
        digest.update(t.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    found = gather(digest.hexdigest())
    most = max(map(found.count, found))
    truth = {value for value in found if found.count(value) == most}  # several: there is no majority
    return [number for number, value in enumerate(found) if len(truth) > 1 or value not in truth]


def gather(value: Any) -> list[Any]:
    """The plain values of all workers, by rank, on every worker."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, _waiting)
    return found


def broadcast(value: Any) -> Any:
    """Rank 0's plain value, on every worker.

    Its tensors are moved to the CPU; otherwise all workers would open rank 0's GPU.
    """
    if world_size() == 1:
        return value
    box: list[Any] = [with_tensors(value, Tensor.cpu) if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0, group=_waiting)
    return box[0]


class SynchronisedNorm(TorchFunctionMode):
    """Inside, batch norm in training mode uses the statistics of the batches of all workers, which must be of one size.

    Every worker has to make the same calls inside. Unlike torch's SyncBatchNorm it can be differentiated twice, and it
    affects every module that calls `F.batch_norm`, including a user's own GAN.
    """

    entered: ClassVar[bool] = False

    def __enter__(self) -> SynchronisedNorm:
        SynchronisedNorm.entered = True
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        SynchronisedNorm.entered = False
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm and world_size() > 1:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Mean(torch.autograd.Function):
    """The mean over the workers. The gradient is the mean of the workers' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _Mean.apply(grads[0])


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    mean = _Mean.apply(x.mean(dims))
    centred = x - mean.view(shape)
    var = _Mean.apply(centred.square().mean(dims))
    if running_mean is not None and running_var is not None:
        n = x.numel() // x.shape[1] * world_size()
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (n / (n - 1)), momentum)
    y = centred * (var + eps).rsqrt().view(shape)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)
