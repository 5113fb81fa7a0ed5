"""The hooks of the methods in a search: where Algorithm 1 calls them, what they change there, and what they leave."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from groups import join
from processes import spawn
from smooth import SmoothSupernet, batches, brute_force, make, relative, spy
from textbook201 import as_textbook201
from torch import Tensor
from toys import Alphas
from transplants import as_textbook
from warm import Warm

from dasgm.bilevel import Player
from dasgm.config import override
from dasgm.data import digits
from dasgm.distributed import disagreeing
from dasgm.jobs.search import Hooks, main
from dasgm.methods import betadarts, darts, drnas, dropnas, gdas, rdarts, sdarts, sgas
from dasgm.methods._hooks import shifted
from dasgm.networks.network import edge_factors
from dasgm.networks.regularisation import Regularisation
from dasgm.networks.supernet import Mixture
from dasgm.search import Search
from dasgm.spaces.darts import KNOWN
from dasgm.store.records import read_lines
from dasgm.store.tensors import packed, unpacked
from dasgm.testing._plugins import small_search

TINY: dict[str, Any] = {"epochs": 2, "cells": 3, "channels": 4}


def taken(method: Any, iterations: int = 2, **changes: Any) -> Search:
    """A search after some iterations of its second epoch."""
    search = small_search(method=method, **changes)
    search.left = 1
    search.schedule()
    for _ in range(iterations):
        search.iterate()
    return search


def same_bits(one: Search, other: Search) -> bool:
    pairs = [(p, q.params[name]) for p, q in ((one.W, other.W), (one.A, other.A)) for name, p in p.params.items()]
    return all(torch.equal(p, q) for p, q in pairs)


@pytest.fixture(scope="module")
def plain() -> Search:
    return taken(darts.Config(**TINY))


@pytest.mark.parametrize(
    "method",
    [
        betadarts.Config(**TINY, strength=0.0),
        sdarts.Config(**TINY, epsilon_first=0.0, epsilon_last=0.0),
        sdarts.Config(**TINY, epsilon_first=0.0, epsilon_last=0.0, perturbation="adversarial"),
        dropnas.Config(**TINY, drop_rate=0.0),
        sgas.Config(**TINY),  # before its first decision
        rdarts.Config(**TINY),
    ],
    ids=["betadarts", "sdarts-rs", "sdarts-adv", "dropnas", "sgas", "rdarts"],
)
def test_a_method_of_strength_0_is_darts_to_the_bit(method: Any, plain: Search) -> None:
    assert same_bits(taken(method), plain)


# the second order


class Relaxed(Alphas):
    """The alphas of one edge, with the mixture of the search's method."""

    search: Search

    def forward(self) -> Mixture:
        return Mixture((self.search.method.mixture(0, self.alphas[None]),))


class OfMixture(SmoothSupernet):
    """One edge, with drop path."""

    def __init__(self, regularisation: Regularisation) -> None:
        super().__init__()
        self.regularisation = regularisation

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        (factors,) = edge_factors(x, 1, 1, lambda: self.regularisation.drop_path)
        return super().forward(x if factors is None else x * factors[0], mixture.cells[0][0])


def made(method: Any, **changes: Any) -> Search:
    search = make(method=method, **changes)
    torch.manual_seed(11)
    W, A = OfMixture(method.regularisation(search.stage, 1)), Relaxed()
    A.search = search
    search.W = Player(W, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=3e-3), clip=0.05)
    search.A = Player(A, lambda p: torch.optim.Adam(p, 1e-2, (0.5, 0.999), weight_decay=1e-3))
    search.unrolled = (search.W, *search.unrolled[1:])
    return search


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "method",
    [
        gdas.Config(epochs=3, cells=3, channels=4),
        gdas.Config(epochs=3, cells=3, channels=4, gradient="all"),
        drnas.Config(epochs=3, cells=3, channels=8, arch_start_epoch=0),
        sdarts.Config(epochs=3, cells=3, channels=4, epsilon_first=0.2),
        sdarts.Config(epochs=3, cells=3, channels=4, epsilon_first=0.2, perturbation="adversarial"),
        rdarts.Config(epochs=3, cells=3, channels=4, drop_path=0.6),
    ],
    ids=["gdas", "gdas-all", "drnas", "sdarts-rs", "sdarts-adv", "rdarts-dp"],
)
def test_the_second_order_is_differentiation_through_the_whole_iteration(method: Any) -> None:
    """Draws are replayed in each pass of L_class, and SDARTS's offset is a constant in it."""
    errors = {}
    for radius in (None, 0.01, 0.005):
        search = made(method, hypergradient="exact")
        search.step(*batches(search), True)
        batch, handed, truths = batches(search), spy(search.A), []
        given = search.method.offset

        def offset(*args: Any, search=search, batch=batch, truths=truths, given=given) -> Any:
            """Before Eq. 3, as the step asks for it."""
            found = given(*args)
            truths += brute_force(search, batch, of_W=lambda mixture: shifted(mixture, found))
            return found

        search.method.offset = offset
        search.radius_W = search.radius_G = radius
        search.step(*batch, True)
        truth, direct, _ = truths
        errors[radius] = relative(handed[0]["alphas"] - direct, truth - direct)
    assert errors[None] < 1e-8 and errors[0.01] < 1e-3
    assert 3.5 < errors[0.01] / errors[0.005] < 4.5


