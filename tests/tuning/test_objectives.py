"""A sweep of two objectives: what Optuna is told, who is stopped, what varies, and what is refused."""

from __future__ import annotations

import pytest
from optuna.trial import FixedTrial, TrialState
from proposals import BASE, captured, end, propose, refused

from dasgm.config import override
from dasgm.store.records import read_json
from tuning import spaces


def test_two_objectives_are_told_at_the_end_and_nobody_is_stopped(tmp_path):
    proposer = propose(tmp_path, second="best/parameters")
    for number, (ray_id, proxy, size) in enumerate((("a", 0.9, 4e6), ("b", 0.5, 1e6), ("c", 0.4, 2e6))):
        proposer.suggest(ray_id)
        end(proposer, ray_id, "finished", [0.9 - 0.3 * number] * 4, proxy, {"best/parameters": size})
    study = propose(tmp_path, second="best/parameters").study  # as another process opens it
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [(t.state, t.values) for t in study.trials] == [
        (TrialState.COMPLETE, values) for values in ([0.9, 4e6], [0.5, 1e6], [0.4, 2e6])
    ]
    assert [t.number for t in study.best_trials] == [0, 1]
    proposer.suggest("d")
    with pytest.raises(ValueError, match=r"t003: finished, but without best/parameters"):
        end(proposer, "d", "finished", [0.5] * 4)


def test_the_weight_of_a_cost_varies_where_a_search_heeds_it():
    some = {"classifier_lr": 0.05, "arch_lr": 0.02, "gan": "none", "cost_weight": 1.5}
    base = override(BASE, {"cost.kind": "parameters"})
    assert override(base, spaces.default(FixedTrial(some), base)).cost.weight == 1.5
    assert spaces.varied(base, frozenset())[:3] == ["classifier_lr", "arch_lr", "cost_weight"]
    for config in (BASE, override(BASE, {"cost.kind": "parameters", "cost.weight": 0.0})):
        assert "cost_weight" not in spaces.varied(config, frozenset())
        assert "cost.weight" not in spaces.default(FixedTrial(some), config)
    assert "cost.weight" not in spaces.default(FixedTrial(some), base, frozenset({"cost.weight"}))


def test_a_second_objective_stops_nobody_early_and_says_so(monkeypatch, tmp_path):
    words = ["--storage", str(tmp_path), "--name=s", "--and-minimise=parameters"]
    one = captured(monkeypatch, [*words, "--cost.kind=parameters", "--cost.weight=0.2"])
    assert one.plan.rungs == [] and one.plan.second == "best/parameters"
    said = one.about()
    assert "cost_weight 0.2" in said[0] and said[-1].endswith("no search is stopped early")
    one.folder.mkdir(parents=True)
    one.begin()
    assert read_json(one.folder / "sweep.json")["and_minimise"] == "parameters"
    with pytest.raises(ValueError, match="and_minimise"):
        captured(monkeypatch, [*words[:3], "--cost.kind=parameters", "--cost.weight=0.2"]).compare()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--and-minimise=parameters", "--grace=2"], "grace 2: with --and-minimise no search is stopped early"),
        (["--and-minimise=latency"], "add --cost.kind latency"),
        (["--and-minimise=size"], "expected none or parameters or"),
        (["--at-most=parms=1e6"], "did you mean 'params'?"),
    ],
)
def test_what_contradicts_two_objectives_is_refused(words, says, capsys):
    assert says in refused(words, capsys)
