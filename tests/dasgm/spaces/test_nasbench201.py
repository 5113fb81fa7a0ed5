"""NAS-Bench-201: published counts, its strings, and its networks against their plain form."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import textbook201
import textbook_steps
import torch
from formulas import disturb
from PIL import Image
from smooth import SIZE, images
from textbook201 import EDGES, OPERATIONS, as_textbook201
from torch import nn
from torch.nn import functional as F
from transplants import drop_paths_alike, ensure_same_iterations

from dasgm.cli import main as cli
from dasgm.config import SearchConfig, override
from dasgm.data._base import DataConfig
from dasgm.genotype import Genotype, name_of
from dasgm.jobs.evaluate import main as evaluate
from dasgm.jobs.means import LOSSES
from dasgm.jobs.proxy import Proxy
from dasgm.jobs.session import Hooks
from dasgm.measures.counts import measure
from dasgm.methods import darts, pcdarts, pdarts
from dasgm.methods._base import Relaxation, Stage
from dasgm.networks import operations
from dasgm.networks.nasbench201 import Supernet
from dasgm.networks.supernet import Architecture, Mixture
from dasgm.plugins import keys
from dasgm.presets import preset
from dasgm.recipes import RECIPES
from dasgm.search import Search
from dasgm.spaces.nasbench201 import EXAMPLE, CellGenotype, SearchSpace
from dasgm.store.run import Run

pytestmark = pytest.mark.usefixtures("seeded")

SPACE = SearchSpace()
STAGE = darts.Config(cells=5, channels=4).first(SPACE)
FULL = darts.Config(cells=17, channels=16).first(SPACE)
SKIPS, NONES, ONES, THREES = ((name,) * 6 for name in ("skip_connect", "none", "nor_conv_1x1", "nor_conv_3x3"))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("cell", "classes", "parameters"),
    [
        (SKIPS, 10, 73_306),
        (NONES, 10, 73_306),
        (SKIPS, 100, 79_156),
        (SKIPS, 120, 80_456),
        (ONES, 10, 241_306),
        (THREES, 10, 1_531_546),
        (THREES, 100, 1_537_396),
    ],
)
def test_counts_of_the_networks(cell: tuple[str, ...], classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(CellGenotype(cell).build(16, 17, classes)) == parameters
    found = measure(str(CellGenotype(cell)))
    assert (found["cells"], found["channels"], "parameters_with_auxiliary" in found) == (17, 16, False)


def test_counts_of_the_supernet() -> None:
    with torch.device("meta"):
        supernet = Supernet(FULL, 10)
    assert count(supernet) == 1_686_106 and count(Architecture(FULL, SPACE)) == 30
    assert sum(p.numel() for name, p in supernet.named_parameters() if ".fans." in name) == 1_612_800
    found = measure("nasbench201-darts-1st")
    assert (found["supernet_parameters"], found["architecture_parameters"]) == (1_686_106, 30)


def test_architectures_and_those_without_a_path() -> None:
    """15,625 strings, of which 341 connect the input with nothing: counted on matrices of the graph."""
    texts, without = set(), 0
    for cell in itertools.product(OPERATIONS, repeat=6):
        genotype = CellGenotype(cell)
        texts.add(str(genotype))
        graph = torch.zeros(4, 4)
        for (source, target), name in zip(EDGES, cell, strict=True):
            graph[source, target] = float(name != "none")
        paths = (graph + graph @ graph + graph @ graph @ graph)[0, 3] > 0
        assert genotype.connected == bool(paths)
        without += not paths
    assert (len(texts), without) == (5**6, 341)


def test_rows_of_the_architecture_are_the_authors() -> None:
    """1<-0, 2<-0, 2<-1, 3<-0, 3<-1, 3<-2, each the strongest operation, `none` included."""
    weights = [[0.1] * 5 for _ in range(6)]
    chosen = ("nor_conv_1x1", "none", "avg_pool_3x3", "skip_connect", "nor_conv_3x3", "none")
    for row, name in zip(weights, chosen, strict=True):
        row[OPERATIONS.index(name)] = 0.6
    genotype = darts.Config().genotype(SPACE, STAGE, Relaxation((weights,)))
    assert str(genotype) == ("|nor_conv_1x1~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|")
    assert genotype.lines() == {"cell": str(genotype)}


def test_genotypes_are_recognised_by_their_form(tmp_path: Path) -> None:
    one, other = CellGenotype(THREES), CellGenotype(SKIPS)
    log = tmp_path / "search.log"
    log.write_text(f"epoch 1: Structure(4 nodes with {other})\nepoch 2: Structure(4 nodes with {one})\n")
    said: list[str] = []
    assert Genotype.load(log, said.append) == one
    assert said == [f"genotype {log}: 2 genotypes; the last one is taken (line 2)"]
    assert Genotype.load(str(one)) == one and re.fullmatch(r"genotype-\w{8}", name_of(str(one)))
    assert json.loads(one.to_json()) == {"space": "nasbench201", "cell": str(one)}
    log.write_text(f"Genotype(normal=[], reduce=[]) or {one}")
    with pytest.raises(ValueError, match=r"several search spaces \(darts, nasbench201\): keep one of them$"):
        Genotype.load(log)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("|nor_conv_3x3~0|+|none~0|none~1|", "expected |nor_conv_3x3~0|+"),
        (EXAMPLE.replace("avg_pool_3x3", "avg_pool"), "node 3, input 0: unknown operation 'avg_pool'; did you mean"),
        (EXAMPLE.replace("none~1|nor_conv_1x1~2", "nor_conv_1x1~2|none~1"), "expected |nor_conv_3x3~0|+"),
    ],
)
def test_wrong_strings_are_refused_in_a_line(text: str, words: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Genotype.load(text)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [{"cell": EXAMPLE, "space": "nasbench20"}, {"space": "nasbench201"},
                                   {"space": "nasbench201", "cell": 7}, {"space": 5, "cell": EXAMPLE}])  # fmt: skip
def test_wrong_json_is_refused_in_a_line(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Genotype.from_json(json.dumps(value))


# networks


def sets(count: int) -> tuple[tuple[str, ...], ...]:
    """Some operations an edge, as a later stage of a method may leave them."""
    kept = [OPERATIONS[i:] + OPERATIONS[:i] for i in (1, 2, 3, 4, 0, 2)]
    return tuple(tuple(name for name in OPERATIONS if name in names[:count]) for names in kept)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    ("stage", "drops"),
    [(STAGE, False), (replace(STAGE, operations=(sets(3),)), False), (STAGE, True)],
    ids=["all", "some", "drop-path"],
)
def test_supernet_is_the_textbooks(stage: Stage, drops: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits, all gradients and running statistics, given the same weights; then the logits in eval mode."""
    monkeypatch.setattr(operations, "narrow_form", lambda x: narrow)
    ours, A, theirs = Supernet(stage, 5), Architecture(stage, SPACE), textbook201.SearchNetwork(stage, 5)
    alphas = list(A.parameters())
    torch.nn.init.normal_(alphas[0])
    theirs.load_state_dict(as_textbook201(stage, dict(ours.state_dict())), strict=False)
    x, y = torch.randn(4, 3, 16, 16), torch.arange(4)
    if drops:
        cells = [cell for cell in theirs.cells if isinstance(cell, textbook201.Cell)]
        drop_paths_alike(ours, cells, EDGES, 4)
    logits = ours(x, A()), theirs(x, alphas)
    found, expected = (
        torch.autograd.grad(F.cross_entropy(out, y), [*network.parameters(), *alphas])
        for out, network in zip(logits, (ours, theirs), strict=True)
    )
    torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[-1], expected[-1], rtol=1e-9, atol=1e-12)
    gradients = as_textbook201(stage, dict(zip(dict(ours.named_parameters()), found, strict=False)))
    names = dict(theirs.named_parameters())
    assert gradients.keys() == names.keys()
    for name, slope in zip(names, expected, strict=False):
        torch.testing.assert_close(gradients[name], slope, rtol=1e-9, atol=1e-12)
    after = as_textbook201(stage, {k: b for k, b in ours.state_dict().items() if "running" in k})
    assert after.keys() == {k for k in theirs.state_dict() if "running" in k}
    for name, statistics in after.items():
        torch.testing.assert_close(statistics, theirs.state_dict()[name], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x, A()), theirs.eval()(x, alphas), rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("narrow", [False, True])
