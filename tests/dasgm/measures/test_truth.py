"""Tables of true accuracies: what is read, what each cell is said to be worth, and what is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import truths
from truths import CELLS, string

from dasgm.genotype import Genotype
from dasgm.measures.truth import Truth
from dasgm.spaces import darts, nasbench201

SPACE = nasbench201.SearchSpace()
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"


def cell(place: int) -> Genotype:
    return Genotype.parse(string(place))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same table in three forms; one is not in the order of the cells."""
    folder, rows = tmp_path_factory.mktemp("truths"), truths.rows()
    ours, published = truths.write_csv(folder / "a", rows), truths.write_published(folder / "nats_bench.csv", rows)
    return [truths.write_parquet(folder / "b", random.Random(0).sample(rows, CELLS)), ours, published]


@pytest.fixture(scope="module")
def truth(files: list[Path]) -> Truth:
    return Truth.load(files[0], SPACE)


def test_parquet_and_csv_are_the_same_table(files: list[Path], truth: Truth) -> None:
    assert len(truth.cells) == CELLS
    for path in files[1:]:
        other = Truth.load(path, SPACE)
        assert other.cells == truth.cells and other.ascending == truth.ascending
        assert other.sha256 != truth.sha256


def test_accuracy_rank_and_regret_are_those_of_the_formulas(truth: Truth) -> None:
    """Ranks with ties: as many cells are better as ways to reach a larger sum with six digits of 0 to 4."""
    ways = np.array([1])
    for _ in range(6):
        ways = np.convolve(ways, np.ones(5, int))
    assert ways.sum() == CELLS
    for place in (0, 1, 624, 9999, CELLS - 1, *random.Random(1).sample(range(CELLS), 50)):
        found, total = truth.of(cell(place)), sum(truths.digits(place))
        for name, accuracy in zip(("cifar10", "cifar100", "imagenet16_120"), truths.accuracies(place), strict=True):
            assert found[name] == pytest.approx(accuracy / 100, abs=1e-9)
        assert found["rank_cifar10"] == 1 + ways[total + 1 :].sum()
        assert (found["rank_cifar100"], found["rank_imagenet16_120"]) == (CELLS - place, place + 1)
        assert found["regret_cifar10"] == pytest.approx(0.03 * (24 - total), abs=1e-9)
        assert found["regret_cifar100"] == pytest.approx(4e-5 * (CELLS - 1 - place), abs=1e-9)
        assert found["regret_imagenet16_120"] == pytest.approx(4e-5 * place, abs=1e-9)
    assert (truth.best("cifar10"), truth.best("cifar100")) == pytest.approx((0.82, 0.63496))


def test_the_rounding_of_published_means_makes_no_rank(tmp_path: Path) -> None:
    rows = truths.rows()
    rows[0]["cifar100"], rows[1]["cifar100"] = 94.37333333333334, 94.3733332
    truth = Truth.load(truths.write_csv(tmp_path / "t.csv", rows), SPACE)
    assert [truth.of(cell(place))["rank_cifar100"] for place in (0, 1, CELLS - 1)] == [1, 1, 3]
    assert truth.of(cell(1))["regret_cifar100"] == 0


def test_a_string_defines_the_place_of_an_edge() -> None:
    cell = "|none~0|+|skip_connect~1|none~0|+|avg_pool_3x3~2|nor_conv_1x1~0|nor_conv_3x3~1|"
    ordered = "|none~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|nor_conv_3x3~1|avg_pool_3x3~2|"
    assert SPACE.canonical(cell) == SPACE.canonical(ordered) == ordered


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("", "expected a string such as"),
        ("None", "cell 'None'"),
        (SKIPS.replace("~2", "~3"), "expected a string such as"),
        (SKIPS.replace("|skip_connect~2", ""), "expected a string such as"),
        (SKIPS.replace("~1", "~0"), "expected a string such as"),
        (SKIPS + "+|none~0|none~1|none~2|none~3|", "expected a string such as"),
        (SKIPS[: SKIPS.rindex("+")], "expected a string such as"),
        (SKIPS.replace("skip_connect~2", "skip~2"), "node 3, input 2: unknown operation 'skip'; expected one of none"),
        ("x" * 10**6, "[...]"),
    ],
)
def test_what_is_no_cell_is_refused(cell: str, says: str) -> None:
    with pytest.raises(ValueError) as error:
        SPACE.canonical(cell)
    assert says in str(error.value) and len(str(error.value)) < 500


