"""A small ImageNet for tests, and a loader that says what it was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import Pictures, both_parts, write_folder

from dasgm.data import imagenet
from dasgm.data._loader import Batch, BatchReader, Loader, Photographs


@pytest.fixture(scope="module")
def parts() -> dict[str, Pictures]:
    return both_parts()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Pictures]) -> Path:
    return write_folder(tmp_path_factory.mktemp("folder"), **parts)


@pytest.fixture(scope="module")
def data(root: Path) -> Photographs:
    return imagenet.Config(image_size=32).photographs(str(root))


class Recorder(Loader):
    """Keeps the indices that a batch would be made of."""

    def _stream(self, reader: BatchReader, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        for indices in batches:
            n = len(indices)
            yield Batch(torch.zeros(n, 3, 2, 2), torch.from_numpy(indices), torch.zeros(n, 8), [])

    def indices(self, epoch: int) -> list[list[int]]:
        return [y.tolist() for _, y in self.training(epoch)]
