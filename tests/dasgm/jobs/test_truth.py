"""A search that is given a table of true accuracies: what it logs, and that it ends with the same bits as without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import truths
from outcomes import rows_of

from dasgm.cli.search import result_line
from dasgm.config import SearchConfig, override
from dasgm.jobs.search import main
from dasgm.jobs.session import Hooks
from dasgm.pages.report import report
from dasgm.presets import preset
from dasgm.store.records import read_lines
from dasgm.store.run import Run

SMALL = {
    "search_space": "nasbench201",
    "gan": "none",
    "method.epochs": 3,
    "method.cells": 5,
    "method.channels": 2,
    "proxy.epochs": 0,
    "batch_size": 16,
    "data.limit": 100,
    "threads": 1,
    "arch_lr": 0.1,
    "pictures_every": 9,
}


def config(**changes: Any) -> SearchConfig:
    return override(preset("quickstart").config, SMALL | {name.replace("__", "."): v for name, v in changes.items()})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return truths.write_parquet(tmp_path_factory.mktemp("truth") / "table.parquet", truths.rows())


@pytest.fixture(scope="module")
def given(table: Path) -> tuple[Path, list[dict[str, Any]], dict[str, Any], list[str]]:
    """A search with the table: its folder, what it reported, its last row, and what it said."""
    reported: list[dict[str, Any]] = []
    said: list[str] = []
    folder = table.parent / "given"
    row = main(config(truth=str(table)), folder, Hooks(report=reported.append, say=said.append))
    return folder, reported, row, said


def without_truth(folder: Path) -> list[Any]:
    """All that came out of a run but what the table said, to the bit."""
    state = Run(folder).load()
    assert state is not None
    rows = [{key: value for key, value in row.items() if "truth" not in key} for row in rows_of(folder)]
    networks = {name: {k: v.tolist() for k, v in state["search"][name]["module"].items()} for name in ("A", "W")}
    return [rows, read_lines(folder / "alphas.jsonl"), (folder / "genotype.json").read_text(), networks]


def test_a_search_ends_with_the_same_bits_with_the_truth_as_without(given: Any, tmp_path: Path) -> None:
    main(config(), tmp_path / "run", Hooks(say=lambda line: None))
    assert not [key for row in rows_of(tmp_path / "run") for key in row if "truth" in key]
    assert without_truth(given[0]) == without_truth(tmp_path / "run")
    identities = [json.loads((folder / "run.json").read_text())["identity"] for folder in (given[0], tmp_path / "run")]
    assert identities[0] == identities[1]


def test_what_decides_about_a_sweep_is_told_no_truth(given: Any) -> None:
    _, reported, _, _ = given
    assert [row["epoch"] for row in reported] == [1, 2, 3] and all("val/accuracy" in row for row in reported)
    assert not [key for row in reported for key in row if "truth" in key]


def test_every_epoch_has_the_truth_of_the_genotype_that_it_ended_with(given: Any) -> None:
    """The strongest operation of each edge is read from alphas.jsonl here; accuracies and ranks are the formulas'."""
    folder, _, last, said = given
    rows, alphas = (
        read_lines(folder / "metrics.jsonl"),
        {row["epoch"]: row for row in read_lines(folder / "alphas.jsonl")},
    )
    assert [row["phase"] for row in rows] == ["search 1"] * 3 + ["best"]
    for row in rows:
        ((cell, weights),) = [(k, v) for k, v in alphas[row["epoch"]].items() if k not in ("epoch", "operations")]
        operations = alphas[row["epoch"]]["operations"][cell]
        names = [names[w.index(max(w))] for names, w in zip(operations, weights, strict=True)]
        place = sum(
            truths.OPERATIONS.index(name) * 5**power for name, power in zip(names, range(5, -1, -1), strict=True)
        )
        for name, accuracy in zip(("cifar10", "cifar100", "imagenet16_120"), truths.accuracies(place), strict=True):
            assert row[f"truth/{name}"] == pytest.approx(accuracy / 100)
        assert (row["truth/rank_cifar100"], row["truth/rank_imagenet16_120"]) == (truths.CELLS - place, place + 1)
        assert row["truth/regret_imagenet16_120"] == pytest.approx(4e-5 * place)
    assert last["truth/cifar10"] == rows[-1]["truth/cifar10"]
    told = [line for line in said if line.startswith("epoch ")]
    assert all(f"  true {row['truth/cifar10']:.3f}" in line for row, line in zip(rows[:3], told, strict=True))
    assert f"CIFAR-10 {last['truth/cifar10']:.2%} (rank {last['truth/rank_cifar10']:,})" in result_line(last, folder)
    assert "15,625 cells" in Run(folder).about["truth"]
    assert "True accuracy" in report(folder).read_text()


def test_a_run_that_began_without_a_table_goes_on_with_one(table: Path, given: Any, tmp_path: Path) -> None:
    class Gone(Exception):
        pass

    def gone(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise Gone

    with pytest.raises(Gone):
        main(config(), tmp_path / "run", Hooks(say=lambda line: None, report=gone))
    main(config(truth=str(table)), tmp_path / "run", Hooks(say=lambda line: None))
    assert without_truth(tmp_path / "run") == without_truth(given[0])
    assert ["truth/cifar10" in row for row in rows_of(tmp_path / "run")] == [False, False, True, True]


def test_what_is_wrong_with_a_table_is_said_before_the_folder_is_made(tmp_path: Path) -> None:
    path = truths.write_csv(tmp_path / "t.csv", truths.rows()[1:])
    with pytest.raises(ValueError, match=r"t.csv: 15,624 cells, expected all 15,625; without, for example, \|none~0"):
        main(config(truth=str(path)), tmp_path / "run", Hooks(say=lambda line: None))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="search-space darts has no table of true accuracies"):
        config(truth=str(path), search_space="darts")