def _swapped(rows: list[dict[str, Any]]) -> None:
    """Cell 7 once more in place of cell 9, its edges in another order."""
    rows[9]["architecture"] = "+".join(
        "|" + "|".join(reversed(node.strip("|").split("|"))) + "|" for node in string(7).split("+")
    )


def _set(place: int, column: str, value: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[place].update({column: value})


def _each(change: Callable[[dict[str, Any]], Any]) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: [change(row) for row in rows] and None


WRONG: list[tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = [
    ("no column", _each(lambda row: row.pop("cifar100")), "no column 'cifar100' (or, as published, 'CIFAR100Test"),
    ("a cell twice", _swapped, f"the cell {string(7)} is there twice, first in"),
    ("a cell less", lambda rows: rows.pop(3), f"15,624 cells, expected all 15,625; without, for example, {string(3)}"),
    ("a cell more", lambda rows: rows.append(rows[5]), f"the cell {string(5)} is there twice"),
    ("above 100", _set(4, "cifar10", 100.01), "row 5, cifar10: 100.01 is no accuracy; expected a number from 0 to 100"),
    ("below 0", _set(4, "imagenet16_120", -0.5), "imagenet16_120: -0.5 is no accuracy"),
    ("not finite", _set(4, "cifar10", float("nan")), "cifar10: nan is no accuracy"),
    ("nothing", _set(4, "cifar10", None), "row 5, cifar10: None is no accuracy"),
    ("a word", _set(4, "cifar10", "good"), "line 6, cifar10: 'good' is no accuracy"),
    ("fractions", _each(lambda row: row.update(cifar10=row["cifar10"] / 100)), "multiply them by 100"),
    ("an operation", _set(8, "architecture", string(8).replace("none", "zero")), "unknown operation 'zero'"),
    ("half a string", _set(8, "architecture", string(8)[:20]), "expected a string such as"),
    ("a column twice", _each(lambda row: row.update(ArchitectureString="x")), "are the same; remove one"),
]


@pytest.mark.parametrize(("what", "change", "says"), WRONG, ids=[what for what, _, _ in WRONG])
def test_a_table_that_is_wrong_is_refused_in_one_line(
    tmp_path: Path, what: str, change: Callable[[Any], Any], says: str
) -> None:
    rows = truths.rows()
    change(rows)
    write = truths.write_csv if what.startswith("a ") else truths.write_parquet
    path = write(tmp_path / "table", rows)
    with pytest.raises(ValueError) as error:
        Truth.load(path, SPACE)
    line = str(error.value)
    assert line.startswith(f"truth {path}: ") and says in line and "\n" not in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory"),
        (b"", "no column 'architecture'"),
        (b"PAR1 and no more", "this Parquet file cannot be read"),
        (b"\xff\xd8\xff no text", "neither Parquet nor CSV"),
        (b'architecture,cifar10,cifar100,imagenet16_120\n"|none~0|', "line 2: unexpected end of data"),
        (b"architecture,cifar10,cifar100,imagenet16_120\n|none~0|,1\n", "line 2: 2 values, expected 4"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        Truth.load(path, SPACE)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(not os.environ.get("DASGM_TRUTH"), reason="DASGM_TRUTH names no table of NAS-Bench-201")
def test_the_published_table() -> None:
    """What the literature has: the cell in which DARTS's searches end (54.30, 15.61, 16.32), and the best ones."""
    truth = Truth.load(os.environ["DASGM_TRUTH"], SPACE)
    names = ("cifar10", "cifar100", "imagenet16_120")
    assert [round(100 * truth.of(Genotype.parse(SKIPS))[name], 2) for name in names] == [54.30, 15.61, 16.32]
    assert [round(100 * truth.best(name), 2) for name in names] == [94.37, 73.51, 47.31]
    chance = {cell for cell, found in truth.cells.items() if found == (10, 1, 0.8333)}
    assert len(chance) == 341 and chance == {cell for cell in truth.cells if not Genotype.parse(cell).connected}


def test_a_space_without_a_table_says_so(files: list[Path]) -> None:
    with pytest.raises(ValueError, match="search-space darts has no table of true accuracies"):
        Truth.load(files[0], darts.SearchSpace())
