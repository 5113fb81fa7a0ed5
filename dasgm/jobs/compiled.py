"""`--compile`: the stems and cells of a found network by torch.compile."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dasgm.jobs.training import Training


def ensure_compiler(device: str) -> None:
    """ValueError where torch.compile lacks what it needs: a C++ compiler on a CPU, Triton on a GPU."""
    if device == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except (InvalidCxxCompiler, OSError, RuntimeError):
            raise ValueError("compile: torch.compile finds no C++ compiler; install g++, or leave it out") from None
    elif not device.startswith("cuda"):
        raise ValueError(f"compile: expected a CPU or a GPU with CUDA, the device is {device}; leave it out")
    elif importlib.util.find_spec("triton") is None:
        raise ValueError("compile: torch.compile needs Triton on a GPU: pip install triton, or leave it out")


def compile_network(training: Training, image_size: int, say: Callable[[str], None]) -> None:
    """Compiles the training form of the network and says how long that took. Weights and statistics stay.

    Drop-path is drawn outside of what is compiled, so the numbers are those of the plain network up to rounding.
    """
    begun, config = time.monotonic(), training.config
    network: Any = training.network
    plain, compiled = network.body, torch.compile(network.body)

    def body(x: Tensor, factors: Tensor | None) -> Any:
        if not network.training:
            return plain(x, factors)
        if factors is None:  # one program for all epochs
            factors = x.new_ones(network.paths, len(x), 1, 1, 1)
        return compiled(x, factors)

    network.body = body
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    x = torch.zeros(config.batch_size, 3, image_size, image_size, device=training.device)
    y = torch.zeros(config.batch_size, dtype=torch.int64, device=training.device)
    training.gradient(x.to(memory_format=training.layout), y)
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
    say(f"compiled the network in {time.monotonic() - begun:.0f} s, which do not count as training time")
