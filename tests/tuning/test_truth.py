"""A table of true accuracies is seen by people alone: not by the sampler or the scheduler of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from proposals import end, propose

from dasgm.store.run import Run


def outcome(folder: Path, truth: bool) -> list[Any]:
    """Eight trials, with TPE's proposals from the seventh on. The truth of a trial is the opposite of its proxy."""
    folder.mkdir()
    proposer = propose(folder, num_trials=8)
    for i in range(8):
        name = proposer.suggest(str(i))["name"]
        bad = i % 3 == 2
        true = {f"truth/{kind}cifar10": 0.9 - 0.08 * i + 0.5 * bad for kind in ("", "rank_", "regret_")}
        accuracies = [0.6 + 0.01 * i, 0.1 if bad else 0.6 + 0.01 * i, 0.7, 0.8]
        if bad:
            end(proposer, str(i), "stopped", accuracies[:2], more=true if truth else {})
        else:
            end(proposer, str(i), "finished", accuracies, 0.1 + 0.08 * i, more=true if truth else {})
        assert ("truth/cifar10" in Run(folder / name).rows()[-1]) == truth
    reasons = [Run(folder / f"t{i:03d}").about["reason"] for i in range(8)]
    found = [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in proposer.study.trials]
    return [found, reasons, proposer.halving.bracket._rungs]


def test_the_truth_changes_no_proposal_and_stops_no_trial(tmp_path: Path) -> None:
    without, given = outcome(tmp_path / "without", False), outcome(tmp_path / "with", True)
    assert given == without
    assert {trial[1] for trial in given[0]} == {TrialState.COMPLETE, TrialState.PRUNED}
