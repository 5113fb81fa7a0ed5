"""The penalty on the expected cost: against counts of whole networks, closed forms, and searches without it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from smooth import spy
from torch import Tensor

from dasgm.config import ProxyConfig, SearchConfig, from_json, mathematics, override, to_json
from dasgm.jobs.search import main
from dasgm.measures.costs import costs_of, derived_size
from dasgm.measures.counts import measure_genotype
from dasgm.methods import darts, fairdarts, pcdarts
from dasgm.methods._cost import CostConfig
from dasgm.pages.report import report
from dasgm.plugins import keys, plugin
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.spaces import darts as darts_space
from dasgm.spaces import nasbench201
from dasgm.spaces.nasbench201 import OPERATIONS, CellGenotype
from dasgm.store.records import read_lines
from dasgm.testing._plugins import ensure_same_bits_after_resume, small_search

COUNTED = ("parameters", "multiply_adds")
SMALL = {"epochs": 2, "cells": 5, "channels": 4}


def in_201(**changes: Any) -> Search:
    return small_search(search_space="nasbench201", method=darts.Config(**SMALL), proxy=ProxyConfig(), **changes)


@cache
def differences(kind: str) -> Tensor:
    """[6, 5]: what a whole network has more with an operation on one edge than with `none` there."""

    def whole(edge: int, name: str) -> int:
        cell = CellGenotype(tuple(name if e == edge else "none" for e in range(6)))
        found: int = measure_genotype(cell, channels=6, cells=8, classes=3, image_size=16)[kind]
        return found

    rows = [[whole(edge, name) - whole(edge, "none") for name in OPERATIONS] for edge in range(6)]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.usefixtures("float64")
def test_it_adds_its_plain_gradient_to_A_and_changes_nothing_else() -> None:
    """d/da of weight * sum w c / even, w = softmax(a), is weight / even * w (c - sum w c). In the second order too."""
    cost = CostConfig("parameters", 0.7, cells=8, channels=6)
    handed, found = [], []
    for changes in ({}, {"cost": cost}):
        search = in_201(**changes)
        search.schedule()
        weights = search.A.params["alphas_cell"].detach().softmax(1)
        handed.append(spy(search.A))
        found.append((search.iterate(), search.W.params))
    c = differences("parameters")
    slope = 0.7 / c.mean(1).sum() * weights * (c - (weights * c).sum(1, keepdim=True))
    added = handed[1][0]["alphas_cell"] - handed[0][0]["alphas_cell"]
    torch.testing.assert_close(added, slope, rtol=1e-9, atol=1e-12)
    (losses, W), (others, V) = found
    assert losses == others and all(torch.equal(p, V[name]) for name, p in W.items())


def test_the_gan_and_B_do_not_see_it() -> None:
    config = override(
        preset("quickstart").config, {"method.epochs": 1, "method.arch_start_epoch": 0, "data.limit": 200}
    )
    data = config.data.load(None)
    searches = [Search(replace(config, cost=CostConfig(kind, 5.0 if kind != "none" else 0.2)), data)
                for kind in ("none", "parameters")]  # fmt: skip
    for search in searches:
        search.schedule()
        search.iterate()
    one, other = searches
    for name, player in one.players.items():
        same = [torch.equal(p, other.players[name].params[key]) for key, p in player.params.items()]
        assert all(same) == (name != "A"), name


def test_weight_0_is_the_search_without_it_to_the_bit() -> None:
    searches = [small_search(), small_search(cost=CostConfig("parameters", 0.0))]
    for search in searches:
        search.schedule()
        search.iterate()
    one, other = searches
    assert other.method.costs
    assert all(torch.equal(p, other.A.params[name]) for name, p in one.A.params.items())


@pytest.mark.parametrize("kind", COUNTED)
def test_the_edges_of_darts_cells_by_whole_networks(kind: str) -> None:
    """An operation on an edge, less a pooling there, which neither has parameters nor multiplies."""
    method = darts.Config(epochs=1, cells=3, channels=4)
    costs = costs_of(
        small_search(method=method, cost=CostConfig(kind, cells=4, channels=6)).config, 16, torch.device("cpu")
    )
    assert costs is not None
    pools = darts_space.SearchSpace().random(0)
    pools = replace(
        pools, **{cell: tuple(("max_pool_3x3", s) for _, s in getattr(pools, cell)) for cell in ("normal", "reduce")}
    )
    sizes = {"channels": 6, "cells": 4, "classes": 10, "image_size": 16}
    for place, cell in enumerate(("normal", "reduce")):
        edges = getattr(pools, cell)
        for position in (0, 3, 7):
            node, state = position // 2, edges[position][1]
            for name in ("sep_conv_5x5", "dil_conv_3x3", "skip_connect", "avg_pool_3x3"):
                changed = replace(pools, **{cell: (*edges[:position], (name, state), *edges[position + 1 :])})
                more = measure_genotype(changed, **sizes)[kind] - measure_genotype(pools, **sizes)[kind]
                assert costs.table[place][sum(range(2, 2 + node)) + state][name] == more


@pytest.mark.usefixtures("float64")
def test_edge_weights_count_as_the_edges_that_a_node_keeps() -> None:
    """PC-DARTS by hand, and its gradient by finite differences."""
    method = pcdarts.Config(epochs=1, cells=3, channels=8)
    search = small_search(method=method, order="first", cost=CostConfig("parameters", 1.0, cells=3, channels=4))
    costs, A = search.method.costs, search.A
    for p in A.params.values():
        p.data.normal_()
    assert costs

    def by_hand(A: dict[str, Tensor]) -> float:
        found = 0.0
        for kind, table in zip(("normal", "reduce"), costs.table, strict=True):
            edge = 0
            for inputs in (2, 3, 4, 5):
                betas = A[f"betas_{kind}"][edge : edge + inputs].exp()
                for beta in betas / betas.sum():
                    row = A[f"alphas_{kind}"][edge].exp()
                    worth = [table[edge][name] for name in search.stage.operations[0][edge]]
                    found += float(2 * beta * (row / row.sum() * torch.tensor(worth)).sum())
                    edge += 1
        return found / costs.even

    at = {name: p.detach().clone() for name, p in A.params.items()}
    loss = search.method.penalty(A)
    assert loss.item() == pytest.approx(by_hand(at), rel=1e-12)
    slopes = dict(zip(at, torch.autograd.grad(loss, list(A.params.values())), strict=True))
    for name, place in (("alphas_reduce", (3, 5)), ("alphas_normal", (13, 4)), ("betas_normal", (6,))):
        sides = []
        for step in (1e-5, -1e-5):
            moved = {key: value.clone() for key, value in at.items()}
            moved[name][place] += step
            sides.append(by_hand(moved))
        assert float(slopes[name][place]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in keys("methods") if name != "random"])
def test_it_draws_every_method_to_cheaper_operations(name: str) -> None:
    """By the weights that a method is judged by, as they are logged. A step down its gradient lowers it."""
    method = plugin("methods", name)(epochs=2, cells=3, channels=8)
    search = small_search(method=method, order="first", cost=CostConfig("multiply_adds"))
    costs, params = search.method.costs, list(search.A.params.values())
    assert costs

    def logged() -> float:
        return costs.metrics(search.stage, search.relaxation(), search.genotype())["cost/expected_share"]

    loss = search.method.penalty(search.A) - method.arch_loss([p for p in params if p.dim() == 2], search.method.times)
    before = logged()
    assert loss.item() == pytest.approx(0.2 * before, rel=1e-5)
    for p, slope in zip(params, torch.autograd.grad(loss, params), strict=True):
        p.data -= 100 * slope
    assert logged() < before


def test_the_even_mixture_is_the_measure() -> None:
    """In Fair DARTS too, whose weights of an edge do not sum to 1."""
    for method in (darts.Config(epochs=1, cells=3), fairdarts.Config(epochs=1, cells=3)):
        search = small_search(method=method, cost=CostConfig("parameters"))
        costs = search.method.costs
        assert costs
        even = [torch.full(share.shape, 1 / share.shape[1], dtype=torch.float64) for share in costs.of(search.stage)]
        assert float(costs.expected(costs.shares(search.stage), even)) == pytest.approx(1)
        assert costs.even == pytest.approx(
            sum(sum(edge[name] for name in names) / len(names) for cell in costs.table for edge in cell
                for names in [search.stage.operations[0][0]])
        )  # fmt: skip


def test_a_resumed_search_has_the_same_bits() -> None:
    asked = {"method": darts.Config(epochs=1, cells=3, channels=4), "cost": CostConfig("parameters", 1.0)}
    ensure_same_bits_after_resume(small_search(**asked), small_search(**asked))


def test_the_derived_network_is_the_one_that_evaluate_trains() -> None:
    digits = preset("quickstart").config
    assert derived_size(digits) == (5, 8)
    assert derived_size(preset("darts-1st").config) == (20, 36)
    assert derived_size(preset("nasbench201-darts-1st").config) == (17, 16)
    assert derived_size(override(digits, {"cost.kind": "parameters", "cost.cells": 7})) == (7, 8)


def test_runs_of_before_go_on_and_others_are_told_apart() -> None:
    config = preset("quickstart").config
    assert not [path for path in mathematics(config) if path.startswith("cost.")]
    asked = override(config, {"cost.kind": "parameters"})
    assert mathematics(asked)["cost.kind"] == "parameters" and mathematics(asked)["cost.weight"] == 0.2
    old = {name: value for name, value in to_json(config).items() if name != "cost"}
    assert from_json(old) == config and from_json(to_json(asked)) == asked


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("quickstart", {"cost.weight": 0.5}, r"cost.weight 0.5: it has no effect without --cost.kind"),
        ("quickstart", {"cost.kind": "parameters", "cost.weight": -1.0}, r"cost.weight -1.0: expected .* at least 0"),
        ("quickstart", {"cost.kind": "parameters", "cost.cells": 2}, r"cost.cells 2: expected a number between 3"),
        ("quickstart", {"cost.kind": "size"}, r"cost.kind 'size': expected none or parameters or"),
        ("random", {"cost.kind": "parameters"}, r"cost.kind parameters: random takes no step of A"),
    ],
)
def test_what_has_no_effect_or_no_meaning_is_refused(name: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=rf"^{says}[^\n]*$"):
        override(preset(name).config, changes)


def test_a_size_that_no_network_has_is_refused() -> None:
    for space, cost, says in (
        ("nasbench201", CostConfig("parameters", cells=7), r"cost.cells 7, cost.channels \d+: cells = 7"),
        ("darts", CostConfig("parameters", channels=5), r"cost.cells \d+, cost.channels 5: channels = 5: .* even"),
    ):
        with pytest.raises(ValueError, match=rf"^{says}[^\n]*$"):
            costs_of(replace(small_search().config, search_space=space, cost=cost), 16, torch.device("cpu"))


def test_a_run_logs_it_and_its_page_shows_it(tmp_path: Path) -> None:
    config: SearchConfig = replace(
        in_201(cost=CostConfig("parameters", 2.0, cells=5, channels=4)).config, order="first"
    )
    main(config, tmp_path / "run")
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "val/accuracy" in row]
    assert len(rows) == 2
    cell = CellGenotype.from_json((tmp_path / "run" / "genotype.json").read_text())
    sizes = {"channels": 4, "cells": 5, "classes": 10, "image_size": 16}
    empty = measure_genotype(CellGenotype(("none",) * 6), **sizes)["parameters"]
    assert rows[-1]["cost/derived_parameters"] == measure_genotype(cell, **sizes)["parameters"] - empty
    assert rows[1]["cost/expected_share"] < rows[0]["cost/expected_share"] < 1.01
    assert "Cost of the operations" in report(tmp_path / "run").read_text()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["cost"]["weight"] == 2.0


def test_costs_of_a_space_are_those_of_its_own_networks() -> None:
    """NAS-Bench-201's keep their shape on every edge; with the same channels all six edges cost the same."""
    config = in_201(cost=CostConfig("parameters", cells=8, channels=6)).config
    costs = costs_of(config, 16, torch.device("cpu"))
    assert costs and len({tuple(edge.items()) for edge in costs.table[0]}) == 1
    assert [costs.table[0][0][name] for name in nasbench201.OPERATIONS] == differences("parameters")[0].tolist()


