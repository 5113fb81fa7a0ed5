"""cluster/local.yaml for real: `ray up`, `ray submit`, a changed line, `ray down`, over SSH on loopback (-m cluster).

In namespaces of its own (apart.py). See loopback.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from apart import apart
from loopback import SECRET

from dasgm.store.records import read_json
from dasgm.store.run import Run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
NEEDED = ("ssh", "ssh-keygen", "rsync", "curl", "pkill", "/usr/sbin/sshd")


@pytest.fixture(scope="module")
def tried():
    with apart("loopback.py", *NEEDED) as found:
        found.runs = found.place / "shared" / "two words"
        yield found


def test_a_sweep_is_handed_over_followed_and_ends(tried):
    for name, out in (("before", tried.first), ("after", tried.second)):
        assert f"job {name}-" in out and "only stops following" in out and "best genotype, t00" in out, out
        assert read_json(tried.runs / name / "sweep.json")["state"] == "finished"
    assert "best genotype, t00" in tried.again


def test_trials_take_the_workers_slots_and_the_head_has_none(tried):
    assert "slot" in tried.status
    states = [Run(path.parent).about["state"] for path in tried.runs.glob("before/t*/run.json")]
    assert len(states) == 2 and set(states) <= {"finished", "stopped"} and "finished" in states


def test_a_changed_line_runs_on_the_workers_with_the_next_job(tried):
    assert tried.changed == ["after/t000/changed", "after/t001/changed"]


def test_the_mlflow_server_of_the_head_has_both_sweeps(tried):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tried.place}/shared/mlflow.db")
    experiment = client.get_experiment_by_name("dasgm")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs if "mlflow.parentRunId" not in run.data.tags} == {
        "before",
        "after",
        "stored",
    }
    assert len(runs) == 8


def test_a_sweep_in_a_bucket_needs_nothing_but_the_nodes_own_keys(tried):
    assert "best genotype, t000" in tried.third and "everything lies in s3://bucket/runs/stored" in tried.third
    assert json.loads(tried.stored["runs/stored/sweep.json"])["state"] == "finished"
    assert json.loads(tried.stored["runs/stored/t000/run.json"])["state"] == "finished"
    assert {"runs/stored/t000/genotype.json", "runs/stored/t000/.manifest"} <= set(tried.stored)
    mirrors = {
        node: {path.suffix for path in (tried.place / node / "mirrors").rglob("t000/**/*")}
        for node in ("head", "worker")
    }
    assert ".pt" in mirrors["worker"] and ".json" in mirrors["head"] and ".pt" not in mirrors["head"]
    assert tried.revealed == [] and not any(SECRET in content for content in tried.stored.values())


def test_dashboard_and_mlflow_listen_on_loopback_only(tried):
    open_to_all = {
        name.split()[0] for ip, names in tried.listening.items() if ip in ("0.0.0.0", "::") for name in names
    }
    everywhere = {name.split()[0] for names in tried.listening.values() for name in names}
    assert {"8265", "5000"} <= everywhere and not {"8265", "5000"} & open_to_all


def test_nothing_is_left(tried):
    assert tried.left == []
    assert not (Path.home() / "ray_bootstrap_config.yaml").exists()
