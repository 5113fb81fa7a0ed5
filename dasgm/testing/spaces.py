"""What every search space must hold."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dasgm.config import SearchConfig
from dasgm.genotype import Genotype, edge_number, genotype_text
from dasgm.measures.costs import costs_of
from dasgm.measures.counts import measure_genotype
from dasgm.methods import darts
from dasgm.methods._base import Relaxation, Stage
from dasgm.methods._cost import CostConfig
from dasgm.networks.carry import blocks
from dasgm.networks.regularisation import Regularisation
from dasgm.networks.supernet import Architecture, Mixture
from dasgm.plugins import key_of
from dasgm.presets import preset
from dasgm.spaces._base import SearchSpace
from dasgm.testing._plugins import (
    ensure_same_bits_after_resume,
    ensure_same_bits_with_draws_made_before,
    ensure_two_routes_agree,
    small_search,
)

CLASSES, CHANNELS = 5, 4


class SpaceConformance:
    """Subclass it with a fixture `space`: an instance of your `SearchSpace`. Its networks are tested with 4 channels
    and as few cells as it names (`smallest`).
    """

    @pytest.fixture(autouse=True)
    def seeded(self) -> None:
        torch.manual_seed(0)

    @pytest.fixture
    def config(self, space: SearchSpace) -> SearchConfig:
        """A small search in the space, without a GAN."""
        method = darts.Config(epochs=1, cells=space.smallest, channels=CHANNELS)
        small = replace(small_search().config, batch_size=8, search_space=key_of(space), method=method)
        return replace(small, proxy=replace(small.proxy, cells=space.smallest))

    @pytest.fixture
    def stage(self, config: SearchConfig) -> Stage:
        return config.stages[0]

    def test_its_key_leads_to_it(self, space: SearchSpace) -> None:
        """`--search-space KEY` finds it, and preset by preset a search can be made in it."""
        config = replace(preset("darts-1st").config, search_space=key_of(space))
        assert type(config.space) is type(space)

    def test_it_does_not_import_torch(self, space: SearchSpace) -> None:
        """`--help` imports every space and must be quick: import torch within functions."""
        module = type(space).__module__
        code = (
            f"import sys, {module}; {module}.SearchSpace(); sys.exit('torch' in sys.modules and 'torch was imported')"
        )
        path = os.pathsep.join(filter(None, sys.path))
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})

    def test_its_description_fits_its_cells(self, space: SearchSpace) -> None:
        assert len(space.cell_types) == len(space.titles) == len(space.everything) > 0
        assert all(len(cell) == space.edges == sum(space.inputs) for cell in space.everything)
        assert len(space.states) == space.inputs[0] + len(space.inputs)
        assert set(space.recipes) >= {""} and "cifar" in space.sizes
        assert sorted(space.dearest) == sorted(space.operations)

    def test_operations_are_ordered_by_their_cost(self, space: SearchSpace, stage: Stage) -> None:
        """By the weights of a supernet that has the operation alone."""

        def size(name: str) -> int:
            operations = (((name,),) * space.edges,) * len(space.cell_types)
            return sum(p.numel() for p in space.supernet(replace(stage, operations=operations), CLASSES).parameters())

        with torch.device("meta"):
            sizes = [size(name) for name in space.dearest if name != "none"]
        assert sizes == sorted(sizes, reverse=True)

    @pytest.mark.parametrize("kind", ["parameters", "multiply_adds"])
    def test_costs_of_operations_are_those_of_whole_networks(
        self, space: SearchSpace, config: SearchConfig, kind: Any
    ) -> None:
        """Genotypes differ by the costs of their operations, and by nothing else; a one-hot mixture is expected to
        cost what they do."""
        asked = CostConfig(kind, cells=space.smallest + 3, channels=CHANNELS)
        try:
            costs = costs_of(replace(config, cost=asked), 16, torch.device("cpu"))
        except ValueError as error:
            pytest.skip(str(error))
        assert costs is not None
        sizes: dict[str, Any] = {
            "channels": CHANNELS,
            "cells": space.smallest + 3,
            "classes": CLASSES,
            "image_size": 16,
        }
        left, first = set(), config.stages[0]
        for genotype in map(space.random, range(6)):
            derived = costs.derived(genotype)
            left.add(measure_genotype(genotype, **sizes)[kind] - derived)
            chosen = [
                {(target - space.inputs[0], source): name for name, source, target in graph.edges}
                for graph in genotype.graphs.values()
            ]
            pairs = [(node, source) for node, number in enumerate(space.inputs) for source in range(number)]
            cells = [
                torch.tensor([
                    [float(name == of.get(pair, "none")) for name in names]
                    for pair, names in zip(pairs, operations, strict=True)
                ])
                for of, operations in zip(chosen, first.operations, strict=True)
            ]  # fmt: skip
            assert costs.expected(costs.of(first), cells).item() == derived
        assert len(left) == 1, "stem, preprocessing and head"

    def test_random_genotypes_are_seeded_and_differ(self, space: SearchSpace) -> None:
        assert space.random(1) == space.random(1)
        assert len({space.random(seed) for seed in range(20)}) > 10
        with pytest.raises(ValueError, match=r"^seed -1: [^\n]*at least 0$"):
            space.random(-1)

    def test_genotypes_are_read_as_they_are_written(self, space: SearchSpace) -> None:
        for genotype in (*map(space.random, range(20)), *space.known.values()):
            assert key_of(genotype.space) == key_of(space)
            for read in (Genotype.from_json, Genotype.parse):
                assert read(genotype.to_json()) == genotype
            assert set(genotype.graphs) == set(genotype.lines()) == set(space.cell_types)
            for graph in genotype.graphs.values():
                assert all(name in space.operations and source < target for name, source, target in graph.edges)
        assert genotype_text(space.example) and not genotype_text("a-name")

    def test_networks_compute_logits_and_all_gradients(self, space: SearchSpace) -> None:
        for genotype in map(space.random, range(5)):
            network = genotype.build(CHANNELS, space.smallest, CLASSES)
            logits = network(torch.randn(2, 3, 16, 16))
            assert logits.shape == (2, CLASSES) and logits.isfinite().all()
            F.cross_entropy(logits, torch.tensor([0, 1])).backward()
            if genotype.connected:
                slopes = [p.grad for name, p in network.named_parameters() if name.startswith("stem.")]
                assert all(slope is not None and slope.abs().max() > 0 for slope in slopes)

    def test_supernet_uses_every_weight_and_every_choice(self, space: SearchSpace, stage: Stage) -> None:
        W, A = space.supernet(stage, CLASSES), Architecture(stage, space)
        assert {name for name, _ in A.named_parameters()} == {f"alphas_{kind}" for kind in space.cell_types}
        loss = F.cross_entropy(W(torch.randn(4, 3, 16, 16), A()), torch.arange(4))
        grads = torch.autograd.grad(loss, [*W.parameters(), *A.parameters()])
        assert all(g.isfinite().all() and g.abs().max() > 0 for g in grads)

    def test_supernet_drops_results_where_the_space_says_so(self, space: SearchSpace, stage: Stage) -> None:
        """Drawn anew in each pass in training mode, and never in evaluation mode."""
        if not space.drops_paths:
            pytest.skip("the space has no drop path")
        W: Any = space.supernet(stage, CLASSES)
        mixture, x = Architecture(stage, space)(), torch.randn(4, 3, 16, 16)

        def passes(drop_path: float) -> tuple[torch.Tensor, torch.Tensor]:
            W.regularisation = Regularisation(drop_path=drop_path)
            return W(x, mixture), W(x, mixture)

        whole, again = passes(0.0)
        dropped, otherwise = passes(0.5)
        assert torch.equal(whole, again) and not torch.equal(dropped, otherwise)
        W.eval()
        assert torch.equal(*passes(0.5)) and torch.equal(passes(0.5)[0], passes(0.0)[0])

    def test_a_supernet_that_loses_operations_computes_as_without_them(self, space: SearchSpace, stage: Stage) -> None:
        """Each edge loses another one; the larger supernet gives them no weight."""
        n = len(space.operations)
        edges = [[o for o in range(n) if o != 1 + edge % (n - 1)] for edge in range(space.edges)]
        left = tuple(tuple(space.operations[o] for o in of_edge) for of_edge in edges)
        before = space.supernet(stage, CLASSES)
        after = space.supernet(replace(stage, operations=(left,) * len(space.cell_types)), CLASSES)
        kept, own = blocks(before, after)(before.state_dict()), after.state_dict()
        after.load_state_dict({name: t for name, t in kept.items() if name in own})
        mixture = Mixture(tuple(torch.rand(space.edges, n - 1) for _ in space.cell_types))
        places = torch.tensor(edges)
        wide = Mixture(tuple(torch.zeros(space.edges, n).scatter(1, places, w) for w in mixture.cells))
        x = torch.randn(4, 3, 16, 16)
        torch.testing.assert_close(after(x, mixture), before(x, wide))

    def test_the_strongest_operations_are_derived(self, space: SearchSpace) -> None:
        """From weights that favour one operation on each edge, chosen at random."""
        draws = torch.rand(len(space.cell_types), space.edges, len(space.operations))
        draws[..., 0] = 0  # `none`, which DARTS never derives
        cells = tuple(cell.tolist() for cell in draws)
        genotype = darts.Config().genotype(space, darts.Config().first(space), Relaxation(cells))
        for weights, graph in zip(draws, genotype.graphs.values(), strict=True):
            assert graph.edges
            for name, source, target in graph.edges:
                edge = edge_number(space.inputs, target - space.inputs[0], source)
                assert name == space.operations[int(weights[edge].argmax())]

    def test_a_search_iterates_and_resumes_with_the_same_bits(self, config: SearchConfig) -> None:
        ensure_same_bits_after_resume(small_search(**_parts(config)), small_search(**_parts(config)))

    def test_draws_can_be_made_before_an_iteration(self, config: SearchConfig) -> None:
        """What a GPU needs in order not to be waited for."""
        ensure_same_bits_with_draws_made_before(small_search(**_parts(config)), small_search(**_parts(config)))

    def test_second_derivatives_by_two_routes(self, space: SearchSpace, stage: Stage) -> None:
        """Double backward equals forward mode over the gradient, from W to A, in float64."""
        W, A = space.supernet(stage, CLASSES).double(), Architecture(stage, space).double()
        x, y = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.arange(4)
        ensure_two_routes_agree(W, A, x, y)


def _parts(config: SearchConfig) -> dict[str, object]:
    return {"search_space": config.search_space, "method": config.method, "batch_size": config.batch_size}
