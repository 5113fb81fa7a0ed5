"""ImageNet through Ray Data, on a real private Ray: the DataLoader's tensors, bounded memory, one line of error."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TOOLS
from patience import rest
from photographs import both_parts, digit_pictures, write_folder, write_shards
from streamed import Told, digests

from cluster import connection, job
from cluster.job import leave_for_data
from cluster.room import Workers
from cluster.stream import RayLoader
from dasgm.data import imagenet
from dasgm.data._listing import Listing
from dasgm.data._loader import BatchReader, Loader, TorchLoader


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("PYTHONPATH", str(TOOLS))
        patch.setattr(connection, "cpus", lambda: 2)
        other = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        with connection.connected(Workers(1)):
            import ray

            yield ray
        assert other.poll() is None, "a process that is not Ray's ended with it"
        other.communicate()


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    parts = both_parts()
    folder, shards = tmp_path_factory.mktemp("folder"), tmp_path_factory.mktemp("shards")
    return [str(write_folder(folder, **parts)), str(write_shards(shards, 2, 4, **parts))]


def same(one: Loader, other: Loader, epoch: int) -> bool:
    pairs = [*zip(one.training(epoch), other.training(epoch), strict=True)]
    pairs += [*zip(one.testing(), other.testing(), strict=True)]
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


def test_workers_that_hold_the_last_cpu_are_refused() -> None:
    leave_for_data(Workers(2, cpus=0.5), 2)
    leave_for_data(Workers(8, gpus=1.0, cpus=1.0), 96)
    leave_for_data(Workers(10, cpus=0.1), 2)
    for workers, cpus in ((Workers(2), 2), (Workers(1), 1), (Workers(8, cpus=12.0), 96), (Workers(3, cpus=0.5), 2)):
        with pytest.raises(ValueError, match="decode pictures") as error:
            leave_for_data(workers, cpus)
        assert len(str(error.value).splitlines()) == 1


def test_the_dataloaders_tensors(ray: Any, roots: list[str]) -> None:
    for root, rank in zip(roots, (0, 1), strict=True):
        data = imagenet.Config(image_size=32).photographs(root)
        assert same(RayLoader(data, 4, 5, rank, 2), TorchLoader(data, 4, 5, rank, 2), 1)
    assert not ray.data.DataContext.get_current().execution_options.preserve_order  # others' settings are theirs


def test_a_listing_is_in_the_object_store_once_however_many_epochs(
    ray: Any, roots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, kept = ray.put, list[Any]()
    monkeypatch.setattr(ray, "put", lambda value, **more: kept.append(value) or put(value, **more))
    data = imagenet.Config(image_size=32).photographs(roots[0])
    loader = RayLoader(data, 11)
    for epoch in range(2):
        assert len([*loader.training(epoch), *loader.testing()]) == 3
    large = [value for value in kept if isinstance(value, Listing | BatchReader)]
    assert len(large) == 2 and large[0] is data.train and large[1] is data.test


@pytest.mark.parametrize("prefetch", [2, 5])
def test_prefetch_bounds_what_is_made_ahead(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    """However many batches there are, and however slowly they are taken."""
    monkeypatch.setattr("dasgm.data._loader.BatchReader", Told)
    write_folder(tmp_path, train=digit_pictures((70, 70, 70)), val=digit_pictures((1, 1, 1)))
    data = imagenet.Config(image_size=64).photographs(str(tmp_path))
    batches = RayLoader(data, 4, prefetch=prefetch).training(0)
    ahead = []
    for number in range(1, 9):
        next(batches)
        rest(0.2)
        ahead.append(len((tmp_path / "made").read_text().splitlines()) - number)
    assert 1 <= max(ahead) <= prefetch, ahead
    batches.close()
    rest(1)  # what is being made then is still finished
    made = (tmp_path / "made").read_text()
    rest(0.5)
    assert (tmp_path / "made").read_text() == made and len(made.splitlines()) <= 8 + prefetch  # broken off


def test_unreadable_picture_is_one_line_or_skipped(ray: Any, tmp_path: Path) -> None:
    write_folder(tmp_path, **both_parts())
    broken = sorted((tmp_path / "val").rglob("*.JPEG"))[5]
    broken.write_bytes(broken.read_bytes()[:300])
    data = imagenet.Config(image_size=32).photographs(str(tmp_path))
    with pytest.raises(ValueError, match=rf"{broken.name} \(.*[Tt]runcated.*\) cannot be read") as error:
        list(RayLoader(data, 4).testing())
    assert len(str(error.value).splitlines()) == 1
    skipping = RayLoader(imagenet.Config(image_size=32, skip_unreadable=True).photographs(str(tmp_path)), 4)
    assert sum(int(mask.sum()) for _, _, mask in skipping.testing()) == 10
    assert len(skipping.unreadable) == 1 and broken.name in next(iter(skipping.unreadable))


def test_no_prefetch_is_refused(roots: list[str]) -> None:
    with pytest.raises(ValueError, match="prefetch 1"):
        RayLoader(imagenet.Config().photographs(roots[0]), 4, prefetch=1)


@pytest.mark.slow
def test_two_train_workers_of_half_a_cpu(ray: Any, tmp_path: Path, roots: list[str]) -> None:
    workers = Workers(2, cpus=0.5)
    leave_for_data(workers, 2)
    job.launch(digests, {"root": roots[0], "folder": str(tmp_path)}, workers, tmp_path / "scratch")
    data = imagenet.Config(image_size=32).photographs(roots[0])
    for rank in range(2):
        loader = TorchLoader(data, 3, 5, rank, 2)
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["training"] == [[x.double().sum().item(), y.tolist()] for x, y in loader.training(2)]
        assert [line[1:] for line in found["testing"]] == [[y.tolist(), m.tolist()] for _, y, m in loader.testing()]
