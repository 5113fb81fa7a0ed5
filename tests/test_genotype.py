"""Genotypes: the published ones, reading and refusing files, derivation from hand-made alphas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dasgm.genotype import KNOWN, PRIMITIVES, Genotype, derive

DARTS_V2_TEXT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat={concat}, "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), "
    "('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat={concat})"
)
ROWS = [PRIMITIVES] * 14


@pytest.mark.parametrize("concat", ["range(2, 6)", "[2, 3, 4, 5]", "list(range(2, 6))"])
@pytest.mark.parametrize("before", ["", "DARTS_V2 = ", "03/12 08:00:00 AM genotype = "])
def test_the_fields_text_is_parsed(before: str, concat: str) -> None:
    assert Genotype.parse(before + DARTS_V2_TEXT.format(concat=concat) + "\n") == KNOWN["DARTS_V2"]


@pytest.mark.parametrize("name", KNOWN)
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    genotype = KNOWN[name]
    assert Genotype.from_json(genotype.to_json()) == genotype == Genotype.load(name)
    assert set(json.loads(genotype.to_json())) == {"normal", "normal_concat", "reduce", "reduce_concat"}
    genotype.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == genotype
    assert [p.name for p in tmp_path.iterdir()] == ["genotype.json"]


GOOD = json.loads(KNOWN["DARTS_V2"].to_json())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normal": [["sep_conv_3x4", 0], *GOOD["normal"][1:]]}, "normal, edge 0: unknown operation 'sep_conv_3x4'"),
        ({"normal": [["none", 0], *GOOD["normal"][1:]]}, "unknown operation 'none'"),
        ({"normal": [["sep_conv_3x3", 2], *GOOD["normal"][1:]]}, "input 2 into node 2; expected 0 to 1"),
        ({"reduce": [["skip_connect", -1], *GOOD["reduce"][1:]]}, "reduce, edge 0: input -1"),
        ({"reduce": [["skip_connect", True], *GOOD["reduce"][1:]]}, "input True"),
        ({"reduce": [["skip_connect", "0"], *GOOD["reduce"][1:]]}, "input '0'"),
        ({"reduce": [[["skip_connect"], 0], *GOOD["reduce"][1:]]}, "unknown operation ['skip_connect']"),
        ({"reduce": GOOD["reduce"][:7]}, "two for each node"),
        ({"reduce": []}, "two for each node"),
        ({"reduce": {"a": 1}}, "two for each node"),
        ({"reduce": [["skip_connect"], *GOOD["reduce"][1:]]}, "expected [operation, input]"),
        ({"normal_concat": [2, 3, 4, 6]}, "normal_concat: 6 is no node; expected 2 to 5"),
        ({"normal_concat": [2, 2]}, "normal_concat: expected a list of nodes"),
        ({"normal_concat": 5}, "normal_concat: expected a list of nodes"),
        ({"concat": [2]}, "not 'concat'"),
    ],
)
def test_malformed_is_refused_in_one_line(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD | changes))
    with pytest.raises(ValueError) as refusal:
        Genotype.load(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "{" * 100_000,
        "null",
        "Genotype(",
        "Genotype()",
        "Genotype([('skip_connect', 0)])",
        "Genotype(normal=__import__('os').getcwd(), normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(**{})",
        "Genotype(normal=range(0, 10 ** 9), normal_concat=[2], reduce=[], reduce_concat=[2])",
        "Genotype(normal=" + "[" * 5000 + ")",
        DARTS_V2_TEXT.format(concat="range(0, 99999999)"),
        DARTS_V2_TEXT.format(concat="range(2, 6)") * 2,
        '{"normal": 1}',
        "\0",
    ],
)
def test_what_is_no_genotype(text: str, tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    path.write_text(text)
    with pytest.raises(ValueError) as refusal:
        Genotype.load(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_unknown_name_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean DARTS_V2"):
        Genotype.load("DARTS_V3")
    with pytest.raises(ValueError, match="expected one of DARTS_V1, "):
        Genotype.load("x")
    with pytest.raises(ValueError, match="no such file"):
        Genotype.load(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="expected a JSON file or a run"):
        Genotype.load(tmp_path)
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="not a text file"):
        Genotype.load(tmp_path / "picture")


def rows(**strong: float) -> list[list[float]]:
    """Alphas of 0.01 everywhere, but for `e3_sep_conv_3x3=0.5`: edge 3's weight of that operation."""
    weights = [[0.01] * len(PRIMITIVES) for _ in range(14)]
    for key, value in strong.items():
        edge, _, name = key.partition("_")
        weights[int(edge[1:])][PRIMITIVES.index(name)] = value
    return weights


def test_the_two_strongest_edges_stronger_first() -> None:
    weights = rows(e0_skip_connect=0.2, e1_dil_conv_5x5=0.3)
    weights[2:5] = rows(e4_max_pool_3x3=0.4, e2_sep_conv_5x5=0.4, e3_skip_connect=0.3)[2:5]
    cell = derive(ROWS, weights)
    assert cell[:4] == (("dil_conv_5x5", 1), ("skip_connect", 0), ("sep_conv_5x5", 0), ("max_pool_3x3", 2))
    # equals: the earlier input, the earlier operation
    assert cell[4:] == (("max_pool_3x3", 0), ("max_pool_3x3", 1)) * 2


def test_none_is_never_chosen_nor_counted() -> None:
    weights = rows(e2_none=0.95, e3_none=0.95, e4_skip_connect=0.05, e3_sep_conv_3x3=0.04, e2_avg_pool_3x3=0.03)
    assert derive(ROWS, weights)[2:4] == (("skip_connect", 2), ("sep_conv_3x3", 1))


def test_edge_weights_choose_edges_not_operations() -> None:
    weights = rows(e2_skip_connect=0.5, e3_sep_conv_3x3=0.4, e4_dil_conv_3x3=0.3)
    edges = [0.5, 0.5, 0.1, 0.3, 0.6, *[0.25] * 4, *[0.2] * 5]  # products: 0.05, 0.12, 0.18
    assert derive(ROWS, weights, edges)[2:4] == (("dil_conv_3x3", 2), ("sep_conv_3x3", 1))
    assert derive(ROWS, weights)[2:4] == (("skip_connect", 0), ("sep_conv_3x3", 1))


def test_operations_may_differ_from_edge_to_edge() -> None:
    sets = [("none", "skip_connect", "sep_conv_3x3")] * 13 + [("avg_pool_3x3", "none", "dil_conv_5x5")]
    weights = [[0.5, 0.3, 0.2]] * 13 + [[0.5, 0.1, 0.4]]
    assert derive(sets, weights)[-2:] == (("avg_pool_3x3", 4), ("skip_connect", 0))


@given(st.lists(st.lists(st.floats(0, 1), min_size=8, max_size=8), min_size=14, max_size=14))
def test_any_weights_give_a_valid_cell(weights: list[list[float]]) -> None:
    cell = derive(ROWS, weights)
    genotype = Genotype(cell, (2, 3, 4, 5), cell, (2, 3, 4, 5))
    assert all(genotype.normal[i][1] != genotype.normal[i + 1][1] for i in range(0, 8, 2))
