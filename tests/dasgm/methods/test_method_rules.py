"""What sets the methods apart, against facts/nas-methods and rules written out again: schedules, pruning, genotypes."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from dasgm.bilevel import Player, dominant_eigenvalue
from dasgm.config import SearchConfig, mathematics, override
from dasgm.genotype import EDGES, PRIMITIVES
from dasgm.jobs.search import Hooks, main
from dasgm.methods import darts, pcdarts, pdarts, sgas
from dasgm.methods._base import Relaxation
from dasgm.methods._hooks import architecture_metrics
from dasgm.networks.supernet import Architecture, Supernet
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.spaces.darts import SearchSpace
from dasgm.store.records import read_lines

SPACE = SearchSpace()
INPUTS = (2, 3, 4, 5)


def softmaxed(seed: int, counts: tuple[int, ...] = (8,) * EDGES) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator).softmax(0).tolist() for n in counts]


@pytest.mark.parametrize(
    ("method", "weights", "architecture"), [(pcdarts, 299_578, 252), (darts, 1_930_618, 224), (pdarts, 1_275_834, 224)]
)
def test_sizes_of_the_first_supernet(method, weights, architecture):
    stage = method.Config().first(SPACE)
    assert sum(p.numel() for p in Supernet(stage, 10).parameters()) == weights
    assert sum(p.numel() for p in Architecture(stage, SPACE).parameters()) == architecture


def test_learning_rates_by_epoch():
    """Facts 1.2: e/T, constant within an epoch."""
    base = preset("darts-2nd").config
    assert [base.learning_rate(e, 50) for e in (0, 1, 25, 49)] == pytest.approx(
        [0.025, 0.024976321, 0.013, 0.001023679]
    )
    to_zero = replace(base, classifier_lr_min=0.0)
    assert replace(to_zero, classifier_lr=0.1).learning_rate(49, 50) == pytest.approx(9.8664e-5, rel=1e-4)
    assert to_zero.learning_rate(24, 25) == pytest.approx(9.8566e-5, rel=1e-4)


def test_skip_dropout_by_epoch():
    """Facts 1.2.3: linear until architecture steps begin, then exponential from the whole rate."""
    method = pdarts.Config()
    stage = method.outline(SPACE)[1]
    assert stage.skip_dropout == 0.4
    rates = {e: method.regularisation(stage, e).skip_dropout for e in (0, 9, 10, 11, 24)}
    assert rates == pytest.approx({0: 0.384, 9: 0.24, 10: 0.4, 11: 0.3275, 24: 0.0243}, abs=5e-5)


def test_stages_of_pdarts():
    stages = pdarts.Config().outline(SPACE)
    assert [s.cells for s in stages] == [5, 11, 17]
    assert [len(s.operations[0][0]) for s in stages] == [8, 5, 3]
    assert [s.epochs for s in stages] == [25, 25, 25] and preset("pdarts").config.total_epochs == 75
    assert [s.skip_dropout for s in stages] == [0.1, 0.4, 0.7]
    assert [s.arch_start_epoch for s in stages] == [10, 10, 10]


def test_pruning_drops_the_weakest_of_each_edge():
    method = pdarts.Config()
    stage, seen = method.first(SPACE), []
    for index, (drop, left) in enumerate(((3, 5), (2, 3)), 1):
        counts = tuple(map(len, stage.operations[0]))
        normal, reduce = softmaxed(index, counts), softmaxed(10 + index, counts)
        following = method.next(SPACE, stage, Relaxation((normal, reduce)))
        assert following.index == index and following.cells == (5, 11, 17)[index]
        for before, after, weights in zip(stage.operations, following.operations, (normal, reduce), strict=True):
            for old, new, w in zip(before, after, weights, strict=True):
                alive = dict(zip(old, w, strict=True))
                for _ in range(drop):  # one at a time, the least of all, `none` as any other
                    del alive[min(alive, key=alive.__getitem__)]
                assert list(new) == list(alive) and len(new) == left
            seen.append({tuple(names) for names in after})
        stage = following
    assert all(len(kinds) > 1 for kinds in seen), "the surviving operations differ from edge to edge"
    last = Relaxation((softmaxed(0, (3,) * EDGES), softmaxed(1, (3,) * EDGES)))
    assert method.next(SPACE, stage, last) is None


def cell_by_hand(operations, probabilities, cap=None):
    """Facts 1.2.3, written out on a table of probabilities by (node, input, operation)."""
    table, edge = {}, 0
    for node, inputs in enumerate(INPUTS):
        for source in range(inputs):
            for name, p in zip(operations[edge], probabilities[edge], strict=True):
                table[node, source, name] = 0.0 if name == "none" else p
            edge += 1
    while True:
        chosen = []
        for node, inputs in enumerate(INPUTS):
            best = []
            for source in range(inputs):
                here = {n: p for (a, b, n), p in table.items() if (a, b) == (node, source) and n != "none"}
                name = max(here, key=here.__getitem__)
                best.append((here[name], source, name))
            kept = sorted(sorted(best, reverse=True)[:2], key=lambda found: found[1])
            chosen += [(node, source, name) for _, source, name in kept]
        skips = [key for key in chosen if key[2] == "skip_connect"]
        if cap is None or len(skips) <= cap:
            return [(name, source) for _, source, name in chosen]
        table[min(skips, key=table.__getitem__)] = 0.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cap", [0, 1, 2, 8])
def test_final_rule_and_cap_of_pdarts(seed, cap):
    draw = random.Random(seed)
    others = [name for name in PRIMITIVES if name != "skip_connect"]
    kept = [{"skip_connect", *draw.sample(others, 2)} for _ in range(EDGES)]
    operations = tuple(tuple(n for n in PRIMITIVES if n in names) for names in kept)
    weights = softmaxed(seed, (3,) * EDGES)
    # skips strong, so that the cap has something to do
    weights = [
        [3 * w if n == "skip_connect" else w for n, w in zip(names, row, strict=True)]
        for names, row in zip(operations, weights, strict=True)
    ]
    method = pdarts.Config(max_skips=cap)
    stage = replace(method.outline(SPACE)[2], operations=(operations, operations))
    genotype = method.genotype(SPACE, stage, Relaxation((weights, weights)))
    assert list(genotype.normal) == cell_by_hand(operations, weights, cap)
    assert list(genotype.reduce) == cell_by_hand(operations, weights), "the cap is the normal cell's alone"
    assert sum(name == "skip_connect" for name, _ in genotype.normal) <= cap
    uncapped = [name for name, _ in cell_by_hand(operations, weights)]
    assert uncapped.count("skip_connect") > 2


def test_edge_weights_choose_edges_and_never_operations():
    """PC-DARTS: alphas alone give each edge's operation, alphas times betas the two edges."""
    method = pcdarts.Config()
    alphas = softmaxed(3)
    betas = [b for inputs in INPUTS for b in torch.linspace(-2, 2, inputs).softmax(0).tolist()]
    genotype = method.genotype(SPACE, method.first(SPACE), Relaxation((alphas, alphas), (betas, betas)))
    first, expected = 0, []
    for inputs in INPUTS:
        strength = {}
        for source in range(inputs):
            w, name = max(zip(alphas[first + source][1:], PRIMITIVES[1:], strict=True))
            strength[source] = (w * betas[first + source], name)
        best = sorted(strength, key=lambda s: -strength[s][0])[:2]
        expected += [(strength[s][1], s) for s in best]
        first += inputs
    assert list(genotype.normal) == expected
    plain = darts.Config().genotype(SPACE, darts.Config().first(SPACE), Relaxation((alphas, alphas)))
    assert plain != genotype, "the edge weights matter"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"operations": (8, 5)}, "added_cells"),
        ({"operations": (8, 9, 3)}, "never rise"),
        ({"operations": (8, 5, 2)}, "at least 3"),
        ({"operations": (7, 5, 3)}, "begins with all 8"),
        ({"skip_dropout_rates": (0.1, 1.0, 0.2)}, "below 1"),
        ({"max_skips": -1}, "max_skips -1"),
    ],
)
def test_settings_of_pdarts_that_make_no_sense(settings, words):
    with pytest.raises(ValueError, match=words):
        pdarts.Config(**settings)


