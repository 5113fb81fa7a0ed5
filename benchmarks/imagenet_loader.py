"""Can the CPUs feed the GPUs? Images/s of decoding and of changing colours, of each loader, and of the network's step.

    python benchmarks/imagenet_loader.py --data-dir PATH [--batch-size N] [--images N]

PATH is ImageNet in either layout, or one folder of photographs per WordNet id (then split in a temporary folder).
"Per core" is per second of CPU time, of all processes that took part, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from imagenet_sample import two_classes
from torch.nn import functional as F

from cluster.connection import connected, cpus
from cluster.room import Workers
from cluster.stream import RayLoader
from dasgm.data import imagenet
from dasgm.data._loader import BatchReader, Loader, Photographs, TorchLoader
from dasgm.data._photographs import normalised
from dasgm.device import device_of, hardware
from dasgm.genotype import KNOWN
from dasgm.networks.network import Network

GPUS = 8
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


def timed(name: str, work: Callable[[], int]) -> float:
    """Prints and returns images per CPU second."""
    wall, before = time.perf_counter(), cpu_seconds()
    images = work()
    wall, cpu = time.perf_counter() - wall, (cpu_seconds() - before).total()  # what ended in between does not count
    print(f"{name:44} {images / cpu:8.1f} images/s a core {images / wall:8.1f} images/s in all", flush=True)
    return images / cpu


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
    """DARTS_V2 in the ImageNet reader's size: 14 cells of 48 channels, auxiliary head; bfloat16 on a GPU."""
    network = Network(KNOWN["DARTS_V2"], 48, 14, 1000, form="imagenet", auxiliary=True)
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=3e-5)
    x = torch.randn(batch_size, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch_size,), device=device)
    begun = 0.0
    for step in range(WARM + steps):
        if step == WARM:
            _wait(device)
            begun = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=device.startswith("cuda")):
            logits, auxiliary = network.forward_with_auxiliary(x)
            loss = F.cross_entropy(logits, y) + 0.4 * F.cross_entropy(auxiliary, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _wait(device)
    return batch_size * steps / (time.perf_counter() - begun)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="Images/s of decoding, of each loader and of the network.")
    parser.add_argument("--data-dir", required=True, help="ImageNet, or one folder of photographs per WordNet id")
    parser.add_argument("--device", default="auto", help="of the network: auto, cpu, cuda or mps")
    parser.add_argument("--batch-size", type=int, help="default: 64 on a GPU, 8 on a CPU")
    parser.add_argument("--images", type=int, default=1600, help="to load for each measurement")
    asked = parser.parse_args()
    device = device_of(asked.device)
    batch_size = asked.batch_size or (8 if device == "cpu" else 64)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(asked.data_dir)
        if place.is_dir() and not (place / "train").is_dir() and not any(place.rglob("*.parquet")):
            asked.data_dir = str(two_classes(place, Path(folder))[0])
        try:
            data = imagenet.Config(skip_unreadable=True).photographs(asked.data_dir)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
        measure(data, device, batch_size, asked.images)


def measure(data: Photographs, device: str, batch_size: int, images: int) -> None:
    print(f"{data.describe()}; {hardware(device)}; {cpus()} CPUs, load {os.getloadavg()[0]:.1f}")
    steps = 3 if device == "cpu" else 30
    network = network_images_per_second(device, batch_size, data.image_size, steps)
    print(f"{f'network, batch {batch_size} on {device}':44} {network:8.1f} images/s", flush=True)
    loading = 64 if len(data.train) >= 256 else 16
    torch.set_num_threads(1)
    made(data, 0, 32)
    timed("decode, random crop", lambda: made(data, 0, images))
    timed("decode, centre crop", lambda: made(data, None, images))
    timed("colours, normalisation (on a CPU)", lambda: finished(data, images))
    cores = {}
    name = f"--loader torch, {cpus()} processes"
    cores[name] = timed(name, lambda: loaded(TorchLoader(data, loading, processes=cpus()), images))
    with connected(Workers(1)):
        loader = RayLoader(data, loading, prefetch=max(4, 3 * cpus()))
        loaded(loader, loading * cpus() * 2)  # its workers import torch
        name = f"--loader ray, {cpus()} CPUs"
        cores[name] = timed(name, lambda: loaded(loader, images))
    for name, rate in cores.items():
        print(f"cores that {GPUS} such devices need, {name}: {GPUS * network / rate:.1f}")


if __name__ == "__main__":
    main()
