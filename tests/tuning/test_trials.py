"""The parts of a sweep by themselves: halving, proposals, the time that is left."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import TOOLS, finish
from optuna.trial import FixedTrial, TrialState
from proposals import BASE, GAVE_UP, end, interrupt, propose
from ray.tune.search import Searcher

from dasgm.config import override
from dasgm.plugins import key_of, keys
from dasgm.presets import preset
from dasgm.store.run import Run
from tuning import spaces, sweep
from tuning.asking import open_study
from tuning.plan import METRIC
from tuning.sweep import Options
from tuning.trials import Proposer, settle


def test_where_there_is_no_room_for_one_nothing_is_begun_until_another_ends(tmp_path):
    proposer = propose(tmp_path)
    assert all(isinstance(proposer.suggest(ray_id), dict) for ray_id in "abc")
    interrupt(proposer, "a", GAVE_UP)
    assert proposer.suggest("d") is None  # b and c have their room
    end(proposer, "b", "finished", [0.5] * 4)
    assert isinstance(proposer.suggest("d"), dict) and not proposer.gave_up
    interrupt(proposer, "c", GAVE_UP)
    interrupt(proposer, "d", GAVE_UP)
    assert proposer.suggest("e") == Searcher.FINISHED and proposer.gave_up == GAVE_UP


def test_a_trial_that_ended_without_reporting_its_rung_is_judged_then(tmp_path):
    proposer = propose(tmp_path)
    for ray_id in "ab":
        proposer.suggest(ray_id)
    end(proposer, "a", "finished", [0.5] * 4)
    run = Run(tmp_path / "t001")
    for epoch, accuracy in enumerate([0.1, 0.4, 0.9], 1):  # rung 2, and the one report after it, died with a process
        run.log("metrics", {"epoch": epoch, "phase": "search 1", METRIC: accuracy, "time": float(epoch)})
    run.note(state="failed")
    proposer.on_trial_complete("b")
    assert [run.about[key] for key in ("state", "reason")] == ["stopped", "rung 2: 0.400 < 0.500"]
    assert [t.state for t in proposer._trials()] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_only_a_finished_trial_gives_the_sampler_a_score(tmp_path):
    proposer = propose(tmp_path)
    ends = [("a", "finished", [0.5] * 4), ("b", "stopped", [0.9, 0.1]), ("c", "failed", [0.2])]
    for ray_id, state, accuracies in ends:
        assert proposer.suggest(ray_id)["name"] == f"t{proposer.numbers[ray_id]:03d}"
        end(proposer, ray_id, state, accuracies)
    complete, pruned, failed = proposer.study.trials
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 0.5)
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {1: 0.9, 2: 0.1})
    assert (failed.state, failed.value) == (TrialState.FAIL, None)
    assert Run(tmp_path / "t001").about["reason"] == "rung 2: 0.100 < 0.500"


def test_optuna_is_told_the_score_that_ranks(tmp_path):
    proposer = propose(tmp_path, rank_by="naswot")
    for ray_id, proxy, score in (("a", 0.9, 500.25), ("b", 0.3, 700.5)):
        proposer.suggest(ray_id)
        end(proposer, ray_id, "finished", [0.5] * 4, proxy, {"best/naswot": score})
    assert [trial.value for trial in proposer.study.trials] == [500.25, 700.5]
    proposer.suggest("c")
    with pytest.raises(ValueError, match="t002: finished, but without best/naswot; remove its folder"):
        end(proposer, "c", "finished", [0.5] * 4)


CODE = """
import sys
from pathlib import Path
sys.path.insert(0, "TOOLS")
from proposals import propose
proposer = propose(Path(sys.argv[1]))
for ray_id in "xyz":
    config = proposer.suggest(ray_id)
    print(config["name"], proposer.study.trials[int(config["name"][1:])].params)
