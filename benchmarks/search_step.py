"""Seconds of one search iteration, stage by stage: python benchmarks/search_step.py [PRESET] [--data-dir PATH] ...

A stage's time is the difference between a step with it and a step without it (median of the timed iterations).
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch

from dasgm.bilevel import replay
from dasgm.cli.settings import choose
from dasgm.config import SearchConfig, override
from dasgm.device import device_of, hardware
from dasgm.search import Search

TIMED = 7
STEPS: list[tuple[str, dict[str, Any], bool]] = [
    ("Eq. 3, classifier weights", {"gan": "none"}, False),
    ("Eq. 4 and 5, GAN weights", {"order": "first", "search_discriminator": False}, False),
    ("Eq. 6, architecture, first order", {"order": "first", "search_discriminator": False}, True),
    ("Eq. 6, second-order term", {"order": "second", "search_discriminator": False}, True),
    ("Eq. 7, discriminator architecture", {"order": "second", "search_discriminator": True}, True),
]


def seconds(config: SearchConfig, data: Any, architecture: bool) -> float:
    """Median of one iteration."""
    search = Search(config, data)
    search.schedule()
    with replay(0):
        x1 = data.to_classifier(data.raw(data.J1[: config.batch_size]))
        x2 = data.raw(data.J2[: config.batch_size])
    y1, y2 = data.labels[data.J1[: config.batch_size]], data.labels[data.J2[: config.batch_size]]
    found = []
    for _ in range(TIMED + 2):
        begun = time.perf_counter()
        search.step(x1, y1, x2, y2, architecture)
        if x1.is_cuda:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - begun)
    return statistics.median(found[2:])


def main() -> None:
    chosen = choose(sys.argv[1:])
    config = override(chosen.config, {} if chosen.config.gan else {"gan": "biggan"})
    device = device_of(config.device)
    data = config.data.load(config.data_dir, device)
    method = config.method
    print(
        f"{chosen.preset} on {data.name} {data.image_size}x{data.image_size}, batch {config.batch_size}, "
        f"{method.cells} cells of {method.channels} channels; {hardware(device)}, {torch.get_num_threads()} thread(s)"
    )
    before = 0.0
    for name, changes, architecture in STEPS:
        whole = seconds(override(config, changes), data, architecture)
        print(f"{name:36} {max(0.0, whole - before):8.3f} s   in all {whole:.3f} s", flush=True)
        before = whole


if __name__ == "__main__":
    main()
