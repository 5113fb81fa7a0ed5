"""cluster/gpu.yaml's machines under Ray's own autoscaler: from zero, as trials ask, and gone again (-m cluster)."""

from __future__ import annotations

import pytest
import yaml
from apart import apart
from commands import ROOT

from dasgm.store.records import read_json
from dasgm.store.run import Run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1600)]
DECLARED = yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text())["available_node_types"]["gpu8"]


@pytest.fixture(scope="module")
def tried():
    with apart("autoscaled.py") as found:
        yield found


def test_there_is_only_a_head_that_runs_no_trial(tried):
    (head,) = tried.before.values()
    assert not {"CPU", "GPU", "slot"} & set(head)


def test_slots_that_trials_ask_for_bring_the_declared_machines(tried):
    assert {"slot": 8.0} in tried.asked, tried.asked
    assert len(tried.came) >= 2  # one more where these had gone before the next command
    for resources in tried.came.values():
        assert {name: resources.get(name) for name in DECLARED["resources"]} == DECLARED["resources"]


def test_the_trials_run_on_them_and_end(tried):
    assert tried.codes == [0, 0]
    assert len(tried.used[0]) == 2 and set(tried.used[1]) <= set(tried.came)  # a search on 8 GPUs fills a machine
    assert read_json(tried.place / "runs" / "s" / "sweep.json")["state"] == "finished"
    states = [Run(path.parent).about["state"] for path in tried.place.glob("runs/s/t*/run.json")]
    assert len(states) == 2 and set(states) <= {"finished", "stopped"} and "finished" in states


def test_idle_machines_go(tried):
    assert tried.lasting == []  # a machine with an actor that lasts would never
    assert tried.after == tried.before


def test_nothing_is_left(tried):
    assert tried.left == []
