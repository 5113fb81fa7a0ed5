"""Parameters and multiply-adds: the published and measured integers, bounds by enumeration's extremes, the command."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dasgm.cli import main as cli
from dasgm.config import SearchConfig
from dasgm.gans import biggan
from dasgm.genotype import PRIMITIVES
from dasgm.measures.counts import (
    MeasureOptions,
    count,
    layer_costs,
    measure,
    measure_gan,
    measure_genotype,
    measure_search,
)
from dasgm.methods import darts
from dasgm.methods._base import MethodConfig, Stage
from dasgm.networks.network import AuxiliaryHead, Network
from dasgm.networks.supernet import Architecture, Supernet
from dasgm.presets import preset
from dasgm.spaces import darts as darts_space
from dasgm.spaces._base import SearchSpace
from dasgm.spaces.darts import KNOWN

IMAGENET: dict[str, Any] = {"form": "imagenet", "channels": 48, "cells": 14, "classes": 1000, "image_size": 224}


@pytest.mark.parametrize(
    ("name", "images", "parameters", "multiply_adds"),
    [
        ("DARTS_V1", "cifar10", (3_169_414, 3_645_840), (500_987_520, 518_940_288)),
        ("DARTS_V1", "cifar100", (3_221_344, 3_766_980), (501_039_360, 518_992_128)),
        ("DARTS_V1", "imagenet", (4_510_432, 5_771_208), (505_864_704, 519_750_912)),
        ("DARTS_V2", "cifar10", (3_349_342, 3_825_768), (528_359_040, 547_473_024)),
        ("DARTS_V2", "cifar100", (3_401_272, 3_946_908), (528_410_880, 547_524_864)),
        ("DARTS_V2", "imagenet", (4_718_752, 5_979_528), (529_911_552, 544_588_032)),
        ("PDARTS", "cifar10", (3_433_798, 3_910_224), (532_174_464, 550_790_784)),
        ("PDARTS", "cifar100", (3_485_728, 4_031_364), (532_226_304, 550_842_624)),
        ("PDARTS", "imagenet", (4_944_352, 6_205_128), (542_819_328, 557_382_912)),  # published: 557 M
        ("PC_DARTS_cifar", "cifar10", (3_634_678, 4_111_104), (556_670_592, 576_061_056)),
        ("PC_DARTS_cifar", "cifar100", (3_686_608, 4_232_244), (556_722_432, 576_112_896)),
        ("PC_DARTS_cifar", "imagenet", (5_270_560, 6_531_336), (571_137_408, 586_359_552)),  # published: 586 M
    ],
)
def test_networks(name: str, images: str, parameters: tuple[int, int], multiply_adds: tuple[int, int]) -> None:
    """Parameters without and with the auxiliary head, multiply-adds by both conventions."""
    settings: dict[str, Any] = {"cifar10": {}, "cifar100": {"classes": 100}, "imagenet": IMAGENET}[images]
    found = measure_genotype(KNOWN[name], **settings)
    assert (found["parameters"], found["parameters_with_auxiliary"]) == parameters
    assert (found["multiply_adds"], found["multiply_adds_all"]) == multiply_adds


@pytest.mark.parametrize(
    ("letter", "parameters", "published", "millions"),
    [
        ("a", 2_360_782, 2.83, 371.5),
        ("b", 3_407_878, 3.88, 536.5),
        ("c", 2_598_814, None, 400.0),  # published without the auxiliary head: 2.59
        ("d", 3_365_542, 3.84, 532.5),
        ("e", 2_643_742, 3.12, 414.7),
        ("f", 3_151_054, 3.62, 497.6),  # 3.6275
        ("g", 2_899_054, 3.38, 453.4),
    ],
)
def test_released_cells_of_fair_darts(letter: str, parameters: int, published: float | None, millions: float) -> None:
    """Nodes with fewer edges than two, or without any. The published sizes have the auxiliary head in them."""
    found = measure_genotype(KNOWN[f"FairDARTS_{letter}"])
    assert found["parameters"] == parameters
    assert published is None or found["parameters_with_auxiliary"] / 1e6 == pytest.approx(published, abs=0.01)
    assert found["multiply_adds"] / 1e6 == pytest.approx(millions, abs=0.05)


def test_imagenet_genotype_of_pc_darts_has_the_published_multiply_adds() -> None:
    assert round(measure_genotype(KNOWN["PC_DARTS_image"], **IMAGENET)["multiply_adds_all"] / 1e6) == 597


@pytest.mark.parametrize(("form", "width", "classes", "head"), [
    ("cifar", 576, 10, 476_426), ("cifar", 576, 100, 545_636), ("imagenet", 768, 1000, 1_260_776)
])  # fmt: skip
def test_parameters_of_the_auxiliary_head(form: Any, width: int, classes: int, head: int) -> None:
    assert count(AuxiliaryHead(width, classes, form)) == head


def test_the_head_is_the_same_at_any_image_size() -> None:
    sizes = {size: measure_genotype(KNOWN["DARTS_V2"], image_size=size) for size in (16, 32, 64)}
    assert len({found["parameters_with_auxiliary"] for found in sizes.values()}) == 1
    body = {size: found["multiply_adds_all"] - 5760 for size, found in sizes.items()}  # less the linear layer
    assert body[64] == 4 * body[32] == 16 * body[16]


def test_nothing_depends_on_the_device_that_computes() -> None:
    """The CPU takes dilated convolutions apart; what counts is the layer's definition."""
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            network = Network(KNOWN["PC_DARTS_image"], 4, 3, 10, form="imagenet")
            found.append(layer_costs(network, torch.zeros(1, 3, 64, 64)))
    assert found[0] == found[1]
    assert not any(m._forward_hooks for m in network.modules())


