"""What averaging gradients over workers adds to the operations of an iteration. The group here sends nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks._count import counted, device
from benchmarks._rows import Options, Row, measured
from benchmarks._subjects import configured, search

WORKERS = 8


def rows(options: Options) -> Iterator[Row]:
    for what, changes in (("without a GAN", {"gan": "none"}), ("full BigGAN", {})):
        config = configured("dasgm-darts", options, max(options.batches), **changes)
        alone = counted(search(config, device()).iterate).total
        with group():
            together = counted(search(config, device()).iterate).total
        yield measured(
            f"averaging over {WORKERS} workers, {what}", 100 * (together - alone) / alone, unit="% more operations",
            goal="5 %", note=f"{together:,} by {alone:,}",
        )  # fmt: skip


@contextmanager
def group() -> Iterator[None]:
    """A group whose collectives return at once, with this process as the first of `WORKERS`."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORKERS)
    try:
        yield
    finally:
        dist.destroy_process_group()