# collapse


def small(**changes: object) -> SearchConfig:
    asked = {"gan": "none", "batch_size": 16, "data.limit": 200, **changes}
    return override(preset("quickstart").config, asked)


def test_dominant_eigenvalue_is_that_of_the_whole_hessian():
    torch.manual_seed(0)

    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4).double()), nn.Parameter(torch.randn(2, 3).double())

        def forward(self):
            return self.a, self.b

    x, mix = Player(Vector()), torch.randn(10, 10).double()

    def f_of(flat):
        return (mix @ flat).tanh().square().sum() + flat.pow(4).sum()

    def f(point):
        a, b = point()
        return f_of(torch.cat([a, b.flatten()]))

    flat = torch.cat([p.detach().flatten() for p in x.params.values()])
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(f_of, flat))
    largest = values[values.abs().argmax()].item()
    errors = []
    for radius in (0.02, 0.01, 1e-4):
        found = dominant_eigenvalue(f, x, radius, iterations=500, tolerance=1e-11)
        errors.append(abs(found / largest - 1))
    assert 3.5 < errors[0] / errors[1] < 4.5, "the error of a central difference falls fourfold when eps is halved"
    assert errors[2] < 1e-7


def test_hessian_of_a_search_moves_nothing():
    config = small()
    search = Search(config, config.data.load(None))
    search.schedule()
    search.iterate()
    before = copy.deepcopy(search.state_dict())
    assert search.hessian() != 0.0
    after = search.state_dict()
    for player in "WA":
        for name, tensor in before[player]["module"].items():
            assert torch.equal(tensor, after[player]["module"][name]), name


