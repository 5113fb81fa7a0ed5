"""True accuracies on the pages and in the tables of runs that were given a table of them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pages import Page, lines, put, write_run
from rich.console import Console

from dasgm.genotype import Genotype
from dasgm.pages.report import report
from dasgm.pages.tables import baselines, truths, welch
from dasgm.pages.view import RunView, read_run, read_trials
from dasgm.spaces.darts import KNOWN
from tuning.table import table


def with_truth(folder: Path, accuracies: list[float]) -> Path:
    """A run's rows, an accuracy on CIFAR-10 an epoch; on the other sets a half and a quarter of it."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        accuracy = accuracies[row["epoch"] - 1]
        for name, share in (("cifar10", 1), ("cifar100", 0.5), ("imagenet16_120", 0.25)):
            row |= {f"truth/{name}": share * accuracy, f"truth/rank_{name}": 15231, f"truth/regret_{name}": 0.401}
    put(folder / "metrics.jsonl", lines(rows))
    put(folder / "run.json", json.loads((folder / "run.json").read_text()) | {"truth": "t.csv (sha256 01), 9 cells"})
    return folder


def test_the_page_of_a_run_has_the_curve_and_the_last_cell(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "r", "finished", 3, 0.9)
    assert "True accuracy" not in Page(report(tmp_path / "r")).text
    text = Page(report(with_truth(tmp_path / "r", [0.9, 0.8, 0.543]))).text
    assert "CIFAR-10, epoch 1: 90 %" in text and "CIFAR-100, epoch 2: 40 %" in text, "a point for each epoch"
    assert "Table: t.csv (sha256 01), 9 cells." in text
    (row,) = [row for row in Page(tmp_path / "r" / "report.html").rows if row.startswith("CIFAR-10|")]
    assert row == "CIFAR-10|54.30 %|15,231|40.10 %|"
    assert read_run(tmp_path / "r").truth == {"cifar10": 0.543, "cifar100": 0.2715, "imagenet16_120": 0.13575}


def test_a_sweep_ranks_by_the_proxy_and_shows_the_truth_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "sweep.json", {"format": 2, "state": "finished", "objective": "best/proxy", "num_trials": 2})
    for name, proxy, accuracy in (("t000", 0.5, 0.94), ("t001", 0.9, 0.544)):
        write_run(tmp_path / name, name, "finished", 1, proxy)
        with_truth(tmp_path / name, [accuracy])
    head, first, second = Page(report(tmp_path)).rows[:3]
    assert "true, CIFAR-10|true, CIFAR-100|true, ImageNet16-120|" in head
    assert first.startswith("1|t001|") and "|1|54.40 %|27.20 %|13.60 %|" in first and "|1|94.00 %|47.00 %|" in second
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(table(read_trials(tmp_path), 1, "", "best/proxy"))
    drawn = console.export_text()
    assert "true, ImageNet16-120" in drawn and drawn.index("0.5440") < drawn.index("0.9400")
    assert "naswot" in drawn and drawn.index("900.0") < drawn.index("500.0")


SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|none~1|skip_connect~2|"


def run(row: str, seed: int, accuracy: float | None, cell: str = SKIPS) -> RunView:
    metrics: list[dict[str, Any]] = [{"epoch": 0 if "random" in row else 1}]
    if accuracy is not None:
        metrics[0] |= {"truth/cifar10": accuracy, "truth/cifar100": 0.5 + seed / 10, "truth/imagenet16_120": 0.4}
    info = {"parameters": {"row": row, "seed": seed}}
    return RunView(Path(f"{row}{seed}"), "finished", info, {}, metrics, Genotype.parse(cell))


def test_the_rows_of_a_reproduction_have_means_deviations_and_p() -> None:
    """p of the second data set: the same three values in both rows, so t is 0. Seeds that all end in one cell have no
    spread, of which no test can say anything."""
    darts, conv = "nasbench201-darts-1st", SKIPS.replace("skip_connect~2", "nor_conv_3x3~2")
    runs = [run(darts, seed, 0.543) for seed in range(3)]
    runs += [run("nasbench201-random", seed, 0.9, conv if seed else SKIPS) for seed in range(3)]
    names = (darts, "nasbench201-random", "nasbench201-gdas")
    text = truths(runs, names, 3, baselines(names)).splitlines()
    assert text[0] == (
        "| row | n | skips alone | against | CIFAR-10, % | p | Holm's p | CIFAR-100, % | p | Holm's p "
        "| ImageNet16-120, % | p | Holm's p |"
    )
    assert text[2] == f"| {darts} | 3 | 3 | - | 54.30 ± 0.00 | - | - | 60.00 ± 10.00 | - | - | 40.00 ± 0.00 | - | - |"
    assert text[3] == (
        f"| nasbench201-random | 3 | 1 | {darts} | 90.00 ± 0.00 | - | - | 60.00 ± 10.00 | 1 | 1 "
        "| 40.00 ± 0.00 | - | - |"
    )
    assert text[4] == f"| nasbench201-gdas | 0 | - | {darts} | not run | - | - | not run | - | - | not run | - | - |"
    assert text[-1].endswith("the comparisons of this table, of which there is 1.")
    assert truths([run("pdarts", 0, None)], ("pdarts",), 1, {}) == ""


def test_cells_of_skip_connections_alone() -> None:
    """In DARTS's space the normal cell decides."""
    assert Genotype.parse(SKIPS).skips_alone
    assert not Genotype.parse(re.sub("skip_connect", "none", SKIPS)).skips_alone
    normal = tuple(("skip_connect", state) for _, state in KNOWN["OLES_cifar100"].normal)
    assert replace(KNOWN["OLES_cifar100"], normal=normal).skips_alone and not KNOWN["OLES_cifar100"].skips_alone


@pytest.mark.filterwarnings("error")
def test_rows_without_any_spread_are_not_compared() -> None:
    assert math.isnan(welch((0.5, 0.5), (0.5, 0.5))) and math.isnan(welch((0.5, 0.5), (0.6, 0.6)))