def test_an_auxiliary_skip_is_more_weight_of_the_skip_connection(narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """DARTS- at stride 1 (facts 1.7), against the textbook's supernet with the sum as the weight of the other."""
    monkeypatch.setattr(operations, "narrow_form", lambda x: narrow)
    ours, theirs = Supernet(replace(STAGE, auxiliary_skip=True), 5), textbook201.SearchNetwork(STAGE, 5)
    theirs.load_state_dict(as_textbook201(STAGE, dict(ours.state_dict())), strict=False)
    weights = torch.rand(6, 5).softmax(1)
    summed, x = weights.clone(), torch.randn(4, 3, 16, 16)
    summed[:, OPERATIONS.index("skip_connect")] += 0.7
    found = ours(x, Mixture((F.pad(weights, (0, 1), value=0.7),)))
    torch.testing.assert_close(found, theirs.run(x, summed), rtol=1e-10, atol=1e-10)
    assert count(ours) == count(theirs)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(6))
def test_network_is_the_textbooks(seed: int) -> None:
    genotype = SPACE.random(seed)
    ours, theirs = genotype.build(4, 5, 5), textbook201.Network(genotype.operations, 4, 1, 5)
    disturb(ours)
    renamed, place = {}, {}
    for edge, name in enumerate(genotype.operations):
        if name != "none":
            place[len(place)] = f"edges.{edge}.{name}"
    for name, t in as_textbook201(STAGE, dict(ours.state_dict())).items():
        renamed[re.sub(r"operations\.(\d+)", lambda match: place[int(match[1])], name)] = t
    theirs.load_state_dict(renamed)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_one_hot_supernet_is_the_network_without_gains() -> None:
    """With all weight on one operation an edge, a cell of the supernet is that of the network as it begins."""
    genotype = CellGenotype(("nor_conv_3x3", "none", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"))
    weights = F.one_hot(torch.tensor([OPERATIONS.index(name) for name in genotype.operations]), 5).double()
    supernet, network = Supernet(STAGE, 5), genotype.build(4, 5, 5)
    tensors = as_textbook201(STAGE, dict(supernet.state_dict()))
    own = textbook201.Network(genotype.operations, 4, 1, 5)
    own.load_state_dict({name: tensors[name] for name in own.state_dict() if name in tensors}, strict=False)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(supernet(x, Mixture((weights,))), own(x), rtol=1e-10, atol=1e-10)
    assert count(network) == count(own)


def test_what_the_space_does_not_define_is_refused_in_a_line() -> None:
    for method in (pdarts.Config(), pcdarts.Config()):
        with pytest.raises(ValueError, match=r"^search-space nasbench201: p\w+ is not defined for it; [^\n]*darts$"):
            replace(preset("darts-1st").config, method=method, search_space="nasbench201")
    with pytest.raises(ValueError, match=r"^search space 'nasbench' is not known, did you mean 'nasbench201'"):
        override(preset("darts-1st").config, {"search_space": "nasbench"})
    with pytest.raises(ValueError, match=r"^search-space nasbench201: partial channels[^\n]*--method$"):
        Supernet(replace(STAGE, partial=2), 5)
    with pytest.raises(ValueError, match=r"^form imagenet: nasbench201's networks have the form cifar only$"):
        SPACE.random(0).build(16, 17, 10, "imagenet")
    with pytest.raises(ValueError, match=r"^auxiliary: [^\n]*--auxiliary 0$"):
        SPACE.random(0).build(16, 17, 10, auxiliary=True)
    with pytest.raises(ValueError, match=r"^classifier-nesterov: [^\n]*expected a momentum"):
        replace(preset("nasbench201-darts-1st").config, classifier_momentum=0.0)


@pytest.mark.parametrize("cells", [3, 4, 6, 7, 9, 10])
def test_stages_of_unequal_or_no_cells_are_refused(cells: int) -> None:
    refusal = rf"^cells = {cells}: [^\n]*3 N \+ 2[^\n]*expected 5, 8, 11[^\n]*the method, of the proxy[^\n]*$"
    with pytest.raises(ValueError, match=refusal):
        SPACE.supernet(replace(STAGE, cells=cells), 5)
    with pytest.raises(ValueError, match=refusal):
        SPACE.random(0).build(4, cells, 5)


def test_equally_many_cells_in_each_stage() -> None:
    for cells, each in ((5, 1), (8, 2), (11, 3), (17, 5)):
        kinds = [type(part).__name__ for part in SPACE.supernet(replace(STAGE, cells=cells), 5).cells]
        stage = ["Cell"] * each
        assert kinds == [*stage, "ResidualBlock", *stage, "ResidualBlock", *stage]


# searches and trainings


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("order", ["first", "second"])
def test_search_without_a_gan_is_the_textbooks(order: str) -> None:
    """Two iterations, the second with momentum: the gradient of A, and the step of W."""
    config = SearchConfig(
        method=darts.Config(cells=5, channels=4),
        gan=None,
        data=DataConfig(image_size=SIZE),
        search_space="nasbench201",
        order=order,  # type: ignore[arg-type]
        batch_size=4,
        classifier_clip=0.0,
    )
    search = Search(config, images())
    search.schedule()
    theirs = textbook_steps.Darts(search.stage, len(search.data.classes), order, clip=1e9, of=textbook201.SearchNetwork)
    ensure_same_iterations(search, theirs, as_textbook201)


@pytest.mark.parametrize("gan", keys("gans"))
def test_an_iteration_with_each_gan(gan: str) -> None:
    """All stages of Algorithm 1; A and B move."""
    changes = {"gan": gan, "gan.channels": 8, "batch_size": 8, "method.channels": 4, "method.arch_start_epoch": 0}
    search = Search(override(preset("cifar10-smoke-nasbench201").config, changes), images())
    search.schedule()
    before = [{name: p.clone() for name, p in player.params.items()} for player in (search.A, search.gan.B)]
    losses = search.iterate()
    assert set(LOSSES) <= set(losses) and all(value.isfinite() for value in losses.values())
    for params, player in zip(before, (search.A, search.gan.B), strict=True):
        assert params and not any(torch.equal(p, player.params[name]) for name, p in params.items())


def test_a_trained_cell_predicts_and_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genotype = CellGenotype(("nor_conv_3x3", "none", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"))
    small = {"data.limit": 100, "cells": 5, "channels": 2, "epochs": 1}
    config, folder = override(RECIPES["nasbench201-small"].config, small), tmp_path / "run"
    evaluate(genotype, config, folder, Hooks(say=lambda line: None))
    network, state, data = genotype.build(2, 5, 10), Run(folder).load(), config.data.load(None)
    assert state is not None
    network.load_state_dict(state["W"]["module"])
    Image.fromarray(data.test_images[0].permute(1, 2, 0).numpy()).save(tmp_path / "0.png")
    assert cli.main(["predict", str(folder), str(tmp_path / "0.png"), "--top", "1"]) == 0
    with torch.no_grad():
        best = network.eval()(data.to_classifier(data.test_raw(slice(1)))).softmax(1).max(1)
    _, line = capsys.readouterr().out.splitlines()
    assert line.split() == [str(tmp_path / "0.png"), str(best.indices.item()), f"{best.values.item():.1%}"]
    assert cli.main(["export", str(folder), "--format", "pt2"]) == 0
    assert "batches of 1, 2, 5" in capsys.readouterr().out


def test_a_cell_without_a_path_is_chance_and_is_not_trained(tmp_path: Path) -> None:
    said: list[str] = []
    config = replace(RECIPES["nasbench201-small"].config, cells=5, channels=2)
    row = evaluate(CellGenotype(NONES), config, tmp_path / "run", Hooks(say=said.append))
    assert row["result/error"] == 1 - 1 / 10 and row["result/top5_error"] == 1 - 5 / 10 and row["epoch"] == 0
    assert any("accuracy is chance" in line for line in said)
    again = evaluate(CellGenotype(NONES), config, tmp_path / "run", Hooks(say=said.append))
    assert again == row
    data, small = config.data.load(None), preset("quickstart").config.proxy
    proxy = Proxy(CellGenotype(NONES), data, replace(small, cells=5), 0)
    proxy.go_through()
    assert proxy.accuracy() == (1 / 10, 0.0)


def test_recipe_is_the_benchmarks() -> None:
    table = RECIPES["nasbench201"].config
    assert (table.epochs, table.batch_size, table.lr, table.weight_decay, table.nesterov) == (200, 256, 0.1, 5e-4, True)
    assert (table.momentum, table.data.cutout, table.auxiliary, table.lr_schedule) == (0.9, 0, 0, "cosine")
