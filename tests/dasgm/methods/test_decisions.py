"""Methods that decide at the end of epochs, SGAS and R-DARTS, against facts/more-methods 1.1, 1.11 and 1.19; random
search.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from dasgm.bilevel import Player, largest_eigenvalue
from dasgm.config import override
from dasgm.data import digits
from dasgm.genotype import PRIMITIVES
from dasgm.jobs.search import Hooks, main
from dasgm.methods import random, rdarts, sgas
from dasgm.methods._base import CellType, Relaxation, View
from dasgm.networks.supernet import Architecture
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.spaces.darts import SearchSpace
from dasgm.store.records import read_lines
from dasgm.testing._plugins import small_search

SPACE = SearchSpace()
INPUTS = (2, 3, 4, 5)
S2 = ("skip_connect", "sep_conv_3x3")
TINY: dict[str, Any] = {"cells": 3, "channels": 4}


def relaxed(seed: int) -> torch.Tensor:
    return torch.randn(14, 8, generator=torch.Generator().manual_seed(seed)).double().softmax(1)


# SGAS


def test_importance_and_certainty_of_an_edge() -> None:
    row = torch.tensor([0, 0.5, -0.5, 1, 2, 0, -1, 0.3]).double().softmax(0).tolist()
    importance, q = sgas.judged(PRIMITIVES, row)
    assert importance == pytest.approx(0.9378122, abs=5e-8)
    assert sgas.certainty(q) == pytest.approx(0.2208455, abs=5e-8)
    assert sgas.judged(("skip_connect", "sep_conv_3x3"), [0.25, 0.75]) == (1.0, [0.25, 0.75])
    assert sgas.certainty([1.0]) == 1.0


def test_scores_of_sgas() -> None:
    """The two criteria, written out with torch."""

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x - x.min()) / (x.max() - x.min())

    now, past = relaxed(0), [relaxed(seed) for seed in (1, 2, 3)]
    q, *before = (w[:, 1:] / (1 - w[:, :1]) for w in (now, *past))
    first = scaled(1 - now[:, 0]) * scaled(1 - Categorical(q).entropy() / math.log(7))
    second = first * scaled(torch.stack([torch.minimum(q, p).sum(1) for p in before]).mean(0))
    operations = (PRIMITIVES,) * 14
    assert sgas.scores(operations, now.tolist()) == pytest.approx(first.tolist(), abs=1e-12)
    found = sgas.scores(operations, now.tolist(), [p.tolist() for p in past])
    assert found == pytest.approx(second.tolist(), abs=1e-12)
    assert sgas.scores((S2, S2), [[0.5, 0.5], [0.9, 0.1]]) == [0.0, 1.0], "without `none` certainty alone counts"


@pytest.mark.parametrize("criterion", [1, 2])
def test_sgas_decides_an_edge_of_each_cell_in_epochs_9_14_to_44(criterion: int) -> None:
    method, memory, decisions = sgas.Config(criterion=criterion), {}, []
    stage, settled = method.first(SPACE), 0
    cell = CellType("normal", stage.operations[0])
    for epoch in range(50):
        times = {name: torch.tensor(value) for name, value in method.times(SPACE, stage, epoch, memory).items()}
        alphas = torch.randn(14, 8, generator=torch.Generator().manual_seed(epoch))
        weights = method.relaxed(cell, alphas, times)
        assert torch.equal(weights[times["open normal"][:, 0] == 1], alphas.softmax(1)[times["open normal"][:, 0] == 1])
        relaxation = Relaxation((weights.tolist(),) * 2)
        assert method.after_epoch(View(SPACE, stage, epoch, relaxation, {}, float), memory) == ""
        choices = memory["normal"]["choices"]
        chosen = sum(choice not in (None, "none") for choice in choices)
        decisions += [epoch] * (chosen - settled)
        settled = chosen
    assert decisions == [9, 14, 19, 24, 29, 34, 39, 44]
    assert choices == memory["reduce"]["choices"] and choices.count("none") == 6
    times = {name: torch.tensor(value) for name, value in method.times(SPACE, stage, 49, memory).items()}
    weights = method.relaxed(cell, torch.randn(14, 8), times)
    assert weights.tolist() == [[float(name == choice) for name in PRIMITIVES] for choice in choices]
    expected, edges = [], iter(choices)
    for number in INPUTS:
        of_node = [(name, state) for state, name in zip(range(number), edges, strict=False) if name != "none"]
        assert len(of_node) == 2
        expected += of_node
    assert method.genotype(SPACE, stage, Relaxation((weights.tolist(),) * 2), memory).normal == tuple(expected)


def test_what_sgas_has_decided_is_judged_as_it_was() -> None:
    """The frozen weights still count in the scaling over all edges; the one of highest score is decided, by hand."""
    method, memory = sgas.Config(warmup=0, every=1), {}
    stage, first, then = method.first(SPACE), relaxed(0), relaxed(1)
    for epoch, weights in enumerate((first, then)):
        view = View(SPACE, stage, epoch, Relaxation((weights.tolist(),) * 2), {}, float)
        method.after_epoch(view, memory)
    one = max(range(14), key=sgas.scores(stage.operations[0], first.tolist()).__getitem__)
    then[one] = first[one]
    scores = sgas.scores(stage.operations[0], then.tolist())
    other = max((edge for edge in range(14) if edge != one), key=scores.__getitem__)
    choices = memory["normal"]["choices"]
    for edge, weights in ((one, first), (other, then)):
        assert choices[edge] == PRIMITIVES[1 + int(weights[edge, 1:].argmax())]
    assert memory["normal"]["weights"][-1] == then.tolist()
    assert sum(choice in (None, "none") for choice in choices) == 12


def test_a_short_sgas_decides_fewer_edges_and_says_so() -> None:
    method, memory = sgas.Config().shortened(5), {}
    stage = method.first(SPACE)
    for epoch in range(5):
        view = View(SPACE, stage, epoch, Relaxation((relaxed(epoch).tolist(),) * 2), {}, float)
        method.after_epoch(view, memory)
    assert sum(choice not in (None, "none") for choice in memory["reduce"]["choices"]) == 4
    assert method.too_short(SPACE, stage).startswith("SGAS decides 4 of the 8 edges of a cell before")
    for epochs, decided in ((9, 0), (10, 1), (44, 7)):
        short = sgas.Config(epochs=epochs)
        assert f"decides {decided} of the 8 edges" in short.too_short(SPACE, short.first(SPACE))
    assert sgas.Config().too_short(SPACE, sgas.Config().first(SPACE)) == ""


# R-DARTS


def test_rdarts_stops_where_a_series_of_eigenvalues_says() -> None:
    """Every second epoch: 1 up to epoch 20, then 1.2 times more each. The average of epoch 28 is 7.4416 / 5 = 1.488 of
    that of epoch 20, the one of epoch 26 is 1.274 of that of epoch 18: it stops at 28, with the genotype of 28 - 12.
    """
    method, memory, why = rdarts.Config(diagonal=0.0), {}, ""
    stage, genotypes = method.first(SPACE), []
    for epoch in range(50):
        value = 1.2 ** max(0, (epoch - 20) // 2)
        relaxation = Relaxation((relaxed(epoch).tolist(), relaxed(100 + epoch).tolist()))
        genotypes.append(method.genotype(SPACE, stage, relaxation, memory))
        why = method.after_epoch(View(SPACE, stage, epoch, relaxation, {}, lambda value=value: value), memory)
        if why:
            break
    assert epoch == 28 and "grown 1.49-fold; the genotype is that after epoch 17" in why
    assert method.genotype(SPACE, stage, relaxation, memory) == genotypes[16] != genotypes[-1]
    assert memory["eigenvalues"] == pytest.approx([1.0] * 11 + [1.2, 1.44, 1.728, 2.0736])


@pytest.mark.parametrize(
    ("method", "first"),
    [(rdarts.Config(), 22), (rdarts.Config().shortened(5), 2), (rdarts.Config(start=9, every=3, window=3), 24)],
)
def test_rdarts_says_where_it_is_too_short_to_stop(method: rdarts.Config, first: int) -> None:
    """Where the eigenvalue grows threefold each time, it stops as soon as it may."""
    memory: dict[str, Any] = {}
    stage, relaxation = replace(method.first(SPACE), epochs=first), Relaxation((relaxed(0).tolist(),) * 2)
    stopped = [
        epoch
        for epoch in range(first + 1)
        if method.after_epoch(View(SPACE, stage, epoch, relaxation, {}, lambda epoch=epoch: 3.0**epoch), memory)
    ]
    assert stopped == [first] and method.too_short(SPACE, replace(stage, epochs=first + 1)) == ""
    assert f"may is {first + 1}, after the last ({first})" in method.too_short(SPACE, stage)
    assert replace(method, factor=0.0).too_short(SPACE, stage) == ""


def test_rdarts_adds_the_weight_decay_and_may_be_told_never_to_stop() -> None:
    memory: dict[str, Any] = {}
    stage, relaxation = rdarts.Config().first(SPACE), Relaxation((relaxed(0).tolist(),) * 2)
    rdarts.Config().after_epoch(View(SPACE, stage, 0, relaxation, {}, lambda: 0.25), memory)
    assert memory["eigenvalues"] == [0.251]
    assert rdarts.Config(factor=0.0).after_epoch(View(SPACE, stage, 2, relaxation, {}, lambda: 1 / 0), memory) == ""
    assert rdarts.grown([1.0] * 2 + [9.0] * 4, 5, 4) == 0.0, "two eigenvalues make no average of five"
    assert rdarts.grown([-1.0] * 5 + [9.0] * 4, 5, 4) == 0.0, "growth has no meaning below 0"
    assert rdarts.grown([1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0], 5, 4) == 1.5


def test_drop_path_and_cutout_of_rdarts_grow_with_the_epochs() -> None:
    """p e / (T - 1) and e / (T - 1), by facts/more-methods 1.1. Without drop path cutout is as --data.cutout says."""
    method = rdarts.Config(drop_path=0.6)
    stage = method.first(SPACE)
    found = {epoch: method.regularisation(stage, epoch) for epoch in (0, 7, 49)}
    expected = {0: (0, 0.0, 0.0), 7: (0, 0.6 / 7, 1 / 7), 49: (0, 0.6, 1.0)}
    assert found == {epoch: pytest.approx(values, abs=1e-15) for epoch, values in expected.items()}
    assert rdarts.Config(drop_path=0.6, epochs=1).regularisation(replace(stage, epochs=1), 0) == (0, 0, 0)
    assert rdarts.Config().regularisation(stage, 49) == (0, 0, 1)


def test_drop_path_of_rdarts_that_makes_no_sense_is_refused_in_a_line() -> None:
    for value in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=rf"^method\.drop_path {value}: expected a rate from 0 to below 1$"):
            rdarts.Config(drop_path=value)

    class Other(SearchSpace):
        """One whose supernet has no drop path."""

        drops_paths = False

    with pytest.raises(ValueError, match=r"^method\.drop_path 0\.2: the supernet of [^\n]*; expected 0$"):
        rdarts.Config(drop_path=0.2).first(Other())
    assert rdarts.Config().first(Other()).operations == Other().everything


@pytest.mark.parametrize(
    "diagonal",
    [
        (0.0, 0.0, 0.0),
        (3.0, 1.0, -2.0),
        (2.0, 1.0, -3.0),
        (-1.0, -2.0, -4.0),
        (0.5, -9.0, *(i / 100 for i in range(30))),
    ],
)
def test_largest_eigenvalue_in_value_not_in_modulus(diagonal: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    n = len(diagonal)
    turned = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
    hessian = turned @ torch.tensor(diagonal).double().diag() @ turned.T

    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(n, dtype=torch.float64))

        def forward(self) -> torch.Tensor:
            return self.a

    found = largest_eigenvalue(lambda point: point() @ hessian @ point() / 2, Player(Vector()), 0.1)
    assert found == pytest.approx(max(diagonal), abs=1e-6)


# in a search


def epochs(search: Search, count: int) -> list[str]:
    found = []
    for _ in range(count):
        search.schedule()
        search.iterate()
        found.append(
            search.method.end_epoch(search.epoch, search.relaxation(), {}, lambda: search.hessian(signed=True))
        )
        search.left -= 1
    return found


@pytest.mark.parametrize(
    "method",
    [
        sgas.Config(**TINY, epochs=4, warmup=0, every=1, criterion=2),
        rdarts.Config(**TINY, epochs=4, every=1, window=1, delta=1, start=0, factor=1e-9, operations=S2, drop_path=0.6),
    ],
    ids=["sgas", "rdarts"],
)
def test_a_search_that_goes_on_decides_the_same(method: Any) -> None:
    data = digits.Config(limit=200, image_size=16, cutout=6)
    one, other = (small_search(method=method, data=data) for _ in range(2))
    epochs(one, 2)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for name, value in one.method.times.items():
        assert torch.equal(value, other.method.times[name])
    assert other.genotype() == one.genotype() and other.method.memory == one.method.memory
    said = [epochs(search, 1) for search in (one, other)]
    assert said[0] == said[1] and one.method.memory == other.method.memory and one.genotype() == other.genotype()
    for player in "WA":
        for name, p in one.players[player].params.items():
            assert torch.equal(p, other.players[player].params[name])
    assert one.method.memory.keys() >= ({"normal"} if "sgas" in type(method).__module__ else {"eigenvalues"})


def test_more_epochs_do_not_go_on_with_a_search_that_rdarts_has_stopped(tmp_path: Any) -> None:
    """Its memory has the genotype of an earlier epoch, which training further would leave behind."""
    stops = rdarts.Config(**TINY, epochs=4, every=1, window=1, delta=1, start=0, factor=1e-9, operations=S2)
    config = override(preset("quickstart").config, {"gan": "none", "data.limit": 80, "proxy.epochs": 0})
    said: list[str] = []
    rows = []
    for epochs in (4, 9):
        rows.append(main(replace(config, method=replace(stops, epochs=epochs)), tmp_path, Hooks(say=said.append)))
        assert len(read_lines(tmp_path / "metrics.jsonl")) == 1 + rows[0]["epoch"] < 5
    assert rows[0] == rows[1] and said[-1] == (
        "this search was stopped early, and more epochs do not continue it; use another --name"
    )


def test_edges_that_sgas_has_decided_weigh_1_and_the_removed_0_in_the_supernet() -> None:
    search = small_search(method=sgas.Config(**TINY, epochs=9, warmup=0, every=1))
    epochs(search, 8)
    mixture = search.A.fixed()
    for weights in mixture.cells:
        assert weights.unique().tolist() == [0, 1] and (weights.argmax(1) > 0).sum() == 8
    genotype = search.genotype()
    search.schedule()
    search.iterate()
    assert search.genotype() == genotype
    assert search.method.memory["normal"]["choices"].count("none") == 6


# random search


def test_a_new_architecture_is_any_of_the_space_with_equal_chance() -> None:
    """Chi-square below its 0.1 % bound, for the inputs of each node and for the operations."""
    n, pairs, names = 500, Counter[Any](), Counter[str]()
    method = random.Config()
    stage = method.first(SPACE)
    for seed in range(n):
        torch.manual_seed(seed)
        rows = tuple(alphas.softmax(1).tolist() for alphas in Architecture(stage, SPACE).parameters())
        genotype = method.genotype(SPACE, stage, Relaxation(rows))
        for cell in (genotype.normal, genotype.reduce):
            pairs.update((node, *sorted(s for _, s in cell[2 * node : 2 * node + 2])) for node in range(4))
            names.update(name for name, _ in cell)
    for node, bound in enumerate((0, 13.8, 20.5, 27.9)):
        possible = [*combinations(range(2 + node), 2)]
        expected = 2 * n / len(possible)
        assert sum((pairs[node, *pair] - expected) ** 2 / expected for pair in possible) <= bound
    assert len(names) == 7 and sum((found - 16 * n / 7) ** 2 / (16 * n / 7) for found in names.values()) < 22.5


def test_a_random_search_trains_no_supernet_and_ranks_what_it_has(tmp_path: Any) -> None:
    config = override(preset("quickstart").config, {"gan": "none", "method": "random", "data.limit": 80})
    config = override(config, {"proxy.epochs": 1, "proxy.channels": 4, "pictures_every": 9})
    found, said = set(), list[str]()
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        row = main(override(config, {"seed": seed}), folder, Hooks(say=said.append))
        assert row["epoch"] == 0 and 0 <= row["best/proxy"] <= 1 and row["cost/gpu_hours"] < row["cost/proxy_gpu_hours"]
        assert len(read_lines(folder / "metrics.jsonl")) == 1
        found.add((folder / "genotype.json").read_text())
        assert main(override(config, {"seed": seed}), folder, Hooks()) == row
    assert len(found) == 2 and not any("architecture step" in line for line in said)