"""


def test_a_new_process_proposes_what_the_old_one_would_have(tmp_path, warm):
    def begun(folder: Path) -> Proposer:
        folder.mkdir()
        proposer = propose(folder)
        for i in range(7):  # beyond the random start: TPE
            proposer.suggest(str(i))
            end(proposer, str(i), "finished", [0.5] * 4, proxy=0.1 * i)
        return proposer

    same = begun(tmp_path / "one")
    expected = [same.suggest("7")["name"], same.study.trials[7].params]
    begun(tmp_path / "two")
    code = CODE.replace("TOOLS", str(TOOLS))
    _, out, err = finish(warm.start("-c", code, str(tmp_path / "two")))
    assert f"{expected[0]} {expected[1]}" in out.splitlines(), err


def test_unfinished_trials_come_first_and_none_is_proposed_twice(tmp_path):
    first = propose(tmp_path, 3)
    for ray_id in "abc":
        first.suggest(ray_id)
    end(first, "b", "finished", [0.4] * 4)
    Run(tmp_path / "t002").log("metrics", {"epoch": 1, "phase": "search 1", METRIC: 0.3, "time": 1.0})
    parameters = [trial.params for trial in first.study.trials]

    second = propose(tmp_path, 4)
    names = [second.suggest(ray_id)["name"] for ray_id in "xyz"]
    assert names == ["t000", "t002", "t003"] and second.suggest("w") == Searcher.FINISHED
    assert [trial.params for trial in second.study.trials][:3] == parameters
    assert second.halving.bracket._rungs[0][1] == {"t001": 0.4}


def test_what_the_folder_knows_and_the_study_does_not_is_told(tmp_path):
    first = propose(tmp_path, 3)
    for ray_id, accuracies in (("a", [0.5, 0.6]), ("b", [0.4, 0.1]), ("c", [])):
        first.suggest(ray_id)
        for epoch, accuracy in enumerate(accuracies, 1):
            row = {"epoch": epoch, "phase": "search 1", METRIC: accuracy, "time": 1.0}
            Run(tmp_path / f"t{first.numbers[ray_id]:03d}").log("metrics", row)
    Run(tmp_path / "t002").note(state="failed", reason="epoch 1, stage 1")  # killed before the study was told
    second = propose(tmp_path, 3)
    assert [t.state.name for t in second.study.trials] == ["RUNNING", "PRUNED", "FAIL"]
    assert second.waiting == [0]


def test_rungs_are_refilled_in_the_order_of_arrival_and_stop_nobody_in_retrospect(tmp_path):
    """t001 passed the rung before the better t000 came there: it goes on, as it would have without the kill."""
    first = propose(tmp_path, 2)
    for ray_id, times in (("a", [2.0, 5.0, 6.0, 7.0]), ("b", [1.0, 3.0, 4.0])):
        first.suggest(ray_id)
        for epoch, moment in enumerate(times, 1):
            row = {"epoch": epoch, "phase": "search 1", METRIC: {"a": 0.9, "b": 0.3}[ray_id], "time": moment}
            Run(tmp_path / f"t{first.numbers[ray_id]:03d}").log("metrics", row)
        Run(tmp_path / f"t{first.numbers[ray_id]:03d}").note(proposed=0.5)
    Run(tmp_path / "t000").log("metrics", {"epoch": 4, "phase": "best", "best/proxy": 0.5, "time": 8.0})
    Run(tmp_path / "t000").note(state="finished")
    second = propose(tmp_path, 2)
    assert second.waiting == [1] and second.halving.reasons == {}
    assert [t.state.name for t in second.study.trials] == ["COMPLETE", "RUNNING"]
    assert second.halving.bracket._rungs[-1][1] == {"t000": 0.9, "t001": 0.3}


def test_rungs_are_refilled_in_the_same_order_though_the_clock_was_set_back(tmp_path, monkeypatch):
    """In the middle of t000's second epoch: t001, after it and worse, is stopped as it would have been."""
    clock = iter([1000.0, 20.0])
    monkeypatch.setattr("tuning.trials.time", SimpleNamespace(time=lambda: next(clock, 30.0)))
    first = propose(tmp_path, 2)
    trials = {"a": ([0.1, 0.9, 0.2, 0.2], [1001.0, 3.0, 4.0, 2.0]), "b": ([0.3, 0.3], [21.0, 22.0])}
    for ray_id, (accuracies, times) in trials.items():
        first.suggest(ray_id)
        run = Run(tmp_path / f"t{first.numbers[ray_id]:03d}")
        for epoch, (accuracy, moment) in enumerate(zip(accuracies, times, strict=True), 1):
            run.log("metrics", {"epoch": epoch, "phase": "search 1", METRIC: accuracy, "time": moment})
        if ray_id == "a":
            run.log("metrics", {"epoch": 4, "phase": "best", "best/proxy": 0.5, "time": 5.0})
            run.note(state="finished")
            first.on_trial_complete("a")
    second = propose(tmp_path, 2)
    assert second.waiting == [] and Run(tmp_path / "t001").about["reason"] == "rung 2: 0.300 < 0.900"
    assert [t.state.name for t in second.study.trials] == ["COMPLETE", "PRUNED"]


def test_a_proposal_cut_off_in_the_middle_is_completed(tmp_path):
    study = open_study(tmp_path)
    study.ask().suggest_float("classifier_lr", BASE.classifier_lr / 4, BASE.classifier_lr * 4, log=True)
    rate = study.trials[0].params["classifier_lr"]
    proposer = propose(tmp_path)
    assert proposer.suggest("a")["name"] == "t000"
    assert proposer.study.trials[0].params["classifier_lr"] == rate
    assert {"arch_lr", "gan"} <= set(proposer.study.trials[0].params)


