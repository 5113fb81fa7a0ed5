"""Genotypes: the published ones, reading and refusing files, derivation from hand-made alphas."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.winners import named
from dasgm.cli.evaluate import choose_training
from dasgm.cli.main import main
from dasgm.genotype import PRIMITIVES, Genotype
from dasgm.spaces.darts import KNOWN, DartsGenotype, derive

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


DARTS_V2 = KNOWN["DARTS_V2"]
IN_RANGE = DARTS_V2_TEXT.format(concat="range(2, 6)")


def a_node_each(edges: Sequence[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    return [list(edges[i : i + 2]) for i in range(0, 8, 2)]


def cells(
    change: Callable[[str, int], object], form: Callable[[list[Any]], object] = lambda edges: edges
) -> dict[str, object]:
    return {kind: form([change(*edge) for edge in getattr(DARTS_V2, kind)]) for kind in ("normal", "reduce")}


# As quark0/darts, khanrc/pt.darts, automl/NASLib (two counts of operations) and microsoft/nni (its example of version 2
# and the DARTS space of its hub) write DARTS_V2.
SHORT = {"max_pool_3x3": "maxpool", "avg_pool_3x3": "avgpool", "skip_connect": "skipconnect"}
SHORT |= {name: name.replace("_", "") for name in ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")}
COMPACT = (
    "(((0, {0}), (1, {0}), (0, {0}), (1, {0}), (1, {0}), (0, {1}), (0, {1}), (2, {2})), "
    "((0, {3}), (1, {3}), (2, {1}), (1, {3}), (0, {3}), (2, {1}), (2, {1}), (1, {3})))"
)
HUB, NNI = {"width": 36}, {}
for kind in ("normal", "reduce"):
    for place, (name, state) in enumerate(getattr(DARTS_V2, kind)):
        node, i = 2 + place // 2, place % 2
        HUB |= {f"{kind}/op_{node}_{i}": name, f"{kind}/input_{node}_{i}": [state]}
        NNI |= {f"{kind}_n{node}_p{j}": [] for j in range(node) if f"{kind}_n{node}_p{j}" not in NNI}
        NNI[f"{kind}_n{node}_p{state}"] = SHORT[name]
        NNI.setdefault(f"{kind}_n{node}_switch", []).append(f"{kind}_n{node}_p{state}")
SPELLINGS = {
    "numpy scalars": IN_RANGE.replace("('skip_connect', 2)", "('skip_connect', np.int64(2))"),
    "numpy arrays": DARTS_V2_TEXT.format(concat="np.array([2, 3, 4, 5], dtype=int64)"),
    "torch": DARTS_V2_TEXT.format(concat="tensor([2, 3, 4, 5])"),
    "no names": "Genotype("
    + IN_RANGE[9:]
    .replace("normal=", "")
    .replace("normal_concat=", "")
    .replace("reduce=", "")
    .replace("reduce_concat=", ""),
    "many lines": "from genotypes import Genotype\n\nMINE = Genotype(  # don't (\n"
    + IN_RANGE[9:].replace("), ", "),\n"),
    "a node each": f"Genotype2(normal={a_node_each(DARTS_V2.normal)}, normal_concat=range(2, 6), "
    f"reduce={a_node_each(DARTS_V2.reduce)}, reduce_concat=range(2, 6))",
    "one concat": f"Genotype(normal={DARTS_V2.normal}, reduce={DARTS_V2.reduce}, concat=range(2, 6))",
    "AutoDL": IN_RANGE[:-1] + ", connectN=None, connects=None)",
    "dictionary": str({"normal": DARTS_V2.normal, "reduce": DARTS_V2.reduce, "concat": [2, 3, 4, 5]}),
    "JSON, a node each": json.dumps(cells(lambda name, state: [name, state], a_node_each)),
    "input first": json.dumps(cells(lambda name, state: [state, name])),
    "NASLib": COMPACT.format(3, 2, 5, 0),
    "NASLib, JSON": COMPACT.format(3, 2, 5, 0).replace("(", "[").replace(")", "]"),
    "NNI's hub": json.dumps(HUB),
    "NNI": json.dumps(NNI),
    "model.json": json.dumps({"format": 1, "genotype": json.loads(DARTS_V2.to_json())}),
    "names run together": re.sub(r"(\w+)_(conv|pool|connect)_?", lambda found: "".join(found.groups()), IN_RANGE),
    "a coloured log": f"\x1b[32m2024-01-01 INFO\x1b[0m arch = \x1b[1;33m{IN_RANGE}\x1b[0m\n",
    "the same twice": IN_RANGE + "\n" + IN_RANGE,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_other_programs(spelling: str) -> None:
    assert Genotype.parse(SPELLINGS[spelling]) == DARTS_V2
    assert Genotype.load(SPELLINGS[spelling], say=lambda line: None) == DARTS_V2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("written", [DARTS_V2.to_json(), IN_RANGE], ids=["json", "text"])
def test_byte_order_marks(written: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"\xfe\xff" * (encoding == "utf-16-be") + written.encode(encoding))
    assert Genotype.load(tmp_path / "g") == DARTS_V2


@pytest.mark.parametrize("nothing", ["", " \n", "\ufeff"])
def test_an_empty_file_is_called_empty(nothing: str, tmp_path: Path) -> None:
    (tmp_path / "g").write_text(nothing, encoding="utf-8")
    with pytest.raises(ValueError, match="g: it is empty; expected"):
        Genotype.load(tmp_path / "g")


def test_a_missing_concat_is_said() -> None:
    said: list[str] = []
    without = json.dumps({"normal": DARTS_V2.normal, "reduce": DARTS_V2.reduce, "reduce_concat": [4, 5]})
    assert Genotype.load(without, said.append) == replace(DARTS_V2, reduce_concat=(4, 5))
    assert said == ["genotype text: no normal_concat: all nodes of the normal cell are its output"]


def test_of_a_log_the_last_is_taken_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = IN_RANGE.replace("'dil_conv_3x3', 2", "'dil_conv_5x5', 2")
    rows = [f"08:0{i} AM epoch {i}\n08:0{i} AM genotype = {g}\ntrain_acc 4{i}" for i, g in enumerate((other, IN_RANGE))]
    log = tmp_path / "log.txt"
    log.write_text("\n".join(rows))
    assert Genotype.load(log) == DARTS_V2
    assert capsys.readouterr().err == f"genotype {log}: 2 genotypes; the last one is taken (line 5)\n"
    log.write_text("\n".join(rows)[:-30])
    with pytest.raises(ValueError, match=r"line 5, column 21: the bracket of Genotype\( is not closed"):
        Genotype.load(log)


@pytest.mark.parametrize(("skips", "taken"), [(3, 1), (2, 0)])
def test_of_a_log_of_pdarts_the_one_with_two_skip_connections_is_taken(skips: int, taken: int) -> None:
    """It begins with the unrestricted one, then has one for each smaller number down to 0; its authors use 2."""
    said: list[str] = []
    names = ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
    texts = [IN_RANGE.replace("'dil_conv_3x3', 2", f"'{name}', 2") for name in names[: 1 + skips]]
    limited = [f"Number of skip-connect: {skips - i}\n{text}" for i, text in enumerate(texts[1:], 1)]
    assert Genotype.load("\n".join([texts[0], *limited]), said.append).normal[-1] == (names[taken], 2)
    assert f"{1 + skips} genotypes; the last one with 2 skip connections or more, as P-DARTS chooses it" in said[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = " + IN_RANGE + "\nB = " + IN_RANGE.replace("sep", "dil"), "2 genotypes (A in line 1, B in line 2)"),
        (IN_RANGE + "\nB = " + IN_RANGE.replace("sep", "dil"), "(without a name in line 1, B in line 2)"),
        ("\n x = " + IN_RANGE.replace("0), ('sep", "0) ('sep"), "line 2, column 23: "),
        ("\n\n" + DARTS_V2_TEXT.format(concat="open(1)"), f"line 3, column {IN_RANGE.index('range') + 1}: only lists"),
        ("{'normal': 1,\n 'reduce': open('x')}", "line 2, column 12: only lists"),
        (IN_RANGE.replace("reduce_concat", "normal_concat"), "'normal_concat' is given twice"),
        ("Genotype([], normal=[])", "'normal' is given twice"),
        (COMPACT.format(4, 3, 6, 1), "write names"),
        (COMPACT.format(4, 3, 8, 0), "write names"),
        (json.dumps(HUB | {"normal/op_3_1": "no"}), "normal, edge 3: unknown operation 'no'"),
        (json.dumps({k: v for k, v in HUB.items() if k != "reduce/input_4_1"}), "no 'reduce/input_4_1'"),
        (json.dumps({k: v for k, v in NNI.items() if "_n3" not in k}), "the nodes [2, 4, 5]; expected 2, 3"),
        (json.dumps(NNI | {"normal_n3_switch": ["normal_n3_p0"]}), "normal_n3_switch: expected two inputs"),
        (json.dumps(cells(lambda *edge: edge, lambda edges: [edges[:3], edges[3:]])), "node 2: 3 edges; expected two"),
        (IN_RANGE.replace("max_pool_3x3", "x" * 5000 + "\x1b"), "unknown operation 'xxx"),
    ],
)
def test_what_is_unclear_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Genotype.load(text)
    assert message in str(refusal.value) and refusal.value.args[0].isprintable() and len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "hostile", ["Genotype(" * 10**6, "Genotype(normal=" + "1+" * 10**5, "'\"" * 10**6, "x" * 10**7]
)
def test_what_is_large_is_refused_soon(hostile: str) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError):
        Genotype.parse(hostile)
    assert time.process_time() - begun < 5


def test_every_command_takes_the_text_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3,349,342: DARTS's parameters, as its authors count them."""
    monkeypatch.chdir(tmp_path)
    assert main(["measure", "--json", IN_RANGE]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 3_349_342
    assert main(["draw", IN_RANGE]) == 0
    (drawn,) = tmp_path.iterdir()
    (candidate,) = named([IN_RANGE])
    assert candidate.design == DARTS_V2 and drawn.name == f"{candidate.name}.png" and len(candidate.name) < 30
    chosen, _ = choose_training([IN_RANGE, "digits-small"])
    assert chosen.design == DARTS_V2 and chosen.name() == f"{candidate.name}-digits-small-digits-s0"
    for verb in ("measure", "draw", "evaluate"):
        for wrong in ("x" * 5000, "no\nsuch", IN_RANGE[:99]):
            with pytest.raises(SystemExit) as end:
                main([verb, wrong])
            (line,) = capsys.readouterr().err.splitlines()
            assert end.value.code == 2 and line.startswith("error: ") and len(line) < 500 and line.isprintable()


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
        ({"normal": [["no", 0], *GOOD["normal"][1:]]}, "unknown operation 'no'"),
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
    with pytest.raises(ValueError, match="GDAS_V2: no such name or file, did you mean 'GDAS_V1'"):
        Genotype.load("GDAS_V2")
    with pytest.raises(ValueError, match="no such name or file; `dasgm measure --list` lists"):
        Genotype.load("x")
    with pytest.raises(ValueError, match="no such file"):
        Genotype.load(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="the folder has no genotype.json; expected JSON, text .* or a run's folder"):
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


def test_a_node_may_have_two_edges_one_or_none() -> None:
    """Fair DARTS: a node without edges is no part of the output."""
    fair = KNOWN["FairDARTS_a"]
    assert fair.normal_concat == (2, 4, 5) and fair.reduce_concat == (2, 3, 4, 5) and fair.connected
    assert Genotype.parse(fair.to_json()) == fair and "none" not in fair.lines()["normal"]
    edges = [("sep_conv_3x3", 0, 2), ("sep_conv_5x5", 1, 2), ("max_pool_3x3", 0, 4), ("sep_conv_3x3", 0, 5)]
    assert list(fair.graphs["normal"].edges) == edges
    lone = [("none", 0), ("none", 1), ("skip_connect", 2), ("none", 1)]
    cut = DartsGenotype(lone, [3], fair.reduce, fair.reduce_concat)
    assert not cut.connected, "the only path begins at a node without edges"


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
    genotype = DartsGenotype(cell, (2, 3, 4, 5), cell, (2, 3, 4, 5))
    assert all(genotype.normal[i][1] != genotype.normal[i + 1][1] for i in range(0, 8, 2))