def test_what_is_dropped_and_blanked_can_be_drawn_before_an_iteration() -> None:
    """R-DARTS's drop path and cutout; rates are read anew in each epoch, as a CUDA graph does."""
    method, data = rdarts.Config(**TINY | {"epochs": 3}, drop_path=0.6), digits.Config(limit=200, cutout=6)
    one, other = (small_search(method=method, data=data) for _ in range(2))
    other.iterations.ahead = True
    recorded = []
    for left in (2, 1):
        for search in (one, other):
            search.left = left
            search.schedule()
            search.iterate()
        recorded += other.iterations.draws.values()
    assert len(set(map(id, recorded))) == 2 and recorded[1].known, "in the last epoch each image is cut"
    assert same_bits(one, other) and not same_bits(one, taken(replace(method, drop_path=0.0), data=data))


# what else each hook does


def test_the_regulariser_reaches_A_alone() -> None:
    """beta-DARTS: lambda times the softmax over the number of edges, added to A's gradient; nothing else differs."""
    handed, found = {}, {}
    for name, method in (("darts", darts.Config(**TINY)), ("betadarts", betadarts.Config(**TINY, strength=4.0))):
        search = small_search(method=method)
        search.left = 1
        search.schedule()
        before, handed[name] = search.A.state(), spy(search.A)
        losses = search.iterate()
        found[name] = losses, search.W.params
    weights = before().cells
    for kind, added in zip(weights, ("alphas_normal", "alphas_reduce"), strict=True):
        difference = handed["betadarts"][0][added] - handed["darts"][0][added]
        torch.testing.assert_close(difference, 4.0 * (1 / 2) * kind / 14, rtol=1e-4, atol=1e-7)
    (losses, W), (others, V) = found.values()
    assert losses == others and all(torch.equal(p, V[name]) for name, p in W.items())


def test_dropped_operations_keep_their_probability() -> None:
    """DropNAS, in an iteration of a search: the share of what was dropped is as before the step of A."""
    search = small_search(method=dropnas.Config(**TINY, drop_rate=0.3))
    search.schedule()
    seen: list[Any] = []
    settle = search.method.settle
    search.method.settle = lambda before, A, drawn: seen.extend((before, drawn)) or settle(before, A, drawn)
    search.iterate()
    before, drawn = seen
    for old, new, weights in zip(before.params.values(), search.A.params.values(), drawn.cells, strict=True):
        dropped = weights == 0
        assert 0.5 < dropped.double().mean() < 0.9
        shares = [(alphas.softmax(1) * dropped).sum(1) for alphas in (old, new)]
        torch.testing.assert_close(*shares)
        assert not torch.equal(old, new)


def drops_its_own(rank: int, folder: str, workers: int) -> None:
    """Two workers with masks and batches of their own keep one A."""
    join(rank, folder, workers)
    search = small_search(method=dropnas.Config(**TINY, drop_rate=0.3))
    search.schedule()
    masks: list[Tensor] = []
    settle = search.method.settle
    search.method.settle = lambda before, A, drawn: masks.append(drawn.cells[0] == 0) or settle(before, A, drawn)
    search.iterate()
    assert disagreeing(masks) and not disagreeing(list(search.A.params.values()))
    dist.destroy_process_group()


def test_workers_that_drop_other_operations_keep_one_architecture(warm: Warm, tmp_path: Any) -> None:
    spawn(warm, drops_its_own, str(tmp_path), 2, nprocs=2)


