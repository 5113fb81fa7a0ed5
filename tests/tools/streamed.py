"""What tests hand to Ray's processes, which import it from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from cluster.stream import RayLoader
from dasgm.data import imagenet
from dasgm.data._loader import BatchReader, Photographs


class Told(BatchReader):
    """Leaves a note of every batch that is made."""

    def __call__(self, indices: np.ndarray) -> Any:
        with open(Path(self.listing.source.store.root) / "made", "a") as file:
            file.write("made\n")
        return super().__call__(indices)


def digests(payload: dict[str, Any]) -> None:
    """A Train worker: sums of its batches, to a file."""
    from ray.train import get_context

    rank, workers = get_context().get_world_rank(), get_context().get_world_size()
    data: Photographs = imagenet.Config(image_size=32).photographs(payload["root"])
    loader = RayLoader(data, 3, 5, rank, workers)
    found = {
        "training": [[x.double().sum().item(), y.tolist()] for x, y in loader.training(2)],
        "testing": [[x.double().sum().item(), y.tolist(), m.tolist()] for x, y, m in loader.testing()],
    }
    Path(payload["folder"], f"{rank}.json").write_text(json.dumps(found))