# supernets


@dataclass(frozen=True)
class Partial(darts.Config):
    """The supernet of PC-DARTS."""

    def first(self, space: SearchSpace) -> Stage:
        return replace(super().first(space), partial=4, edge_weights=True)


@dataclass(frozen=True)
class Progressive(MethodConfig):
    """The supernets of P-DARTS."""

    cells: int = 5

    def first(self, space: SearchSpace) -> Stage:
        return stage(0, self.cells, self.channels, (PRIMITIVES,) * 14)

    def outline(self, space: SearchSpace) -> tuple[Stage, ...]:
        later = ((1, 6, 5), (2, 12, 3))
        return (
            self.first(space),
            *(stage(i, self.cells + more, self.channels, (PRIMITIVES[:kept],) * 14) for i, more, kept in later),
        )


def stage(index: int, cells: int, channels: int, normal: Any, reduction: Any = None) -> Stage:
    return Stage(index, 25, 10, cells, channels, (normal, reduction or normal))


def search(method: MethodConfig) -> SearchConfig:
    return replace(preset("darts-1st").config, method=method)


@pytest.mark.parametrize(
    ("method", "ten", "hundred", "architecture", "multiply_adds"),
    [
        (darts.Config(), 1_930_618, 1_953_748, 224, 300_255_744),
        (Partial(), 299_578, 322_708, 252, 56_596_992),
        (darts.Config(cells=5), 1_275_834, 1_298_964, 224, 186_698_240),  # P-DARTS, first stage
    ],
    ids=["darts", "pcdarts", "pdarts"],
)
def test_supernets(method: MethodConfig, ten: int, hundred: int, architecture: int, multiply_adds: int) -> None:
    found = measure_search(search(method), 10, 32)
    assert found["supernet_parameters"] == found["stages"][0]["supernet_parameters"] == ten
    assert found["multiply_adds"] == found["stages"][0]["multiply_adds"] == multiply_adds
    assert found["architecture_parameters"] == architecture
    assert measure_search(search(method), 100, 32)["supernet_parameters"] == hundred


@cache
def progressive() -> list[dict[str, Any]]:
    return measure_search(search(Progressive()), 10, 32)["stages"]


