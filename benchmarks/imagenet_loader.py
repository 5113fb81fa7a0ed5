"""Can the CPUs feed the GPUs? Images/s of decoding and of changing colours, of each loader, and of the network's step.

`--data-dir` is ImageNet in either layout, or one folder of photographs per WordNet id (then split in a temporary
folder). "Per core" is per second of CPU time, of all processes that took part, so that other work on the machine does
not count. Ray's loader is measured where Ray is installed.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks._rows import Options, Row, measured, missing
from dasgm.data import imagenet
from dasgm.data._loader import BatchReader, Loader, Photographs, TorchLoader
from dasgm.data._photographs import normalised
from dasgm.device import device_of
from dasgm.jobs.training import Training
from dasgm.recipes import recipe
from dasgm.spaces.darts import KNOWN

GPUS = 8
IMAGES = 1600  # of each measurement
LOADERS = {"--loader torch": "200", "--loader ray": "120"}  # images/s a core that were to be reached
WARM = 2  # batches, or steps, that are not timed


def cpu_seconds() -> Counter[tuple[int, float]]:
    """Of each process from this one down; of those that this one has seen end, under (0, 0)."""
    me, found = psutil.Process(), Counter[tuple[int, float]]()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid, process.create_time()] = times.user + times.system
    times = me.cpu_times()
    found[0, 0.0] = times.children_user + times.children_system
    return found


def timed(what: str, work: Callable[[], int], goal: str = "") -> Row:
    """Images per second of CPU time, all processes together."""
    wall, before = time.perf_counter(), cpu_seconds()
    images = work()
    wall, cpu = time.perf_counter() - wall, (cpu_seconds() - before).total()  # what ended in between does not count
    return measured(what, images / cpu, unit="images/s a core", goal=goal, note=f"{images / wall:.1f} images/s in all")


def made(data: Photographs, epoch: int | None, images: int) -> int:
    """Decoding and cropping alone."""
    reader = BatchReader(data.train, data.image_size, data.skip_unreadable, 0, epoch)
    indices = data.train.permuted(0, 0)[:images]
    for some in np.array_split(indices, max(1, len(indices) // 16)):
        reader(some)
    return len(indices)


def finished(data: Photographs, images: int) -> int:
    """Changing colours and normalising alone."""
    batch = BatchReader(data.train, data.image_size, data.skip_unreadable, 0, 0)(data.train.permuted(0, 0)[:16])
    for _ in range(images // len(batch.pixels)):
        normalised(batch.pixels, "cpu", batch.draws)
    return images // len(batch.pixels) * len(batch.pixels)


def loaded(loader: Loader, images: int) -> int:
    """A loader's training batches, whole epochs until there are enough images."""
    epochs = math.ceil(images / (loader.iterations * loader.batch_size))
    return sum(len(y) for epoch in range(epochs) for _, y in loader.training(epoch))


def network_images_per_second(device: str, batch_size: int, size: int, steps: int) -> float:
    """The training of DARTS_V2 by the ImageNet recipe: 14 cells of 48 channels; bfloat16 on a GPU that has it."""
    training = Training(KNOWN["DARTS_V2"], replace(recipe("imagenet").config, batch_size=batch_size), 1000, device, 0)
    training.schedule(0)
    x = torch.randn(batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch_size,), device=device)
    begun = 0.0
    for step in range(WARM + steps):
        if step == WARM:
            _wait(device)
            begun = time.perf_counter()
        training.step(x, y, 0, step)
    _wait(device)
    return batch_size * steps / (time.perf_counter() - begun)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def rows(options: Options) -> Iterator[Row]:
    if options.data_dir is None:
        for name, goal in LOADERS.items():
            yield missing(name, "give --data-dir with photographs", goal)
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(options.data_dir)
        if place.is_dir() and not (place / "train").is_dir() and not any(place.rglob("*.parquet")):
            from benchmarks.imagenet_sample import two_classes

            place = two_classes(place, Path(folder))[0]
        yield from measure(imagenet.Config(skip_unreadable=True).photographs(str(place)), device_of("auto"))


def measure(data: Photographs, device: str) -> Iterator[Row]:
    batch_size, steps = (8, 3) if device == "cpu" else (64, 30)
    network = network_images_per_second(device, batch_size, data.image_size, steps)
    yield measured(
        f"the network's step, batch {batch_size} on {device}", network, unit="images/s", note=data.describe()
    )
    torch.set_num_threads(1)
    made(data, 0, 32)
    yield timed("decode, random crop", lambda: made(data, 0, IMAGES))
    yield timed("decode, centre crop", lambda: made(data, None, IMAGES))
    yield timed("colours, normalisation (on a CPU)", lambda: finished(data, IMAGES))
    found = dict(zip(LOADERS, loaders(data), strict=True))
    yield from found.values()
    for name, row in found.items():
        if row.median:
            yield measured(f"CPUs that {GPUS} such devices need, {name}", GPUS * network / row.median)


def loaders(data: Photographs) -> Iterator[Row]:
    """Of `LOADERS`, one after the other."""
    loading, processes = (64 if len(data.train) >= 256 else 16), len(os.sched_getaffinity(0))
    (torchs, torch_goal), (rays, ray_goal) = LOADERS.items()
    yield timed(torchs, lambda: loaded(TorchLoader(data, loading, processes=processes), IMAGES), torch_goal)
    if find_spec("ray") is None:
        yield missing(rays, "Ray is not installed", ray_goal)
        return
    from cluster.connection import connected
    from cluster.room import Workers
    from cluster.stream import RayLoader

    with connected(Workers(1)):
        loader = RayLoader(data, loading, prefetch=max(4, 3 * processes))
        loaded(loader, loading * processes * 2)  # its workers import torch
        yield timed(rays, lambda: loaded(loader, IMAGES), ray_goal)
