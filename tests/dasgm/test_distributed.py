"""Two and four real processes against one (docs/explanation/algorithm.md, "Several workers"): all gradients."""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from groups import join
from patience import stretched
from photographs import digit_pictures, write_folder
from processes import spawn
from smooth import (
    BATCH,
    SIZE,
    Batch,
    batches,
    brute_force,
    make,
    relative,
    spy,
)
from torch import Tensor, nn
from torch.nn import functional as F
from toys import CLASSES

from dasgm.bilevel import Player, replay, seed_of
from dasgm.config import mathematics, override
from dasgm.data import folder as data_folder
from dasgm.distributed import SynchronisedNorm, average, disagreeing, ready
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks, WorkerMachineError, of_first
from dasgm.presets import preset
from dasgm.search import Search

pytestmark = pytest.mark.usefixtures("float64")

STEPS = 3
Gradients = dict[str, dict[str, Tensor]]


def watched(search: Search) -> dict[str, list[dict[str, Tensor]]]:
    return {name: spy(player) for name, player in search.players.items()}


def own_batches(rank: int, folder: str, workers: int, radius: float | None) -> None:
    """(a): each worker's own batches, noise and batch statistics."""
    join(rank, folder, workers)
    search = make(hypergradient="exact")
    search.radius_W = search.radius_G = radius
    handed = watched(search)
    for i in range(STEPS):
        batch = batches(search)
        if rank == 0 and i == STEPS - 1:
            before = {name: player.state_dict() for name, player in search.players.items()}
            torch.save(before | {"iteration": search.iteration}, f"{folder}/before.pt")
        search.step(*batch, True)
    for player in search.players.values():
        player.agree()
    state = {name: {k: p.detach() for k, p in player.params.items()} for name, player in search.players.items()}
    buffers = {name: player.module.state_dict() for name, player in search.players.items()}
    torch.save(
        {"batch": batch, "handed": {k: v[-1] for k, v in handed.items()}, "state": state, "buffers": buffers},
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.mark.parametrize(("workers", "radius"), [(2, None), (2, 0.01), pytest.param(4, None, marks=pytest.mark.slow)])
def test_workers_give_the_gradients_of_one_that_averages(tmp_path, workers, radius, warm):
    spawn(warm, own_batches, str(tmp_path), workers, radius, nprocs=workers)
    first, *others = (torch.load(tmp_path / f"{rank}.pt") for rank in range(workers))
    for other in others:
        assert not torch.equal(first["batch"][0], other["batch"][0])
        for part in ("handed", "state", "buffers"):
            for name, tensors in first[part].items():
                assert all(torch.equal(t, other[part][name][k]) for k, t in tensors.items()), (part, name)
    # one process, which evaluates the workers' losses one after the other: everything before the last step again
    search, parts = place_of_last_step(tmp_path, workers)
    for name, truth in own_gradients(search, *parts).items():
        for k, t in truth.items():
            assert relative(first["handed"][name][k], t) < 1e-10, (name, k)
    gA, direct, gB = brute_force(search, *parts)
    tolerance = 1e-10 if radius is None else 1e-3
    assert relative(first["handed"]["A"]["alphas"] - direct, gA - direct) < tolerance
    assert relative(first["handed"]["B"]["alphas"], gB) < tolerance


def place_of_last_step(folder: Path, workers: int) -> tuple[Search, list[Batch]]:
    """The place that all workers were at, and the batch of each."""
    search, place = make(hypergradient="exact"), torch.load(folder / "before.pt")
    for name, player in search.players.items():
        player.load_state_dict(place[name])
    search.iteration = place["iteration"]
    return search, [torch.load(folder / f"{rank}.pt")["batch"] for rank in range(workers)]


def own_gradients(search: Search, *parts: Batch) -> Gradients:
    """Of W, G and E: backward through Eq. 3, 4 and 5 on a copy of the networks for each part, averaged."""
    found: Gradients = {name: {} for name in "WGE"}
    for rank, (x1, y1, x2, y2) in enumerate(parts):
        stream = partial(seed_of, search.config.seed, rank, search.iteration)
        W, A, G, E, B = (copy.deepcopy(player.module) for player in search.players.values())
        z, y = search.gan.draw(BATCH, stream("z"))
        with replay(stream("class")):
            F.cross_entropy(W(x1, A()), y1).backward()
        with replay(stream("gan")):
            x = G(z, y)
        F.softplus(-copy.deepcopy(E)(B(), x, y)).mean().backward()
        (F.softplus(-E(B(), x2, y2)).mean() + F.softplus(E(B(), x.detach(), y)).mean()).backward()
        for name, module in zip("WGE", (W, G, E), strict=True):
            for k, p in module.named_parameters():
                found[name][k] = found[name].get(k, 0.0) + p.grad / len(parts)
    return found


def without_draws(search: Search, normed: bool) -> Search:
    """Dropout, layer noise and crops off, and batch statistics: what then remains are means over samples."""
    for player in (search.W, search.gan.G):
        player.module.calm, player.module.normed = True, normed
    search.data.crop = lambda x: x
    search.data.flip = lambda x: x
    return search


def shared_batch(rank: int, folder: str, workers: int, normed: bool) -> None:
    """(b): an equal share each of one batch; with batch norm, synchronised."""
    join(rank, folder, workers)
    with SynchronisedNorm() if normed else nullcontext():
        torch.save(one_step(rank, workers, workers, normed), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def one_step(rank: int, workers: int, shares: int, normed: bool) -> Gradients:
    """Gradients, and buffers, of a step on this worker's share of a fixed global batch of so many shares."""
    n = BATCH * shares
    generator = torch.Generator().manual_seed(4)
    x1, x2 = (torch.randn(n, 3, SIZE, SIZE, generator=generator) for _ in range(2))
    y1, y2, yz, y3 = (torch.randint(CLASSES, (n,), generator=generator) for _ in range(4))
    z, z3 = (torch.randn(n, 4, generator=generator) for _ in range(2))
    # J_3 takes the first half of x2 and of z3: of a worker its own halves, of one process all workers' first halves
    halves = torch.arange(n).view(shares, 2, BATCH // 2)
    own = halves[rank].flatten() if workers > 1 else halves.transpose(0, 1).flatten()
    search = without_draws(make(hypergradient="exact", val_portion=0.5, batch_size=len(own)), normed)
    drawn = iter([(z[own], yz[own]), (z3[own], y3[own])])
    search.gan.draw = lambda n, seed: next(drawn)
    handed = watched(search)
    search.step(x1[own], y1[own], x2[own], y2[own], True)
    buffers = {name: dict(player.module.named_buffers()) for name, player in search.players.items() if name in "WG"}
    return {name: found[-1] for name, found in handed.items()} | {f"{k}'s buffers": v for k, v in buffers.items()}


@pytest.mark.parametrize(("workers", "normed"), [(2, False), (2, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_workers_with_shares_give_the_gradients_of_the_whole_batch(tmp_path, workers, normed, warm):
    spawn(warm, shared_batch, str(tmp_path), workers, normed, nprocs=workers)
    found, truth = torch.load(tmp_path / "0.pt"), one_step(0, 1, workers, normed)
    for name, tensors in truth.items():
        for k, t in tensors.items():
            torch.testing.assert_close(
                found[name][k], t, rtol=1e-10, atol=1e-13, msg=lambda m, n=name, k=k: f"{n}.{k}: {m}"
            )


def chosen(rank: int, folder: str, workers: int) -> None:
    join(rank, folder, workers)
    x = torch.randn(workers, 6, 3, generator=torch.Generator().manual_seed(5))
    for setting, seen in ((True, x.flatten(0, 1)), (False, x[rank])):
        search = make(sync_batch_norm=setting)
        search.step = lambda *_: {"normed": F.batch_norm(x[rank], None, None, training=True)}
        truth = (x[rank] - seen.mean(0)) / (seen.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(search.iterate()["normed"], truth, rtol=1e-10, atol=1e-12)
    dist.destroy_process_group()


def test_batch_norm_is_of_each_worker_and_synchronised_where_asked(tmp_path, warm):
    spawn(warm, chosen, str(tmp_path), 2, nprocs=2)


def test_synchronised_batch_norm_is_refused_on_a_cpu_and_part_of_what_a_search_is(tmp_path):
    plain, synchronised = (override(preset("quickstart").config, {"sync_batch_norm": on}) for on in (False, True))
    with pytest.raises(ValueError, match="^sync-batch-norm: expected workers on GPUs; leave it out") as error:
        main(synchronised, tmp_path / "run", Hooks(say=lambda line: None))
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "run").exists()
    assert "sync_batch_norm" not in mathematics(plain) and mathematics(synchronised)["sync_batch_norm"]


def holds_its_own(rank: int, folder: str, workers: int) -> None:
    join(rank, folder, workers)
    same, own = torch.arange(3.0), torch.tensor([1.0, float(rank == 2)])
    assert disagreeing([same]) == [] and disagreeing([same, own]) == [2]
    assert disagreeing([torch.tensor(float("nan") if rank == 0 else 1.0)]) == [0]
    assert disagreeing([torch.tensor(rank)]) == [0, 1, 2]
    average([own])
    assert disagreeing([own]) == []
    dist.destroy_process_group()


def normalises_its_own(rank: int, folder: str, workers: int) -> None:
    join(rank, folder, workers)
    W = Player(nn.BatchNorm2d(3, affine=False))
    batches = torch.randn(9, workers, 4, 3, 2, 2, generator=torch.Generator().manual_seed(6))
    mean, var = torch.zeros(3), torch.ones(3)
    for own in batches:  # the average of all workers' statistics after each batch
        W.live(own[rank])
        mean = 0.9 * mean + 0.1 * own.mean((1, 3, 4)).mean(0)
        var = 0.9 * var + 0.1 * own.transpose(2, 1).flatten(2).var(2).mean(0)
    assert len(disagreeing([W.buffers["running_var"]])) == workers
    W.agree()
    assert not disagreeing(list(W.buffers.values())) and int(W.buffers["num_batches_tracked"]) == len(batches)
    torch.testing.assert_close(W.buffers["running_mean"], mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(W.buffers["running_var"], var, rtol=1e-12, atol=1e-14)
    dist.destroy_process_group()


def test_running_statistics_averaged_once_are_those_averaged_after_every_batch(tmp_path, warm):
    spawn(warm, normalises_its_own, str(tmp_path), 2, nprocs=2)


def refused(rank: int, folder: str, workers: int) -> None:
    join(rank, folder, workers)
    calls: list[int] = []
    assert of_first(lambda: calls.append(rank) or rank + 7) == 7 and calls == [0][: rank == 0]
    with pytest.raises(ValueError, match="^checkpoint"):
        of_first(lambda: unpacked_by(rank))
    dist.destroy_process_group()


def unpacked_by(rank: int) -> None:
    assert rank == 0
    raise ValueError("checkpoint 000000001-9715b305.safetensors: format 7, expected 2")


def waits_for_the_first(rank: int, folder: str, workers: int, limit: float) -> None:
    dist.init_process_group("gloo", None, timedelta(seconds=limit), workers, rank, dist.FileStore(f"{folder}/meet"))
    ready()
    assert of_first(lambda: time.sleep(3 * limit) or 7) == 7
    dist.destroy_process_group()


def test_what_takes_the_first_worker_long_is_waited_for(tmp_path, warm):
    """Longer than for what hangs."""
    spawn(warm, waits_for_the_first, str(tmp_path), 2, stretched(2), nprocs=2)


def with_pictures_of_its_own(rank: int, folder: str, workers: int, says: str) -> None:
    join(rank, folder, workers)
    small = {"gan": "none", "method.channels": 2, "batch_size": 4, "proxy.epochs": 0}
    own = {"data": data_folder.Config(image_size=16), "data_dir": f"{folder}/{rank}"}
    with pytest.raises(WorkerMachineError, match=says):
        main(replace(override(preset("quickstart").config, small), **own), Path(folder) / "run")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("first", "says"),
    [(None, "--data-dir .*/1: no such folder"), (1, "reads other data than worker 0, on .*: copy the same")],
)
def test_a_worker_without_the_others_pictures_is_refused_by_all(tmp_path, first, says, warm):
    """Else they would wait for it, or learn from other pictures without a word."""
    for rank, start in enumerate((0, first)):
        if start is not None:
            write_folder(tmp_path, **{str(rank): digit_pictures((20, 20, 20), start)})
    spawn(warm, with_pictures_of_its_own, str(tmp_path), 2, rf"^worker 1, on [^ ]*[:,] .*{says}", nprocs=2)
    assert not (tmp_path / "run").exists()


def test_what_the_first_worker_cannot_read_is_refused_by_all(tmp_path, warm):
    """Else the others would wait for it until the process group gives up."""
    spawn(warm, refused, str(tmp_path), 2, nprocs=2)


def test_a_worker_that_holds_something_else_is_named(tmp_path, warm):
    spawn(warm, holds_its_own, str(tmp_path), 3, nprocs=3)