@pytest.mark.parametrize(
    ("space", "size", "names"),
    [
        ("darts", {"cells": 3, "channels": 8}, as_textbook),
        ("nasbench201", {"cells": 5, "channels": 4, "partial": 1, "kept": 3}, as_textbook201),
    ],
    ids=["darts", "nasbench201"],
)
def test_half_of_a_search_by_drnas_goes_on_with_what_is_left(space: str, size: Any, names: Any) -> None:
    config = drnas.Config(epochs=2, arch_start_epoch=0, **size)
    search = taken(config, search_space=space)
    W, A, before, rate = search.W, search.A, search.stage, search.W.lr
    search.enter(config.next(search.config.space, before, search.relaxation()))
    after = search.stage
    assert search.W.steps == search.A.steps == 2 and search.left == 2
    search.schedule()
    assert rate / search.config.classifier_lr == pytest.approx(0.864, abs=0.01) and search.W.lr < rate  # of 4 epochs
    # W and its momentum, operation by operation; A by columns
    parts = [(p.params, _moments(p, "momentum_buffer")) for p in (W, search.W)]
    for old, new in zip(*parts, strict=True):
        theirs, ours = names(before, old), names(after, new)
        assert len(ours) < len(theirs) and all(torch.equal(t, theirs[name]) for name, t in ours.items())
    edges = [*zip(before.operations, after.operations, strict=True)]
    for of in (lambda p: p.params, lambda p: _moments(p, "exp_avg"), lambda p: _moments(p, "exp_avg_sq")):
        for old, new, (had, has) in zip(of(A).values(), of(search.A).values(), edges, strict=True):
            for edge, left in enumerate(has):
                assert new[edge].tolist() == [old[edge][had[edge].index(name)] for name in left]
    # the same function as the old supernet's, where what is lost weighs nothing
    x = search.data.to_classifier(search.data.raw(search.data.J1[:4]))
    mixture, wide = search.A.module.relaxed_by(search.method.relaxed), []
    for weights, (had, has) in zip(mixture.cells, edges, strict=True):
        wide.append(torch.zeros(len(had), len(had[0])))
        for edge, left in enumerate(has):
            wide[-1][edge, [had[edge].index(name) for name in left]] = weights[edge].detach()
    with torch.no_grad():
        torch.testing.assert_close(search.W(x, mixture), W(x, Mixture(tuple(wide))))
    again = small_search(method=config, search_space=space)
    again.load_state_dict(copy.deepcopy(search.state_dict()))
    for one in (search, again):
        one.schedule()
        one.iterate()
    assert again.stage == after and same_bits(search, again)


def _moments(player: Player, kind: str) -> dict[str, Tensor]:
    state = player.state_dict()["optimizer"]
    return {name: state[i][kind] for i, name in enumerate(player.params)}


# memory, and the numbers of the epoch


@dataclass(frozen=True)
class Noting(darts.Config):
    """Notes each epoch, weighs `none` by how many there were, stops after the second, and gives a known genotype."""

    def times(self, space: Any, stage: Any, epoch: int, memory: Any) -> Any:
        return {"count": len(memory.get("epochs", ())), "row": [float(epoch), 1.0]}

    def after_epoch(self, view: Any, memory: Any) -> str:
        memory.setdefault("epochs", []).append((view.epoch, view.metrics["val/accuracy"]))
        assert len(view.relaxation.cells[0]) == view.space.edges and view.stage.index == 0
        return "enough was noted" if len(memory["epochs"]) == 2 else ""

    def genotype(self, space: Any, stage: Any, relaxation: Any, memory: Any = None) -> Any:
        return KNOWN["DARTS_V1" if len(memory.get("epochs", ())) < 2 else "DARTS_V2"]


def test_what_a_method_keeps_is_in_the_checkpoint(tmp_path: Any) -> None:
    search = small_search(method=Noting(**TINY))
    search.method.end_epoch(0, search.relaxation(), {"val/accuracy": 0.1}, search.hessian)
    search.schedule()
    place = search.method.times["row"].data_ptr()
    search.left = 1
    search.schedule()
    assert search.method.times["row"].data_ptr() == place, "a CUDA graph reads there"
    (tmp_path / "state").write_bytes(packed(search.state_dict()))
    again = small_search(method=Noting(**TINY))
    again.load_state_dict(unpacked(tmp_path / "state"))
    for one in (search, again):
        assert one.method.memory == {"epochs": [[0, 0.1]]}
        assert {name: t.tolist() for name, t in one.method.times.items()} == {"count": 1.0, "row": [1.0, 1.0]}


def test_a_method_may_end_a_stage_and_choose_the_genotype(tmp_path: Any) -> None:
    config, said = small_search(method=replace(Noting(**TINY), epochs=4)).config, list[str]()
    config = override(config, {"proxy.epochs": 0, "data.limit": 80, "pictures_every": 9})
    row = main(config, tmp_path / "run", Hooks(say=said.append))
    assert "stopped early after epoch 2: enough was noted" in said and row["epoch"] == 2
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 3
    assert (tmp_path / "run" / "genotype.json").read_text() == KNOWN["DARTS_V2"].to_json()
    assert main(config, tmp_path / "run", Hooks(say=said.append)) == row