def test_collapse_ends_a_stage_once_architecture_steps_have_begun():
    config = small(**{"stop_skips": 2, "stop_entropy": 1.0, "method.epochs": 5, "method.arch_start_epoch": 2})
    search = Search(config, config.data.load(None))
    good = {"arch/skips_normal": 1, "arch/entropy_normal": 1.5}
    skips, sharp = good | {"arch/skips_normal": 2}, good | {"arch/entropy_normal": 0.9}
    assert search.collapsed(skips) == "", "alphas still are what they were drawn as"
    search.left = 3
    assert search.epoch == 2 and search.collapsed(good) == ""
    assert "2 skip connections (stop-skips 2)" in search.collapsed(skips)
    assert "0.900 (stop-entropy 1.0)" in search.collapsed(sharp)
    off = Search(small(), search.data)
    off.left = 0
    assert off.collapsed({"arch/skips_normal": 8, "arch/entropy_normal": 0.0}) == ""


def test_skips_and_entropy_are_counted():
    """On hand-made weights: of the edges 0 to 4, into the first two nodes, those with a skip connection ahead."""

    def weights(skips: tuple[int, ...]) -> list[list[float]]:
        ahead = [3 if edge in skips else 4 for edge in range(EDGES)]  # of PRIMITIVES: skip_connect, sep_conv_3x3
        return [[0.3 if i == best else 0.1 for i in range(8)] for best in ahead]

    even, sharp = [[0.125] * 8] * EDGES, [[0.0] * 4 + [1.0] + [0.0] * 3] * EDGES
    relaxation = Relaxation((weights((0, 1, 2, 3)), weights((1,))))
    for method in (darts, pdarts):  # whose genotype has 2 at most
        found = architecture_metrics(SPACE, method.Config().first(SPACE), relaxation)
        assert found["arch/skips_normal"] == 4 and found["arch/skips_reduce"] == 1
    capped = pdarts.Config().genotype(SPACE, pdarts.Config().first(SPACE), relaxation)
    assert sum(name == "skip_connect" for name, _ in capped.normal) == 2
    found = architecture_metrics(SPACE, darts.Config().first(SPACE), Relaxation((even, sharp)))
    assert found["arch/entropy_normal"] == pytest.approx(2.0794415) and found["arch/entropy_reduce"] < 1e-9


# stages


def staged() -> SearchConfig:
    tiny = {"data.limit": 120, "pictures_every": 9, "gan.channels": 4, "gan.shared_dim": 8, "gan.warmup": 0}
    config = small(**{"gan": "biggan"}, **tiny)
    method = pdarts.Config(epochs=2, cells=3, channels=2, arch_start_epoch=1, added_cells=(0, 1, 2))
    return replace(config, method=method, proxy=replace(config.proxy, epochs=1, channels=4))


def test_stage_change_keeps_the_gan_and_renews_the_rest():
    config = staged()
    search = Search(config, config.data.load(None))
    for left in (2, 1):
        search.left = left
        search.schedule()
        search.iterate()
    gan = [copy.deepcopy(player.state_dict()) for player in search.gan.players]
    old, architecture = search.size, search.A
    following = config.method.next(SPACE, search.stage, search.relaxation())
    search.enter(following)
    assert search.left == 2 and search.epoch == 0 and search.size != old and search.A is not architecture
    for before, player in zip(gan, search.gan.players, strict=True):
        after = player.state_dict()
        assert before["steps"] == after["steps"] > 0
        assert all(torch.equal(t, after["module"][k]) for k, t in before["module"].items())
        for i, moments in before["optimizer"].items():
            assert all(torch.equal(t, after["optimizer"][i][k]) for k, t in moments.items())
    for player in (search.W, search.A):
        assert player.steps == 0 and not player.optimizer.state_dict()["state"]
        assert all(p.requires_grad for p in player.params.values())
    assert {len(names) for names in search.stage.operations[0]} == {5}
    assert len(set(search.stage.operations[0])) > 1


@dataclass(frozen=True)
class Uneven(darts.Config):
    """Two stages, the second longer than the first."""

    def outline(self, space):
        first = self.first(space)
        return first, replace(first, index=1, epochs=3 * first.epochs)

    def next(self, space, stage, relaxation):
        return self.outline(space)[1] if stage.index == 0 else None