def exact(stage: Stage) -> tuple[int, int]:
    """Parameters and multiply-adds of one supernet."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        supernet = Supernet(stage, 10)
        supernet(torch.empty(1, 3, 32, 32), Architecture(stage, darts_space.SearchSpace())())
    found = counter.get_flop_counts()["Global"]
    return count(supernet), sum(found[kind] for kind in (torch.ops.aten.convolution, torch.ops.aten.addmm)) // 2


CHEAP = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "dil_conv_3x3")
DEAR = ("sep_conv_5x5", "sep_conv_3x3", "dil_conv_5x5", "dil_conv_3x3", "skip_connect")  # 16 channels and more


def test_stages_of_pdarts_are_bounded_by_their_extremes() -> None:
    found = progressive()
    assert [(s["cells"], s["operations_per_edge"]) for s in found] == [(5, 8), (11, 5), (17, 3)]
    assert (found[0]["supernet_parameters"], found[0]["multiply_adds"]) == (1_275_834, 186_698_240)
    for bounds, kept in zip(found[1:], (5, 3), strict=True):
        extremes = [exact(stage(1, bounds["cells"], 16, (names[:kept],) * 14)) for names in (CHEAP, DEAR)]
        assert bounds["supernet_parameters"] == [parameters for parameters, _ in extremes]
        assert bounds["multiply_adds"] == [multiply_adds for _, multiply_adds in extremes]


def test_estimates_of_later_stages_are_made_on_the_dearest() -> None:
    """What `--dry-run` times, and what memory is tried on, is no cheaper than what may survive."""
    for bounds, outlined in zip(progressive(), preset("pdarts").config.stages, strict=True):
        most = bounds["supernet_parameters"], bounds["multiply_adds"]
        assert exact(outlined) == tuple(value if isinstance(value, int) else value[1] for value in most)


def test_cells_of_both_types_are_bounded_for_themselves() -> None:
    """Edges of normal cells keep five operations, of reduction cells three."""

    def five_and_three(names: tuple[str, ...]) -> Stage:
        return stage(1, 4, 16, (names[:5],) * 14, (names[:3],) * 14)

    class Uneven(Progressive):
        def outline(self, space: SearchSpace) -> tuple[Stage, ...]:
            return self.first(space), five_and_three(PRIMITIVES)

    bounds = measure_search(search(Uneven(cells=3)), 10, 32)["stages"][1]
    extremes = [exact(five_and_three(names)) for names in (CHEAP, DEAR)]
    assert bounds["supernet_parameters"] == [parameters for parameters, _ in extremes]
    assert bounds["multiply_adds"] == [multiply_adds for _, multiply_adds in extremes]


def test_width_of_the_bounds_by_formula() -> None:
    """Stage 3 of P-DARTS, from pools alone to the three dearest; 17 cells: 5 of 16 channels, 6 of 32, 6 of 64."""
    bounds = progressive()[2]
    least, most = bounds["supernet_parameters"]

    def dear(c: int) -> int:
        return 2 * (25 * c + c * c) + 2 * (9 * c + c * c) + 25 * c + c * c

    assert most - least == 14 * (5 * dear(16) + 6 * dear(32) + 6 * dear(64))


def test_every_choice_lies_within_the_bounds() -> None:
    rng = random.Random(0)
    for index, kept, cells in ((1, 5, 11), (2, 3, 17)):
        bounds = progressive()[index]
        for _ in range(2):
            normal, reduction = (tuple(tuple(rng.sample(PRIMITIVES, kept)) for _ in range(14)) for _ in range(2))
            parameters, multiply_adds = exact(stage(index, cells, 16, normal, reduction))
            assert bounds["supernet_parameters"][0] < parameters < bounds["supernet_parameters"][1]
            assert bounds["multiply_adds"][0] < multiply_adds < bounds["multiply_adds"][1]


# GANs


@pytest.mark.parametrize(("classes", "G", "D"), [(10, 4_373_251, 4_207_361), (100, 4_384_771, 4_230_401)])
def test_biggan(classes: int, G: int, D: int) -> None:
    state = torch.get_rng_state()
    found = measure_gan(biggan.Config(), classes, 32)
    assert (found["generator_parameters"], found["discriminator_parameters"]) == (G, D)
    # B: 7 convolutions of 6 operations, one of an image without the skip (5), 2 pools of 2; each of their alternatives
    assert found["discriminator_architecture_parameters"] == 7 * 6 + 5 + 2 * 2
    c = 256
    inner, first = (inputs * c * (1 + 25 + 9) + 3 * c for inputs in (c, 3))
    assert found["searched_discriminator_parameters"] == D + 7 * inner + first
    assert torch.equal(torch.get_rng_state(), state)


# the command


def run(capsys: Any, *words: str) -> tuple[int, str, str]:
    try:
        code = cli.main(["measure", *words])
    except SystemExit as end:
        code = int(str(end.code))
    out, err = capsys.readouterr()
    return code, out, err


def test_names_stand_for_genotypes_presets_gans_files_and_runs(tmp_path: Path, capsys: Any) -> None:
    KNOWN["PDARTS"].save(tmp_path / "genotype.json")
    text = tmp_path / "log.txt"
    text.write_text("genotype = Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1)], normal_concat=[2], "
                    "reduce=[('skip_connect', 0), ('dil_conv_3x3', 1)], reduce_concat=[2])")  # fmt: skip
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"parent": "darts-1st", "overrides": {"method.channels": 8}}))

    def found(*words: str) -> dict[str, Any]:
        code, out, err = run(capsys, *words, "--json")
        assert code == 0 and not err
        return json.loads(out)

    assert found("PDARTS")["parameters"] == 3_433_798
    imagenet = found("PDARTS", "--form", "imagenet")
    assert (imagenet["parameters"], imagenet["multiply_adds_all"]) == (4_944_352, 557_382_912)
    assert imagenet["classes"] == 1000 and imagenet["image_size"] == 224
    assert found(str(tmp_path / "genotype.json"), "--classes", "100")["parameters"] == 3_485_728
    assert found(str(tmp_path), "--dataset", "cifar100")["parameters"] == 3_485_728
    assert found(str(text))["parameters"] > 0
    assert found("dasgm-darts")["multiply_adds"] == 300_255_744
    assert found("dasgm-darts", "--dataset", "cifar100")["supernet_parameters"] == 1_953_748
    assert found("quickstart")["image_size"] == 16
    assert found(str(own)) | {"preset": ""} == found("darts-1st", "--channels", "8") | {"preset": ""}
    small, deep = found("pcdarts"), found("pdarts")["stages"]
    assert (small["supernet_parameters"], small["architecture_parameters"]) == (299_578, 252)
    assert small["multiply_adds"] == 56_596_992 and deep[0]["multiply_adds"] == 186_698_240
    assert deep[0]["supernet_parameters"] == 1_275_834 and [stage["cells"] for stage in deep] == [5, 11, 17]
    assert all(low < high for stage in deep[1:] for low, high in [stage["supernet_parameters"]])
    assert found("darts-1st", "--cells", "5")["supernet_parameters"] == 1_275_834
    assert found("biggan", "--dataset", "cifar100")["generator_parameters"] == 4_384_771
    assert found("biggan", "--channels", "8")["generator_parameters"] < 400_000


def test_readable_without_json(capsys: Any) -> None:
    code, out, _ = run(capsys, "DARTS_V2")
    assert code == 0 and all(part in out for part in ("3,349,342", "3,825,768", "528,359,040", "547,473,024"))
    code, out, _ = run(capsys, "pdarts")
    assert code == 0 and "1,275,834" in out and " to " in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["DARTS_V3"], "did you mean 'DARTS_V"),
        (["quickstrat"], "did you mean 'quickstart'"),
        (["bigan"], "did you mean 'biggan'"),
        (["nowhere/genotype.json"], "nowhere/genotype.json"),
        (["DARTS_V2", "--image-size", "30"], "multiple of 4"),
        (["DARTS_V2", "--form", "imagenet", "--image-size", "28"], "at least 32"),
        (["DARTS_V2", "--cells", "2"], "at least 3"),
        (["DARTS_V2", "--channels", "0"], "--channels 0"),
        (["DARTS_V2", "--dataset", "cifar11"], "did you mean 'cifar1"),
        (["darts-1st", "--channels", "5"], "multiple of 2"),
        (["darts-1st", "--image-size", "30"], "multiple of 4"),
        (["darts-1st", "--form", "cifar"], "--form"),
        (["darts-1st", "--dataset", "folder"], "--classes"),
        (["biggan", "--cells", "3"], "--cells"),
        (["biggan", "--image-size", "48"], "16, 32 or 64"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, capsys: Any) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and says in err, err


def test_a_run_without_a_genotype_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this folder has no genotype.json"):
        measure(str(tmp_path))


def test_classes_that_only_the_files_tell_are_given() -> None:
    assert measure("quickstart", MeasureOptions(dataset="folder", classes=7))["classes"] == 7
