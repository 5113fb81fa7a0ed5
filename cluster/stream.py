"""ImageNet through Ray Data: photographs are decoded and augmented on all CPUs of the cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dasgm.data._listing import Listing
from dasgm.data._loader import Batch, BatchReader, Loader, Photographs
from dasgm.device import device_of
from dasgm.distributed import rank, world_size
from dasgm.recipes import EvaluateConfig


class RayLoader(Loader):
    """The batches of a worker. Each is made by a task of one CPU, on any machine of the cluster.

    At most `prefetch` batches are being made or wait, so memory does not grow with the data: a batch has
    batch_size x 3 x size^2 bytes in Ray's object store. Ray Data counts more than one block per running task, so about
    a third of `prefetch` run at once. Three batches for each CPU of this worker's share use all of them.
    """

    def __init__(
        self,
        data: Photographs,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        workers: int = 1,
        device: str = "cpu",
        prefetch: int = 12,
    ) -> None:
        super().__init__(data, batch_size, seed, rank, workers, device)
        if prefetch < 2:
            raise ValueError(f"prefetch {prefetch}: choose at least 2 batches")
        self.prefetch = prefetch
        self._listings: dict[str, Any] = {}

    def _kept(self, listing: Listing) -> Any:
        """A listing in Ray's object store, put there once: Ray frees what a pipeline used only after a while."""
        import ray

        if listing.digest not in self._listings:
            self._listings[listing.digest] = ray.put(listing)
        return self._listings[listing.digest]

    def _stream(self, reader: BatchReader, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        import pyarrow as pa
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # the import has reset the level
        # one block, and so one task, per batch
        rows = ray.data.from_arrow([pa.table({"index": batch}) for batch in batches])
        options = rows.context.execution_options
        options.preserve_order = True
        options.resource_limits = ray.data.ExecutionResources(
            object_store_memory=self.prefetch * self.batch_size * 3 * reader.size**2
        )
        rows.context.enable_progress_bars = rows.context.print_on_execution_start = False
        made = rows.map_batches(
            _Make(replace(reader, listing=self._kept(reader.listing))),
            batch_size=None,
            batch_format="numpy",
            num_cpus=1,
            concurrency=min(self.prefetch, len(batches)),
        )
        for batch in made.iter_batches(batch_size=self.batch_size, batch_format="numpy", prefetch_batches=0):
            pixels, labels, draws = (self._tensor(batch[name]) for name in ("pixels", "label", "draws"))
            yield Batch(pixels, labels, draws, batch["wrong"].tolist())

    def _tensor(self, array: np.ndarray) -> Tensor:
        """A copy, since Ray's arrays are read-only; for a GPU in pinned memory, so that nobody waits for it."""
        kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
        copy = torch.empty(array.shape, dtype=kind, pin_memory=self.device.startswith("cuda"))
        np.copyto(copy.numpy(), array)
        return copy


def streamed(prefetch: int) -> Callable[[Photographs, EvaluateConfig], RayLoader]:
    """A function that makes the batches of a worker of Ray Train."""

    def batches(data: Photographs, config: EvaluateConfig) -> RayLoader:
        device = device_of(config.device)
        return RayLoader(data, config.batch_size, config.seed, rank(), world_size(), device, prefetch)

    return batches


class _Make:
    """What a task does. It has a reference to the listing, which may be large: Ray keeps one copy per machine."""

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import ray

        made = replace(self.reader, listing=ray.get(self.reader.listing))(block["index"])
        columns = {"pixels": made.pixels, "label": made.labels, "draws": made.draws}
        return {name: column.numpy() for name, column in columns.items()} | {
            "wrong": np.array(made.wrong, dtype=object)
        }
