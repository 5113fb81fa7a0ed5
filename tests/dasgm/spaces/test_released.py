"""The cells that other methods' authors released, by name: counts of their networks that were computed elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from dasgm.cli.main import main
from dasgm.genotype import Genotype, known, space_of
from dasgm.measures.counts import count, measure_genotype
from dasgm.networks.network import Form
from dasgm.plugins import keys
from dasgm.spaces.darts import KNOWN


def parameters(name: str, form: Form, channels: int, cells: int, classes: int) -> int:
    with torch.device("meta"):
        return count(KNOWN[name].build(channels, cells, classes, form))


@pytest.mark.parametrize(
    ("name", "cifar10", "millions", "published"),
    [
        ("SDARTS_RS", 3_606_166, 562.4, 3.61),
        ("SDARTS_ADV", 3_344_806, 526.8, 3.34),
        ("DrNAS_cifar10", 4_099_294, 635.1, 4.1),
        ("GDAS_V1", 3_368_782, 519.4, 3.4),
        ("SNAS_moderate", 2_847_358, 440.7, 2.8),
        ("SNAS_aggressive", 2_313_622, 374.9, None),
        ("DropNAS_cifar10", 3_839_230, 592.0, None),  # published: 4.1, more than this cell has
        ("OLES_cifar10", 4_222_414, 668.4, None),
        ("ISDARTS", 4_716_190, 746.1, None),
    ],
)
def test_networks_for_cifar10(name: str, cifar10: int, millions: float, published: float | None) -> None:
    """Of 20 cells and 36 channels. Published sizes are in millions, rounded."""
    found = measure_genotype(KNOWN[name])
    assert found["parameters"] == cifar10 and found["multiply_adds"] / 1e6 == pytest.approx(millions, abs=0.05)
    assert published is None or found["parameters"] / 1e6 == pytest.approx(published, abs=0.051)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("SNAS_mild", 10, 2_661_382),
        ("DARTS_minus_c10", 10, 3_454_318),
        ("DARTS_minus_c100", 100, 3_420_928),
        ("SGAS_cri1_best", 10, 3_795_166),
        ("SGAS_cri2_best", 10, 4_094_110),
        ("Lambda_corr_0", 10, 3_320_614),
        ("Lambda_corr_1", 10, 3_672_910),
    ],
)
def test_parameters_for_cifar(name: str, classes: int, expected: int) -> None:
    assert parameters(name, "cifar", 36, 20, classes) == expected


@pytest.mark.parametrize(
    ("name", "channels", "expected"),
    [
        ("SDARTS_RS", 48, 5_120_320),
        ("SDARTS_ADV", 48, 4_768_864),
        ("DrNAS_imagenet", 48, 5_726_368),
        ("GDAS_V1", 50, 5_345_075),
        ("SNAS_mild", 48, 3_939_328),
        ("SNAS_moderate", 48, 4_312_576),
        ("DropNAS_cifar10", 48, 5_433_280),
        ("SGAS_cri1_best", 48, 5_285_440),
        ("SGAS_cri2_image", 48, 5_438_464),
        ("OLES_cifar10", 48, 5_736_544),
        ("ISDARTS", 48, 6_434_848),
    ],
)
def test_parameters_for_imagenet(name: str, channels: int, expected: int) -> None:
    assert parameters(name, "imagenet", channels, 14, 1000) == expected


def test_multiply_adds_of_gdas_for_imagenet() -> None:
    """Its published numbers are those of 50 channels."""
    form: dict[str, Any] = {"form": "imagenet", "channels": 50, "cells": 14, "classes": 1000, "image_size": 224}
    assert measure_genotype(KNOWN["GDAS_V1"], **form)["multiply_adds"] / 1e6 == pytest.approx(581.0, abs=0.05)


def test_nodes_that_are_0_and_nodes_that_were_not_derived() -> None:
    """SNAS concatenates the two nodes into which `none` leads, Fair DARTS none of its own."""
    assert KNOWN["SNAS_aggressive"].reduce_concat == KNOWN["SNAS_aggressive"].normal_concat == (2, 3, 4, 5)
    assert KNOWN["FairDARTS_a"].normal_concat == (2, 4, 5)
    assert KNOWN["ISDARTS"].reduce[2:4] == (("dil_conv_5x5", 2), ("sep_conv_5x5", 2)), "one state may be read twice"


def test_each_name_has_a_paper_and_stands_for_its_cells() -> None:
    for key in keys("spaces"):
        space = space_of(key)
        assert space.sources.keys() == space.known.keys()
    assert len(known()) >= 31 and all(Genotype.load(name) == found for name, found in known().items())


def test_the_list_has_every_name_with_its_space_and_paper(capsys: Any) -> None:
    assert main(["measure", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == list(known())
    assert {"name": "GDAS_V1", "space": "darts", "source": "GDAS, arXiv 1910.04465"} in listed
    assert main(["measure", "--list"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("search space darts") and all(
        one["name"] in said and one["source"] in said for one in listed
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--list lists the built-in genotypes"),
        (["GDAS_V1", "--list"], "GDAS_V1 with --list: leave one of the two out"),
        (["--list", "--image-size", "32"], "--image-size with --list"),
        (["GDAS_V2"], "did you mean 'GDAS_V1'"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main(["measure", *words])
    said = capsys.readouterr().err
    assert end.value.code == 2 and says in said and said.count("\n") == 1, said
