"""The page of the paper's results: what is in which mean, what stands beside it, and what is said to be missing."""

from __future__ import annotations

import math
import re
import shlex
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from pages import Page, put
from predicted import predictions
from reproduced import record, searched, trained
from scipy import stats

from dasgm.cli import main as cli
from dasgm.jobs.paper import paper
from dasgm.pages.budgets import of_training
from dasgm.pages.gather import Gathered, gathered, read
from dasgm.pages.paper import sheets
from dasgm.pages.sheets import Sheet
from dasgm.pages.tables import comparisons, effect, welch
from dasgm.pages.view import read_run
from dasgm.presets import preset
from dasgm.presets.published import TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6
from dasgm.presets.rows import paper_rows, row_of
from tuning.reproduce import Options, parse, without_config


def parts(found: Gathered) -> dict[str, Sheet]:
    return {sheet.key: sheet for sheet in sheets(found)}


def rows(sheet: Sheet, grid: int, title: str) -> list[list[str]]:
    """The rows of this title, each cell with what stands under it."""
    made = [
        [f"{cell.text} ({cell.under})" if cell.under else cell.text for cell in row] for row in sheet.grids[grid].rows
    ]
    return [row for row in made if row[0].startswith(title)]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """DASGM and DARTS on CIFAR-10: three searches each at a small size, two DASGM ones at the paper's."""
    sweep = record(tmp_path / "table2-small-cifar10")
    for seed, (ours, theirs) in enumerate(((0.52, 0.50), (0.56, 0.48), (0.54, 0.52))):
        searched(sweep / f"t00{2 * seed}", "dasgm-darts", seed, ours, hours=0.25)
        searched(sweep / f"t00{2 * seed + 1}", "darts-2nd", seed, theirs, hours=0.25)
    full = record(tmp_path / "full")
    for seed in range(2):
        searched(full / f"t00{seed}", "dasgm-darts", seed, 0.9, full=True, hours=48.0, device="cuda:0 (a GPU)")
    return tmp_path


def test_published_numbers_are_the_papers():
    """Copied by hand; those of Table 2's errors are in test_presets.py."""
    assert [len(table) for table in (TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6)] == [48, 20, 3, 5, 3]
    sizes = {(one.title, one.dataset): (one.parameters, one.cost) for one in TABLE_2}
    assert sizes["DASGM+PDARTS+70% Val", "cifar100"] == ("2.6", "0.3") and sizes["DARTS-1st", "cifar10"] == (
        "3.3",
        "1.5",
    )
    imagenet = {one.title: (one.error, one.top5, one.parameters, one.cost) for one in TABLE_3}
    assert imagenet["DASGM+PCDARTS-CIFAR10"] == ("23.9", "7.1", "5.3", "0.4")
    assert imagenet["PC-DARTS-ImageNet"] == ("24.2", "7.3", "5.3", "3.8")
    assert [one.error for one in TABLE_4] == ["16.98", "16.90", "16.93"]
    assert TABLE_5[40] == ("64.08", "2.42") and TABLE_6["dasgm-pdarts", "pdarts"] == ("0.2722", "0.0003")


def test_each_row_is_known_by_its_settings():
    for row in paper_rows():
        found = row_of(row.config("cifar100"))
        assert found and found.key == row.key
    assert getattr(row_of(preset("dasgm-pdarts-val30-upstream").config), "key", "") == "dasgm-pdarts-val30"
    assert row_of(preset("nasbench201-darts-1st").config) is None and row_of(preset("dasgm-gdas").config) is None


def test_effect_and_interval_are_the_formulas():
    """Hedges' g and Welch's interval by hand; the quantile of Student's distribution is scipy's."""
    a, b = (2.70, 2.62, 2.81, 2.66), (2.90, 2.75, 2.95)
    va, vb = statistics.variance(a), statistics.variance(b)
    pooled = math.sqrt((3 * va + 2 * vb) / 5)
    difference = sum(a) / 4 - sum(b) / 3
    assert effect(a, b) == pytest.approx(difference / pooled * (1 - 3 / (4 * 7 - 9)))
    error = va / 4 + vb / 3
    df = error**2 / ((va / 4) ** 2 / 3 + (vb / 3) ** 2 / 2)
    half = stats.t.ppf(0.975, df) * math.sqrt(error)
    one, alone, flat = comparisons([(a, b), ((1.0,), b), ((1.0, 1.0), (2.0, 2.0))])
    assert (one.low, one.high) == pytest.approx((difference - half, difference + half))
    assert one.p == one.holm == pytest.approx(welch(a, b)) and one.difference == pytest.approx(difference)
    assert all(map(math.isnan, (alone.p, alone.holm, alone.low, alone.effect, flat.p, flat.effect)))
    assert flat.difference == -1.0