def test_stages_of_different_lengths_go_on_where_they_were():
    config = small()
    config = replace(config, method=Uneven(epochs=2, cells=3, channels=2))
    search, again = (Search(config, config.data.load(None)) for _ in range(2))
    assert config.total_epochs == 8
    search.enter(config.method.next(SPACE, search.stage, search.relaxation()))
    search.left = 4
    again.load_state_dict(copy.deepcopy(search.state_dict()))
    assert (again.stage, again.left, again.epoch) == (search.stage, 4, 2)


def test_a_stage_that_0_2_0_wrote_is_read():
    config = staged()
    search, again = (Search(config, config.data.load(None)) for _ in range(2))
    search.enter(config.method.next(SPACE, search.stage, search.relaxation()))
    state = copy.deepcopy(search.state_dict())
    state["stage"]["normal_operations"], state["stage"]["reduce_operations"] = state["stage"].pop("operations")
    again.load_state_dict(state)
    assert again.stage == search.stage
    assert all(torch.equal(p, again.A.params[name]) for name, p in search.A.params.items())


class Killed(BaseException):
    """As if the process were gone."""


def run(folder, kill: tuple[int, int] | None = None):
    """All that must not depend on where a run was interrupted, and what was said."""
    said = []

    def watch(epoch: int, epochs: int, iteration: int, iterations: int) -> None:
        assert epochs == 6
        if (epoch, iteration) == kill:
            raise Killed

    row = main(staged(), folder, Hooks(say=said.append, watch=watch))
    lines = read_lines(folder / "metrics.jsonl")
    plain = [{k: v for k, v in line.items() if not k.startswith(("time", "speed/", "cost/"))} for line in lines]
    return (plain, (folder / "genotype.json").read_text(), row["best/proxy"]), said


@pytest.mark.faults
def test_a_kill_in_any_stage_goes_on_exactly_there(tmp_path):
    torch.set_num_threads(1)
    undisturbed, said = run(tmp_path / "whole")
    assert [line["phase"] for line in undisturbed[0]] == [*(f"search {s}" for s in (1, 1, 2, 2, 3, 3)), "best"]
    sizes = [line["arch/supernet_parameters"] for line in undisturbed[0][:-1]]
    assert sizes[0] == sizes[1] and len(set(sizes)) == 3
    stages = [line for line in said if line.startswith("stage")]
    assert len(stages) == 3 and f"{sizes[2]:,} weights" in stages[1] and "4 cells, 5 operations an edge" in stages[1]
    kills = ((1, 1), (3, 0), (4, 1), (5, 2))  # in each stage, one after the other in one run
    for kill in kills:
        with pytest.raises(Killed):
            run(tmp_path / "killed", kill)
        assert len(read_lines(tmp_path / "killed" / "metrics.jsonl")) == kill[0] - 1
    found, said = run(tmp_path / "killed")
    assert found == undisturbed
    assert any(line.startswith("going on after epoch 4 of ") for line in said)


def test_collapse_ends_every_stage_and_the_search_ends_once(tmp_path):
    torch.set_num_threads(1)
    config = small(**{"stop_entropy": 9.0, "proxy.epochs": 0, "data.limit": 80})
    method = pdarts.Config(epochs=3, cells=3, channels=2, arch_start_epoch=1, added_cells=(0, 0, 0))
    config, said = replace(config, method=method), list[str]()
    row = main(config, tmp_path / "run", Hooks(say=said.append))
    phases = [line["phase"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert phases == [*(f"search {s}" for s in (1, 1, 2, 2, 3, 3)), "best"]
    stopped = [line.split(":")[0] for line in said if "stopped early" in line]
    assert stopped == [f"stopped early after epoch {epoch}" for epoch in (2, 4, 6)]
    assert not any("no architecture step" in line for line in said)
    assert main(config, tmp_path / "run", Hooks(say=said.append)) == row


def test_a_stage_without_architecture_steps_says_so(tmp_path):
    config, said = small(**{"proxy.epochs": 0, "data.limit": 80}), list[str]()
    method = sgas.Config(epochs=1, cells=3, channels=2, arch_start_epoch=1)
    main(replace(config, method=method), tmp_path / "run", Hooks(say=said.append))
    assert any(line.startswith("SGAS decides 0 of the 8 edges of a cell before") for line in said)
    told = "no architecture step is taken: the first is in epoch 2, after the last (1)"
    assert sum(told in line for line in said) == 1


def test_more_epochs_of_a_stage_are_another_search():  # what it dropped after 2 is not what it drops after 3
    assert "method.epochs" in mathematics(staged()) and "method.epochs" not in mathematics(small())


def test_without_a_gan_any_size_the_cells_can_halve_twice(tmp_path):
    changes = {"data.image_size": 20, "data.limit": 80, "method.epochs": 1, "method.arch_start_epoch": 0}
    said: list[str] = []
    row = main(small(**{"proxy.epochs": 0, **changes}), tmp_path / "run", Hooks(say=said.append))
    assert any("20x20 pixels" in line for line in said) and row["phase"] == "best"
