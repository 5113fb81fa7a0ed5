"""Successive halving, against Ray's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from proposals import BASE, results
from ray.tune.schedulers import ASHAScheduler

from dasgm.config import override
from dasgm.methods import darts, pdarts
from dasgm.spaces.darts import SearchSpace
from dasgm.store.run import Run
from tuning.halving import Halving
from tuning.plan import METRIC, rungs
from tuning.sweep import Options


@pytest.mark.parametrize("seed", range(5))
def test_halving_decides_as_rays_own(seed):
    epochs, grace = 9, 2
    ours = Halving(rungs(darts.Config(epochs=epochs).outline(SearchSpace()), grace))
    stock = ASHAScheduler("epoch", METRIC, "max", epochs + 1, grace, 2)
    stopped = set()
    for name, epoch, accuracy in results(seed, 12, epochs):
        if name in stopped:
            continue
        trial = SimpleNamespace(trial_id=name, config={"name": name})
        if epoch == 1:
            stock.on_trial_add(None, trial)
        row = {"epoch": epoch, METRIC: accuracy}
        decision = stock.on_trial_result(None, trial, row)
        assert ours.on_trial_result(None, trial, row) == decision
        if decision == "STOP":
            stopped.add(name)
            rung, why = ours.reasons[name]
            assert rung == epoch in ours.rungs and why.startswith(f"rung {rung}: {accuracy:.3f} < ")
    assert stopped and set(ours.reasons) == stopped


def test_a_rung_whose_report_died_with_a_process_is_judged_by_what_was_saved(tmp_path):
    def judged(reported: list[int]) -> tuple[list[str], dict[str, tuple[int, str]]]:
        halving = Halving([2, 4])
        assert all(halving.judge("t000", {"epoch": e, METRIC: 0.5}) for e in range(1, 7))
        trial = SimpleNamespace(config={"name": "t001", "folder": str(folder)})
        rows = [{"epoch": e, METRIC: accuracies[e - 1]} for e in reported]
        return [halving.on_trial_result(None, trial, row) for row in rows], halving.reasons

    accuracies, folder = [0.1, 0.4, 0.9, 0.9], tmp_path / "t001"
    folder.mkdir()
    for epoch, accuracy in enumerate(accuracies, 1):
        Run(folder).log("metrics", {"epoch": epoch, "phase": "search 1", METRIC: accuracy, "time": float(epoch)})
    truth = {"t001": (2, "rung 2: 0.400 < 0.500")}
    assert judged([1, 2]) == (["CONTINUE", "STOP"], truth)
    assert judged([1, 3]) == (["CONTINUE", "STOP"], truth)
    accuracies[1] = 0.6
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().replace("0.4", "0.6"))
    assert judged([1, 3, 4]) == (["CONTINUE"] * 3, {})


def test_halving_has_no_rung_at_the_end():
    def halving(epochs: int, grace: int) -> Halving:
        return Halving(rungs(darts.Config(epochs=epochs).outline(SearchSpace()), grace))

    assert halving(4, 2).rungs == [2]
    assert halving(9, 2).rungs == [2, 4, 8]
    assert halving(50, 5).rungs == [5, 10, 20, 40]
    assert halving(2, 5).rungs == []  # too short for a rung
    assert halving(4, 2).judge("t000", {"epoch": 1})  # a report without an accuracy


def test_stages_are_compared_at_their_ends_only():
    halving = Halving(rungs(pdarts.Config(epochs=25).outline(SearchSpace()), 5))
    assert halving.rungs == [25, 50]
    assert halving.judge("t000", {"epoch": 24, METRIC: 0.9}) and halving.judge("t001", {"epoch": 24, METRIC: 0.1})
    assert halving.judge("t000", {"epoch": 25, METRIC: 0.9}) and not halving.judge("t001", {"epoch": 25, METRIC: 0.1})
    assert halving.reasons["t001"] == (25, "rung 25: 0.100 < 0.900")
    assert rungs(pdarts.Config().outline(SearchSpace()), 5, early_ends=True) == [], (
        "trials would be in different stages at one epoch"
    )
    assert rungs(darts.Config(epochs=9).outline(SearchSpace()), 2, early_ends=True) == [2, 4, 8]
    two = override(BASE, {"method": "pdarts", "data.holdout": 0.1})
    assert Options(two).plan().rungs == [25, 50] and Options(override(two, {"stop_skips": 2})).plan().rungs == []
