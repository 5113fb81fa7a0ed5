"""What README promises of the quickstart, on itself. Long: `pytest -m slow -n 0 tests/tuning/test_quickstart.py`."""

from __future__ import annotations

import pytest
from commands import ROOT, family, finish, left_over, start, wait_for

from dasgm.pages.view import ranking, read_trials
from dasgm.store.records import read_json

SWEEP = str(ROOT / "tuning" / "sweep.py")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_quickstart_keeps_its_promises(tmp_path):
    process = start(SWEEP, cwd=tmp_path)
    wait_for(process, lambda: list(tmp_path.glob("runs/*/t000/metrics.jsonl")))
    everyone = family(process)
    code, out, err = finish(process)
    assert (code, err) == (0, ""), err
    assert not left_over(everyone), "no process is left"
    (folder,) = tmp_path.glob("runs/quickstart-*")
    assert read_json(folder / "sweep.json")["state"] == "finished"
    trials = ranking(read_trials(folder))
    assert len(trials) == 4 and {"none", "biggan"} == {one.run.parameters["gan"] for one in trials}
    assert trials[0].rank == 1 and trials[0].run.state == "finished"
    stopped = [one.run for one in trials if one.run.state == "stopped"]
    assert stopped and all(f"{run.info['reason']}" in out.replace("\n", " ") for run in stopped)
    for run in (one.run for one in trials if one.run.parameters["gan"] == "biggan" and one.run.state == "finished"):
        accuracy, diversity = run.last("gan/synthetic_accuracy"), run.last("gan/diversity")
        assert accuracy and diversity and accuracy > 0.8 and diversity >= 0.5, run.title
        assert run.info["judge"]["accuracy"] > 0.95
