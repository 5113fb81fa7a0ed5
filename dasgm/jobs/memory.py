"""Out of memory, said in one line: what was asked, and what fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dasgm.bilevel import replay
from dasgm.config import GanConfig, SearchConfig, override
from dasgm.device import ensure_room, free_memory, is_out_of_memory
from dasgm.options import option
from dasgm.search import Search

LARGE = 10**8  # weights: a GAN with fewer fits on any machine


def ensure_gan(config: GanConfig, classes: int, size: int, searched: bool, device: str) -> None:
    """ValueError where a GAN cannot be built for these images, or takes more than the device's memory."""
    asked = (classes, size, searched)
    with replay("never drawn from"), suppress(_Large), _Modest():
        config.build(*asked)
        return
    try:
        with replay("never drawn from"), torch.device("meta"):
            built = config.build(*asked)
    except (NotImplementedError, RuntimeError):  # a user's own, which looks at its numbers
        return
    modules = (built.generator, built.discriminator)
    ensure_room("a GAN", sum(p.numel() for module in modules for p in module.parameters()), device)


class _Large(Exception):
    """More than LARGE weights."""


class _Modest(TorchFunctionMode):
    """Inside, no more than LARGE weights are made. The meta device takes no memory for any number, but drawing them
    there imports torch's compiler, two seconds of every start."""

    made = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn):
            size = args[0] if args else kwargs["size"]
            self.made += math.prod(size if isinstance(size, Sequence) else args)
            if self.made > LARGE:
                raise _Large
        return func(*args, **kwargs)


def advice(config: SearchConfig, data: Any) -> str:
    """Names the batch, cells and channels that did not fit, and the first smaller ones that do.

    Takes a real iteration of each stage, with half the batch, a quarter, ..., then half the channels; on one device.
    None is recorded as a CUDA graph.
    """
    graph, config = config.cuda_graph != "off", replace(config, cuda_graph="off")
    asked = f"batch {config.batch_size}, {config.method.cells} cells and {config.method.channels} channels do not fit"
    if _fits(config, data):
        if graph:
            return _with_graph("search")
        return "out of memory beside the search's own step (pictures, judge, warm-up or proxy); free the device"
    for smaller in _smaller(config):
        free_memory()
        if _fits(smaller, data):
            method = smaller.method
            return (
                f"out of memory: {asked}; batch {smaller.batch_size}, {method.cells} cells and {method.channels} "
                f"channels do: {option('batch_size')} {smaller.batch_size} {option('method.channels')} "
                f"{method.channels}"
            )
    return f"out of memory: {asked}, nor does anything smaller; free the device or choose another"


def _smaller(config: SearchConfig) -> Any:
    batch = config.batch_size // 2
    while batch >= 2:
        yield replace(config, batch_size=batch)
        batch //= 2
    least = math.lcm(2, config.stages[0].partial)  # a supernet's width is a multiple of it
    channels = config.method.channels // (2 * least) * least
    while channels:
        yield override(replace(config, batch_size=2), {"method.channels": channels})
        channels = channels // (2 * least) * least


def _fits(config: SearchConfig, data: Any) -> bool:
    def iterate() -> None:
        search = Search(config, data)
        for stage in config.stages:
            search.enter(stage)
            search.left = 1  # its last epoch has architecture steps, and all that grows over the epochs
            search.schedule()
            search.iterate()

    return _succeeds(iterate)


def batch_advice(batch: int, network: str, step: Callable[[int], None], graph: bool) -> str:
    """Names the batch that did not fit a training, and the first half, quarter, ... of it whose `step` does.

    Args:
        step: takes a step with a batch, which is not recorded as a CUDA graph.
        graph: whether the training's own was to be.
    """
    free_memory()
    if _succeeds(lambda: step(batch)):
        if graph:
            return _with_graph("training")
        return "out of memory beside the training's own step; free the device"
    smaller = batch // 2
    while smaller >= 2:
        free_memory()
        if _succeeds(partial(step, smaller)):
            fits = f"batch {smaller} does: {option('batch_size')} {smaller}"
            return f"out of memory: batch {batch} does not fit {network}; {fits}"
        smaller //= 2
    return f"out of memory: {network} do not fit with any batch; free the device or choose a smaller network"


def _with_graph(what: str) -> str:
    return f"out of memory with a CUDA graph; without one the {what}'s own step fits: {option('cuda_graph')} off"


def _succeeds(step: Callable[[], None]) -> bool:
    try:
        step()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
