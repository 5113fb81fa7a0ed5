"""cluster/local.yaml for real: `ray up`, `ray submit`, a changed line, `ray down`, over SSH on loopback (-m cluster).

In namespaces of its own: `ray up` runs `ray stop`, which ends every Ray that it can see. See loopback.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import TESTS
from loopback import SHARED

from dasgm.runs import Run, read_json

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]
ROOT = TESTS.parent
APART = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]
NEEDED = ("unshare", "ip", "mount", "ssh", "ssh-keygen", "rsync", "curl", "pkill", "/usr/sbin/sshd")


@pytest.fixture(scope="module")
def tried():
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: openssh-server openssh-client rsync iproute2 util-linux)")
    if os.getuid() or subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("needs root, and the right to make pid, mount and network namespaces")
    made = [folder for folder in SHARED if not folder.exists()]
    place = Path(tempfile.mkdtemp(prefix="lo-", dir="/tmp"))  # short: Ray's sockets lie below
    ours = ("RAY_", "MLFLOW_", "GLOO_", "TUNE_")  # conftest.py sets them for private Rays, a token too
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PYTHONPATH": f"{ROOT}:{TESTS}", "OMP_NUM_THREADS": "1"}
    words = ["sh", "-c", '"$@"; exit $?', "sh"]  # the first process of a pid namespace has to reap the others
    words += [sys.executable, str(TESTS / "loopback.py"), str(place), sys.prefix]
    done = subprocess.run([*APART, *words], env=environment, capture_output=True, text=True, timeout=1400)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    yield SimpleNamespace(
        place=place, runs=place / "shared" / "two words", **json.loads((place / "result.json").read_text())
    )
    shutil.rmtree(place)
    for folder in made:
        folder.rmdir()  # empty: what was written went to the folder mounted over it


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
    assert {run.info.run_name for run in runs if "mlflow.parentRunId" not in run.data.tags} == {"before", "after"}
    assert len(runs) == 6


def test_dashboard_and_mlflow_listen_on_loopback_only(tried):
    open_to_all = {
        name.split()[0] for ip, names in tried.listening.items() if ip in ("0.0.0.0", "::") for name in names
    }
    everywhere = {name.split()[0] for names in tried.listening.values() for name in names}
    assert {"8265", "5000"} <= everywhere and not {"8265", "5000"} & open_to_all


def test_nothing_is_left(tried):
    assert tried.left == []
    assert not (Path.home() / "ray_bootstrap_config.yaml").exists()
