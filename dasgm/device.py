"""The device that computes: which one a name stands for, what it is called, and whether its memory suffices."""

from __future__ import annotations

import errno
import gc
import os
import platform

import torch

from dasgm.options import option

SIGNS = (
    *("out of memory", "not enough memory", "an't allocate memory", "annot allocate memory", "bad_alloc"),
    *("_ALLOC_FAILED", "_ALLOCATION_FAILED"),  # CUBLAS_STATUS_, CUDNN_STATUS_, CUFFT_, ...
    *("could not create a primitive", "could not create a memory"),
)


def device_of(name: str) -> str:
    """The device that `name` stands for; `auto` is a GPU if PyTorch finds one.

    `cuda:N` becomes torch's current device, so that calls which name no GPU use this one.

    Raises:
        ValueError: there is no such device.
    """
    kind, _, index = name.partition(":")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(kind, False):
        raise ValueError(f"device {name!r:.60}: PyTorch finds no such device here; use {option('device')} cpu")
    if kind == "cuda" and index:
        if int(index) >= (count := torch.cuda.device_count()):
            found = "one GPU here, cuda:0" if count == 1 else f"{count} GPUs here, cuda:0 to cuda:{count - 1}"
            raise ValueError(f"device {name!r:.60}: PyTorch finds {found}")
        torch.cuda.set_device(int(index))
    return name


def ensure_bfloat16(device: str) -> None:
    """ValueError where a GPU does not compute in bfloat16. PyTorch would emulate some operations and lack others."""
    if device.startswith("cuda") and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"precision bfloat16: {hardware(device)} does not compute in it; choose "
            f"{option('precision')} auto or float32"
        )


def free_memory() -> None:
    """Give back what is kept of what is over. A search refers to itself, so that Python is late to drop it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def forget_peak() -> None:
    """Begin anew to measure the peak memory of the GPU, which keeps nothing of what is over."""
    free_memory()
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def hardware(device: str) -> str:
    """The name of the device, for the record of what a run cost."""
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    try:
        names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    except OSError:
        names = []
    return f"{device} ({names[0] if names else platform.processor() or platform.machine()})"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the GPU or of the machine is full.

    PyTorch's allocators, CUDA, cuBLAS, cuDNN, cuFFT, NCCL and the operating system each word it differently. oneDNN
    says only that it could not create what it needs.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in SIGNS)


def ensure_room(network: str, parameters: int, device: str) -> None:
    """Raises ValueError where weights, gradients and one moment of each do not fit into the device's memory.

    Without this check the operating system might end another process to make room.
    """
    if device.startswith("cuda"):
        there = torch.cuda.get_device_properties(device).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 12 * parameters > there:
        raise ValueError(
            f"{network} of {parameters:,} weights needs at least {12 * parameters / 2**30:,.0f} GiB of memory, the "
            f"device has {there / 2**30:,.0f}: choose fewer channels or cells"
        )