def test_runs_of_another_size_are_in_no_mean_of_the_papers(storage):
    found = parts(gathered(read(storage)))
    full, small = rows(found["table-2"], 0, "DASGM+DARTS")[:2]
    assert full == [
        *("DASGM+DARTS", "not trained", "2.70 ± 0.08", "10.00 ± 0.00 (n = 2 searches)", "3.30 ± 0.00", "3.1"),
        *("2 (cuda:0 (a GPU))", "5.2", "the paper's"),
    ]
    assert small[3] == "46.00 ± 2.00 (n = 3 searches; not the paper's budget)"
    assert small[6] == "not measured (0.25 h of cpu (a CPU))"
    assert "5 epochs (paper: 50), 3 cells (8), 4 channels (16), 6,000 pictures (all), 16 pixels (32)" in small[8]
    (darts,) = rows(found["table-2"], 0, "DARTS-2nd")
    assert darts[3].startswith("50.00 ± 2.00 (n = 3") and darts[2] == "2.76 ± 0.09"
    assert rows(found["table-2"], 1, "DARTS-2nd")[0][1] == "not run (no data)"


def test_trainings_are_found_by_their_search_and_compared(storage):
    """p, the interval and Holm's p by scipy; two trainings of a search are one value."""
    full = storage / "full"
    for seed in range(2):
        searched(full / f"t01{seed}", "darts-2nd", seed, 0.9, full=True)
        trained(storage / "e" / f"t00{seed}-s0", full / f"t00{seed}", 0, (0.026, 0.028)[seed])
        trained(storage / "e" / f"t01{seed}-s0", full / f"t01{seed}", 0, (0.030, 0.031)[seed])
    trained(storage / "e" / "t000-s1", full / "t000", 1, 0.024)
    trained(storage / "small" / "t000-s0", full / "t000", 0, 0.5, recipe="cifar-small")
    found = parts(gathered(read(storage)))
    lines = rows(found["table-2"], 0, "DASGM+DARTS")
    assert lines[0][1] == "2.65 ± 0.21 (n = 2 searches)" and lines[0][4] == "3.31 ± 0.00"
    assert lines[1][1] == "50.00 (n = 1 training of one network; not the paper's budget)"
    assert "training: 10 epochs (paper: 600), 5 cells (20), 8 channels (36)" in lines[1][8]
    row = rows(found["table-6"], 0, "DASGM+DARTS")[0]
    tested = stats.ttest_ind((0.025, 0.028), (0.030, 0.031), equal_var=False)
    interval = tested.confidence_interval(0.95)
    assert row[5] == f"-0.40 ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
    assert row[7] == row[8] == f"{tested.pvalue:.4f}" and row[9] == "0.3575"
    small = rows(found["table-6"], 1, "DASGM+DARTS")
    p = [stats.ttest_ind((0.48, 0.44, 0.46), (0.50, 0.52, 0.48), equal_var=False).pvalue]
    assert [row[7] for row in small if "±" in row[2] and "not the paper's" in row[2]] == [f"{p[0]:.4f}"]


def test_ablations_are_known_by_their_settings(storage):
    first = {"order": "first"}
    for seed, (ours, theirs) in enumerate(((0.40, 0.50), (0.42, 0.54))):
        searched(storage / "a" / f"t00{seed}", "dasgm-darts", seed, ours, changes=first)
        searched(
            storage / "a" / f"t01{seed}", "dasgm-darts", seed, theirs, changes=first | {"search_discriminator": False}
        )
    found = parts(gathered(read(storage)))["ablations"]
    (row,) = rows(found, 1, "DASGM+DARTS, first order, B searched")
    assert row[2].startswith("59.00 ± 1.41 (n = 2") and row[4].startswith("48.00 ± 2.83 (n = 2")
    assert row[5].startswith("+11.00 (")


def test_nothing_of_the_paper_stands_in_a_column_of_ours(tmp_path):
    """Of an empty storage no cell has a digit but those of the paper, and of epochs and names."""
    for found in (gathered([]), gathered(read(tmp_path))):
        grids = [grid for sheet in sheets(found) for grid in sheet.grids]
        assert len(grids) == 2 + 1 + 1 + 1 + 1 + 1
        for grid in grids:
            for row in grid.rows:
                for head, cell in list(zip(grid.heads, row, strict=True))[1:]:
                    assert (cell.look == "paper") == head.startswith("the paper's "), (grid.title, head)
                    named = head in ("against", "data set")
                    assert cell.look == "paper" or named or not re.search(r"\d", cell.text + cell.under), (head, cell)


