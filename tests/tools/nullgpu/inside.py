"""For scripts that run over the null GPU: counts, synchronisations by line, capture, faults, small searches.

A script prints what it found as JSON, in its last line. A change to a step needs `count` and `captured`:

    from inside import captured, count, search
    print(count(search(gan="biggan").iterate))  # launches, copies, synchronisations and the lines that made them
    print(count(search(gan="biggan", cuda_graph="on").iterate, warm=2))  # one graph; an error says why there is none
    print(captured(lambda: x.add_(1)))  # '' where a CUDA graph holds it, else the first obstacle and its line

`captured` is for what draws nothing: an iteration's draws are made before it (`dasgm.bilevel.Draws`).
"""

from __future__ import annotations

import collections
import ctypes
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

warnings.filterwarnings("ignore", message=".*There is a performance drop.*")

ROOT = Path(__file__).parents[3]
OURS = tuple(str(ROOT / package) + os.sep for package in ("dasgm", "cluster", "tuning"))
COUNTERS = (
    *("launch", "blas", "dnn", "nccl", "graph", "memset", "h2d", "pageable", "d2h", "d2d", "sync", "malloc"),
    *("bytes_h2d", "bytes_d2h"),
)
FAULTS = ("", "launch", "blas", "dnn", "nccl", "pinned")
WATCHER = ctypes.CFUNCTYPE(None, ctypes.c_int)

library = ctypes.CDLL(os.environ["LD_PRELOAD"].split(":")[0])


def counters() -> dict[str, int]:
    """What happened so far. `pageable`: copies to or from memory that is not page-locked, for which the host waits."""
    values = (ctypes.c_uint64 * len(COUNTERS))()
    library.nullgpu_counters(values)
    return dict(zip(COUNTERS, values, strict=True))


def count(step: Callable[[], Any], times: int = 1, warm: int = 1) -> dict[str, Any]:
    """What one call of `step` does, on average over `times` calls after `warm` that are not counted.

    Returns:
        Each of COUNTERS. `launches`: all kernels. `operations`: with copies and the rest. `lines`: the lines of our
        code at which the host waits for the device, innermost first, with how often, such as
        'dasgm/data/_images.py:83 Data.raw < dasgm/search.py:181 Search.iterate'.
    """
    for _ in range(warm):
        step()
    torch.cuda.synchronize()
    with watched() as lines:
        before = counters()
        for _ in range(times):
            step()
        after = counters()
    found: dict[str, Any] = {name: (after[name] - before[name]) / times for name in COUNTERS}
    found["launches"] = found["launch"] + found["blas"] + found["dnn"]
    found["operations"] = found["launches"] + sum(found[name] for name in ("memset", "h2d", "d2h", "d2d", "nccl"))
    return found | {"lines": {line: n / times for line, n in lines.most_common()}}


@contextmanager
def watched() -> Iterator[collections.Counter[str]]:
    """Inside, counts the lines of our code at which the host waits for the device."""
    lines: collections.Counter[str] = collections.Counter()

    @WATCHER
    def waits(kind: int) -> None:
        lines[_line(sys._getframe(1))] += 1

    library.nullgpu_watch(waits)
    try:
        yield lines
    finally:
        library.nullgpu_watch(ctypes.cast(None, WATCHER))


def _line(frame: FrameType | None) -> str:
    found = []
    while frame and len(found) < 3:
        if frame.f_code.co_filename.startswith(OURS):
            path = os.path.relpath(frame.f_code.co_filename, ROOT)
            found.append(f"{path}:{frame.f_lineno} {frame.f_code.co_qualname}")
        frame = frame.f_back
    return " < ".join(found) or "not in our code (autograd's thread, or the script)"


def captured(step: Callable[[], Any], warm: int = 2) -> str:
    """'' where a CUDA graph holds `step`, else why not, and the line of our code.

    As torch asks for, `step` runs on a side stream before.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except Exception as error:
        cause = error.__context__ or error  # the end of the capture fails as well
        frames = traceback.extract_tb(cause.__traceback__)
        lines = [f"{os.path.relpath(f.filename, ROOT)}:{f.lineno}" for f in frames if f.filename.startswith(OURS)]
        return f"{' < '.join(lines[:-4:-1]) or 'not in our code'}: {str(cause).splitlines()[0]}"
    graph.replay()
    return ""


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Inside, one of FAULTS is out of memory at each call."""
    library.nullgpu_fail(FAULTS.index(what))
    try:
        yield
    finally:
        library.nullgpu_fail(0)


@contextmanager
def memory(gib: float) -> Iterator[None]:
    """Inside, the devices have so much memory together besides what is in use."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    library.nullgpu_memory(ctypes.c_uint64(total - free + int(gib * 2**30)))
    try:
        yield
    finally:
        library.nullgpu_memory(ctypes.c_uint64(total))


@contextmanager
def sizes() -> Iterator[None]:
    """Inside, 4 bytes that come back are the integer 2, not 1.0: for operations that ask the device for a size."""
    library.nullgpu_whole(1)
    try:
        yield
    finally:
        library.nullgpu_whole(0)


def sizes_where_asked() -> None:
    """From now on what selects images on the device, and so asks it for a size, is told sizes."""
    from dasgm.jobs import inspection
    from dasgm.measures import judge

    for module, name in ((judge, "within_class_distance"), (inspection, "nearest")):
        setattr(module, name, sizes()(getattr(module, name)))


# ------------------------------------------------------------------------------------------------------ small searches

SMALL = {"batch_size": 8, "method.channels": 8}
SMALL_GAN = {"gan.channels": 8}
SMALL_STYLEGAN = {"gan.augment_start": 0.3, "gan.z_dim": 32, "gan.w_dim": 32}


def data(n: int = 600, device: str = "cuda", **changes: Any) -> Any:
    """A CIFAR-10 of noise on the device."""
    from dasgm.data import cifar10
    from dasgm.data._images import Data

    draws = torch.Generator().manual_seed(0)

    def pictures(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randint(0, 256, (n, 3, 32, 32), generator=draws, dtype=torch.uint8), torch.arange(n) % 10

    config = cifar10.Config(**{"image_size": 32, "cutout": 16} | changes)
    classes, half = [str(i) for i in range(10)], (0.5, 0.5, 0.5)
    return Data("cifar10", classes, pictures(n), pictures(64), config, mean=half, std=half, device=device)


def search(images: Any = None, preset: str = "dasgm-darts", full: bool = False, **changes: Any) -> Any:
    """A search on the device, at its second stage or later where P-DARTS has dropout.

    Args:
        images: see `data`.
        full: as large as the preset has it; else small.
        changes: of the preset, with `__` for a dot: gan="none", method__cells=5.
    """
    from dasgm.config import override
    from dasgm.presets import preset as named
    from dasgm.search import Search

    asked = {name.replace("__", "."): value for name, value in changes.items()}
    if not full:
        gan = {} if asked.get("gan") == "none" else SMALL_GAN
        cells = {"method.cells": named(preset).config.space.smallest}
        asked = SMALL | cells | gan | (SMALL_STYLEGAN if asked.get("gan") == "stylegan2ada" else {}) | asked
    config = override(named(preset).config, asked)
    made = Search(config, data() if images is None else images)
    made.left = max(1, made.stage.epochs - made.stage.arch_start_epoch)
    made.schedule()
    return made