def test_latencies_are_measured_once_a_run_and_go_on(tmp_path: Path) -> None:
    """`none` takes no time, a convolution takes longer than a skip connection, and each is seen at each place."""
    config = replace(in_201(cost=CostConfig("latency", 1.0, cells=5, channels=8)).config, order="first")
    main(config, tmp_path / "run")
    path = tmp_path / "run" / "latency.json"
    known = json.loads(path.read_text())
    assert len(known["ms"]) == 3 * 4 and "cpu" in known["device"]
    ms = known["ms"]
    assert 0 < ms["skip_connect 8x16x16, stride 1"] < ms["nor_conv_3x3 8x16x16, stride 1"] < 100
    costs = costs_of(config, 16, torch.device("cpu"), ms)
    assert costs and costs.table[0][3]["nor_conv_1x1"] == pytest.approx(
        sum(ms[f"nor_conv_1x1 {8 * n}x{16 // n}x{16 // n}, stride 1"] for n in (1, 2, 4))
    )
    assert costs.table[0][0]["none"] == 0
    before = path.read_bytes()
    main(replace(config, method=replace(config.method, epochs=3)), tmp_path / "run")
    assert path.read_bytes() == before
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if "cost/derived_latency" in row]
    assert len(rows) == 3
    with pytest.raises(ValueError, match=r"^latency.json has no time of skip_connect 8x[^\n]*remove the file[^\n]*$"):
        costs_of(config, 16, torch.device("cpu"), {})
