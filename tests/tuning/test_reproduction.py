"""A table or a figure of the paper as one plan: what it is made of, its names, its price, and that it goes on."""

from __future__ import annotations

import re
import signal
from dataclasses import replace

import pytest
from commands import ROOT, finish, start, wait_for

from dasgm.plugins import key_of
from dasgm.presets import preset
from dasgm.recipes import RECIPES
from dasgm.store.records import read_json, read_record
from dasgm.store.run import state_of
from tuning.budgets import BUDGETS
from tuning.results import KNOWN, RESULTS, Searches, Trainings
from tuning.rows import Options

METHODS = ("darts", "pdarts", "pcdarts")


def test_the_tables_have_the_papers_rows():
    """By the paper: 16 rows of Table 2 are its own or what they extend, on both data sets, with four seeds."""
    rows = {name for name, _ in RESULTS["table", "2"].rows}
    plain = {"darts-1st", "darts-2nd", "pdarts", "pcdarts"}
    vals = {f"dasgm-{key}-val{n}" for key in METHODS for n in (30, 50, 70)}
    assert rows == plain | vals | {f"dasgm-{key}" for key in METHODS} and len(rows) == 16
    assert all("Table 2" in preset(name).published for name in rows)
    assert set(RESULTS["table", "2"].rows) == {(name, data) for name in rows for data in ("cifar10", "cifar100")}
    six = {f"dasgm-{key}" for key in METHODS} | plain - {"darts-1st"}
    assert {name for name, _ in RESULTS["table", "6"].rows} == six
    assert set(RESULTS["table", "3"].rows) == {(name, "cifar10") for name in six} | {("pdarts", "cifar100")}
    assert {name for name, _ in RESULTS["figure", "3"].rows} == {
        "dasgm-darts", "dasgm-darts-val50", "darts-1st", "darts-2nd"
    }  # fmt: skip
    seeds = {number: RESULTS["table", number].seeds for number in "2456"}
    assert seeds == {"2": 4, "4": 1, "5": 1, "6": 4}


def test_what_is_compared_stands_together_and_the_claims_come_first():
    parts = RESULTS["table", "2"].parts(4)
    first = [str(part) for part in parts[:8]]
    for dataset, its in (("cifar100", first[:4]), ("cifar10", first[4:])):
        assert its == [
            f"{what} of {row} on {dataset}"
            for row in ("dasgm-darts", "darts-2nd")
            for what in ("searches", "trainings")
        ]
    on_imagenet = RESULTS["table", "3"].parts(4)
    assert on_imagenet[1] == Trainings(Searches("dasgm-darts", "cifar10", 4), "imagenet", 1)
    assert on_imagenet[-1] == Trainings(None, "imagenet", networks=KNOWN)
    assert not [part for part in RESULTS["table", "5"].parts(1) if isinstance(part, Trainings)]


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_changes_the_size_and_no_row(name):
    for row, _ in RESULTS["table", "2"].rows + RESULTS["table", "4"].rows:
        options = Options(rows=(row,), budget=name, pretrain="val" in row)
        config, full = options.configs()[row], Options(rows=(row,), pretrain="val" in row).configs()[row]
        for same in ("order", "search_discriminator", "val_portion", "freeze_gan", "arch_clip"):
            assert getattr(config, same) == getattr(full, same)
        assert key_of(config.gan) == key_of(full.gan) and key_of(config.method) == key_of(full.method)
        assert (config == full) == (name == "paper")
        assert all(stage.arch_start_epoch < stage.epochs for stage in config.stages)
    assert {
        word.partition("=")[2] for words in BUDGETS[name].trainings.values() for word in words[:1]
    } <= RECIPES.keys()


def test_no_folder_of_one_budget_has_the_name_of_another():
    base = Options(table="2")
    other = [{}, {"small": True}, {"budget": "small"}, {"set": ("batch_size=16",)}, {"train_set": ("batch_size=16",)}]
    other += [{"small": True, "set": ("batch_size=16",)}, {"name": "mine"}]
    labels = [replace(base, **changes).label for changes in other]
    assert labels[:3] == ["", "-smoke", "-small"] and labels[-1] == "-mine" and len(set(labels)) == len(labels)
    parts = [part for key in RESULTS for part in RESULTS[key].parts(1)]
    names = {part.name(label) for part in parts for label in labels}
    distinct = {(type(part), getattr(part, "row", ""), str(part), label) for part in parts for label in labels}
    assert len(names) == len(distinct)
    assert replace(base, small=True, set=("batch_size=16",)).budget_in_words == "smoke, with --set batch_size=16"
    assert not any("/" in name or ":" in name for name in names)


SET = ("method.epochs=1", "method.arch_start_epoch=0", "method.channels=2", "data.limit=160", "proxy.epochs=1")
TRAIN_SET = ("epochs=1", "channels=2", "data.limit=160")
SCRIPT = (str(ROOT / "tuning" / "reproduce.py"), "--table", "6", "--budget", "smoke", "--dataset", "digits")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_plan_that_was_killed_goes_on_where_it_was(tmp_path):
    rows = ("--rows", "darts-2nd", "pdarts", "--seeds", "1", "--name", "x")
    words = (*SCRIPT, *rows, "--set", *SET, "--train-set", *TRAIN_SET)
    code, out, err = finish(start(*words, "--dry-run", cwd=tmp_path))
    assert code == 0 and not err and len(re.findall(r"^part \d, .* 1 run, 1 at once: \d+\.\d\d hours", out, re.M)) == 4
    assert "in all: " in out and "nothing was started" in out and not (tmp_path / "runs").exists()
    searched, trained = (tmp_path / "runs" / f"darts-2nd-digits-x{end}" for end in ("", "-trained"))
    process = start(*words, cwd=tmp_path)
    wait_for(process, lambda: read_record(searched / "sweep.json").get("state") == "finished")
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 130 and "To continue: " in out, (out, err)
    assert not list((tmp_path / "runs").glob("pdarts*")), "the first row is whole before the next one begins"
    before = read_json(searched / "t000" / "run.json")
    code, out, err = finish(start(*words, cwd=tmp_path))
    assert code == 0 and not err, (out, err)
    assert f"done before: 1 searches in {searched}" in out
    assert read_json(searched / "t000" / "run.json") == before
    set_, both = ("--set", *SET), ("--set", *SET, "--train-set", *TRAIN_SET)
    for run, changed in ((searched / "t000", set_), (trained / "t000-s0", both)):
        budget = "smoke, with " + " ".join(changed)
        assert read_json(run / "run.json")["budget"] == budget == read_json(run.parent / "sweep.json")["budget"]
    assert state_of(tmp_path / "runs" / "pdarts-digits-x-trained" / "t000-s0") == "finished"