def test_a_wrong_space_is_one_line(tmp_path):
    def wrong(trial, base):
        return {"val_portion": trial.suggest_float("val_portion", 1.5, 2.0)}

    with pytest.raises(ValueError, match="the space, at trial 0: val-portion") as error:
        propose(tmp_path, space=wrong).suggest("a")
    assert len(str(error.value).splitlines()) == 1


def test_a_sweep_that_ends_before_its_searches_says_why(tmp_path, monkeypatch, capsys):
    def cut_off(self, workers):
        Run(self.folder / "t000").folder.mkdir()
        Run(self.folder / "t000").note(
            title="t000 none", state="interrupted", reason="storage s: No space left on device"
        )
        return False

    monkeypatch.setattr(sweep.Sweep, "run", cut_off)
    assert sweep.main(["--gan=none", f"--storage={tmp_path}", "--num-trials=1", "--name=s"]) == 1
    said = capsys.readouterr()
    assert said.err == "error: t000 none: storage s: No space left on device\n" and "To continue: " in said.out


@pytest.mark.parametrize("seconds", [-5.0, 0.0, float("nan")])
def test_a_time_budget_of_nothing_is_refused(seconds):
    with pytest.raises(ValueError, match="^time-budget .*: expected seconds, more than 0$"):
        Options(BASE, time_budget=seconds)


def test_a_space_that_failed_once_costs_no_search(tmp_path):
    def wrong(trial, base):
        trial.suggest_float("classifier_lr", 0.1, 0.2, log=True)
        raise OSError("a mount is away")

    with pytest.raises(ValueError, match="the space, at trial 0: a mount is away"):
        propose(tmp_path, space=wrong).suggest("a")
    proposer = propose(tmp_path)
    names = [proposer.suggest(str(i))["name"] for i in range(proposer.plan.num_trials)]
    assert names == [f"t{number:03d}" for number in range(1, len(names) + 1)]
    assert proposer.suggest("z") == Searcher.FINISHED


def test_a_row_whose_space_failed_is_proposed_again(tmp_path):
    def wrong(trial, base):
        raise OSError("a mount is away")

    def right(trial, base):
        return {"classifier_lr": trial.suggest_float("classifier_lr", 0.01, 0.1)}

    rows = ({"classifier_lr": 0.05}, {"classifier_lr": 0.02})
    for space, fails in ((wrong, True), (right, False), (wrong, True), (right, False)):
        proposer = propose(tmp_path, space=space)
        proposer.waiting, proposer.plan = [], replace(proposer.plan, num_trials=2, parameters=rows)
        with pytest.raises(ValueError, match="the space, at trial") if fails else nullcontext():
            proposer.suggest("a")
    assert [trial.params for trial in proposer.study.trials] == [{}, rows[0], {}, rows[1]]


def test_rate_and_portion_exist_only_under_a_gan():
    none = spaces.default(FixedTrial({"classifier_lr": 0.05, "arch_lr": 0.02, "gan": "none"}), BASE)
    assert set(none) == {"classifier_lr", "arch_lr", "gan"} and override(BASE, none).gan is None
    some = {"classifier_lr": 0.05, "arch_lr": 0.02, "gan": "biggan", "generator_lr": 1e-3, "val_portion": 0.3}
    config = override(BASE, spaces.default(FixedTrial(some), BASE))
    assert config.gan.generator_lr == 1e-3 and config.val_portion == 0.3
    assert spaces.title(3, some) == "t003 biggan v30" and spaces.title(4, {"gan": "none"}) == "t004 none"


@pytest.mark.parametrize("key", ["none", *keys("gans")])
def test_space_over_the_gans_gives_each_at_the_size_of_the_search(key):
    asked = {"gan": key} | ({} if key == "none" else {"val_portion": 0.5})
    config = override(BASE, spaces.gans(FixedTrial(asked), BASE))
    assert key_of(config.gan) == key and (config.gan is None or config.gan.channels <= 32)
    full = override(preset("dasgm-darts").config, spaces.gans(FixedTrial(asked), preset("dasgm-darts").config))
    assert config.gan is None or (full.gan.channels >= 64 and full.val_portion == 0.5)


def test_settling_drops_what_came_after_the_stop(tmp_path):
    run = Run(tmp_path / "t000")
    run.folder.mkdir()
    for epoch in (1, 2, 3):
        run.log("metrics", {"epoch": epoch, "phase": "search 1", METRIC: 0.1, "time": 1.0 * epoch})
        run.log("alphas", {"epoch": epoch})
    run.note(state="stopped", rung=2)
    other = Run(tmp_path / "t001")
    other.folder.mkdir()
    other.note(state="running")
    settle(tmp_path)
    assert [row["epoch"] for row in run.rows()] == [1, 2] and other.about["state"] == "interrupted"