def test_each_command_for_what_is_missing_makes_that_row(tmp_path):
    made = [one for sheet in sheets(gathered([], str(tmp_path))) for one in sheet.missing]
    searches = [command for one in made for command in one.commands if "reproduce.py" in command]
    assert len(made) > 50 and len({*searches}) > 40
    keys = set()
    for command in searches:
        words = shlex.split(command)[2:]
        options = parse(without_config(Options), words, Options(), "reproduce", "")
        (config,) = options.configs().values()
        row = row_of(config)
        assert row and words[words.index("--name") + 1] and words[-2:] == ["--storage", str(tmp_path)]
        keys.add(row.key)
        assert replace(config.proxy, epochs=0) == row.config("cifar10").proxy, "at the paper's size"
    assert keys == {row.key for row in paper_rows()}


def test_a_row_that_is_searched_lacks_its_trainings_alone(storage):
    """The paper has four seeds."""

    def missing() -> dict[str, list[str]]:
        return {one.what: list(one.commands) for one in parts(gathered(read(storage)))["table-2"].missing}

    assert len(missing()["DASGM+DARTS on CIFAR-10: 2 of 4 searches"]) == 2
    for seed in (2, 3):
        searched(storage / "full" / f"t00{seed}", "dasgm-darts", seed, 0.9, full=True)
    (command,) = missing()["DASGM+DARTS on CIFAR-10: the trainings of what the searches found"]
    folders = [str(storage / "full" / f"t00{seed}") for seed in range(4)]
    assert command == f"python cluster/evaluate.py {shlex.join(folders)} --dataset cifar10"
    assert len(missing()["DARTS-2nd on CIFAR-10, at the paper's size"]) == 2
    for seed in range(4):
        trained(storage / "e" / f"t00{seed}-s0", storage / "full" / f"t00{seed}", 0, 0.03)
    assert not [what for what in missing() if re.match(r"DASGM\+DARTS on CIFAR-10\b(?!0)", what)]


def test_pictures_that_only_one_gets_right_are_counted(storage, capsys):
    """McNemar's mid-p of 3 and 1: 2 * (P(X <= 1) - P(X = 1) / 2) for X binomial of 4 and 1/2."""
    for name, row, right in (("t020", "darts-2nd", "1100001111"), ("t021", "dasgm-darts", "1011101111")):
        search = searched(storage / "full" / name, row, 7, 0.9, full=True)
        predictions(trained(storage / "e" / f"{name}-s0", search, 0, 0.03) / "predictions.csv", right)
    assert cli.main(["report", str(storage), "--paper"]) == 0
    html, text = capsys.readouterr().out.split()
    said = Path(text).read_text()
    assert "| CIFAR-10 | 7 | 3 | 1 | 10 | 0.3750 | 0.3750 | the paper's |" in said
    assert "The pictures are not here: " in said
    page = Page(Path(html))
    assert not [address for address in page.addresses if not address.startswith(("data:", "#"))]
    assert {f"<{tag}>" for tag in page.tags} >= {"<svg>", "<img>"}, "Figures 3 and 4"
    cells = [row for row in page.rows if row.startswith("DASGM+DARTS|")]
    assert any("46.00 ± 2.00|n = 3 searches; not the paper's budget" in row for row in cells)
    assert len(html.encode()) < 3e6 and "not run (no data)" in page.text


def test_what_is_of_no_row_is_said(storage):
    put(storage / "x" / "run.json", {"state": "finished", "parameters": {"row": "nasbench201-gdas"}, "sweep": "show"})
    put(storage / "x" / "config.json", {"data": {"key": "cifar10"}})
    html, text = paper(storage)
    assert "of no row of the paper, or have not begun: searches of nasbench201-gdas: 1." in text.read_text()
    assert "searches of nasbench201-gdas: 1." in Page(html).text


def test_bad_input_is_one_line(storage, tmp_path, capsys):
    for words, part in (
        (["nowhere", "--paper"], "nowhere: no such folder; name the one that holds your runs"),
        ([str(storage / "full" / "t000"), "--paper"], "t000: the folder of one run; name the folder that holds"),
        ([str(storage), "--paper", "--against", "x"], "--paper with --against: leave one of the two out"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["report", *words])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert part in line


def test_the_budget_of_a_training_is_that_of_all_workers(storage):
    run = read_run(trained(storage / "e" / "x", storage / "full" / "t000", 0, 0.03))
    assert of_training(run).papers
    assert of_training(replace(run, info=run.info | {"workers": 2})).brief == "batch 192 (paper: 96)"
    assert of_training(replace(run, config={})).unread
