"""The tracker against real MLflow stores: SQLite, a server on loopback, a closed port, a socket that never answers."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image
from tracked import (
    START,
    client_of,
    contents,
    environment,  # noqa: F401 (a fixture for every test)
    experiment_of,
    runs_of,
    write_run,
    write_sweep,
)

from cluster import stores, tracking
from dasgm.store.records import amend


def test_a_lone_search_arrives_once_and_whole(storage: Path) -> None:
    folder = write_run(
        storage / "quickstart-digits-s0",
        7,
        best=0.93,
        title="quickstart",
        published="2.70 ± 0.08 (Table 2)",
        protocols={"gan/fid": "FID-10k: Inception 2015-12-05"},
    )
    Image.new("RGB", (64, 32)).save(folder / "pictures" / "nearest-000.png")
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"loss/classifier": 5.0', '"loss/classifier": NaN, "loss/generator": Infinity')
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"epoch": 8, "phase": "sea')  # being written just now
    link = tracking.sync(folder)
    client = client_of(storage)
    first = contents(client)
    assert tracking.sync(folder) == link
    assert contents(client) == first

    (run,) = runs_of(client).values()
    assert f"/#/experiments/{experiment_of(client).experiment_id}/runs/{run.info.run_id}?" in str(link)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", START * 1000, (START + 100) * 1000)
    assert run.data.tags["kind"] == "search" and run.data.tags["published"] == "2.70 ± 0.08 (Table 2)"
    assert run.data.tags["protocol.gan/fid"] == "FID-10k: Inception 2015-12-05"
    assert len(run.data.metrics) < 50 and "loss/generator" not in run.data.metrics
    history = client.get_metric_history(run.info.run_id, "val/accuracy")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(e, 0.3 + e, (START + e) * 1000) for e in range(1, 8)]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss/classifier")] == [1, 2, 4, 5, 6, 7]
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "best/proxy")] == [(0, 0.93)]
    images = [f.path for f in client.list_artifacts(run.info.run_id, "images")]
    assert sorted(p.split("+timestamp")[0] for p in images if p.endswith(".png")) == [
        *(f"images/cells+step+{step}" for step in (0, 3, 6)),
        "images/nearest+step+0",
        *(f"images/samples+step+{step}" for step in (0, 3, 6)),
    ]
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    assert config["gan"] == {"key": "biggan"}
    assert (storage / "mlartifacts").is_dir() and not list(Path.cwd().iterdir())


def test_a_sweep_is_a_parent_with_its_trials_and_a_ranked_view(storage: Path) -> None:
    folder = write_sweep(storage / "quickstart-digits-s0")
    link = tracking.sync(folder)
    client = client_of(storage)
    first = contents(client)
    assert tracking.sync(folder) == link and contents(client) == first

    runs = runs_of(client)
    assert set(runs) == {"quickstart-digits-s0", "t000", "t001 biggan v50", "t002 biggan v50"}
    parent = runs["quickstart-digits-s0"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, parent.info.run_id}
    assert runs["t000"].data.params == {"classifier_lr": "0.01", "arch_lr": "0.0003", "gan": "none"}
    assert set(runs["t001 biggan v50"].data.params) == {
        "classifier_lr",
        "arch_lr",
        "gan",
        "generator_lr",
        "val_portion",
    }
    stopped = runs["t002 biggan v50"]
    assert (stopped.info.status, stopped.data.tags["state"]) == ("FINISHED", "stopped")
    assert (
        stopped.data.tags["reason"] == "stopped at rung 2: 0.43 < 0.51"
        and "0.43 < 0.51" in stopped.data.tags["mlflow.note.content"]
    )
    note = parent.data.tags["mlflow.note.content"]
    assert (
        note.index("t001 biggan v50 | 0.9500 ± 0.0200") < note.index("t000 | 0.9000")
        and "python tuning/sweep.py" in note
    )
    assert [f.path for f in client.list_artifacts(parent.info.run_id)] == ["config.json", "report.html"]

    view = view_of(client, link)
    assert view["orderByKey"] == "metrics.`best/proxy`" and not view["orderByAsc"]
    assert {f"params.`{name}`" for name in ("gan", "classifier_lr", "val_portion")} < set(view["selectedColumns"])
    ranked = client.search_runs(
        [experiment_of(client).experiment_id], view["searchFilter"], order_by=[view["orderByKey"] + " DESC"]
    )
    assert [run.info.run_name for run in ranked] == ["t001 biggan v50", "t000", "t002 biggan v50"]

    compared = tracking.compare([folder / "t000", folder / "t001"])
    assert all(runs[name].info.run_id in compared for name in ("t000", "t001 biggan v50"))
    with pytest.raises(ValueError, match="is not in MLflow yet"):
        tracking.compare([write_run(folder / "t003", 1)])


def view_of(client: MlflowClient, link: str | None) -> dict[str, Any]:
    """The shared view that a sweep's link opens."""
    key = str(link).partition("viewStateShareKey=")[2]
    kind, _, blob = experiment_of(client).tags[f"mlflow.sharedViewState.{key}"].partition(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(blob)))


def test_a_sweeps_charts_are_two_large_ones_and_its_figures_are_artifacts(storage: Path) -> None:
    folder = write_sweep(storage / "s")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "history.json").write_text('{"data": [], "layout": {}}')
    link, client = tracking.sync(folder), client_of(storage)
    view = view_of(client, link)
    (large, small), charts = view["compareRunSections"], view["compareRunCharts"]
    assert (large["display"], large["columns"], small["display"]) == (True, 1, False)
    two = [chart for chart in charts if chart["metricSectionId"] == large["uuid"]]
    assert [chart["type"] for chart in two] == ["PARALLEL", "LINE"]
    assert set(two[0]["selectedParams"]) == {"gan", "classifier_lr", "arch_lr"}
    assert two[0]["selectedMetrics"] == ["best/proxy"]
    assert two[1]["selectedMetricKeys"] == ["val/accuracy"] and view["runsHiddenMode"] == "SHOW_ALL"
    parent = runs_of(client)["s"].info.run_id
    assert [f.path for f in client.list_artifacts(parent, "pictures")] == ["pictures/history.json"]


def test_who_sends_again_and_again_reads_only_what_changed(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, known, read = write_sweep(storage / "s", "running"), dict[str, Any](), list[str]()
    write_run(folder / "t003", 1, "running")
    names, of_run = tracking.content_of_sweep.__globals__, tracking.content_of_run

    def watched(trial: Path, *words: Any, **more: Any) -> Any:
        read.append(trial.name)
        return of_run(trial, *words, **more)

    monkeypatch.setitem(names, "content_of_run", watched)

    def sync(uri: str | None = None) -> list[str]:
        read.clear()
        tracking.sync(folder, uri, known=known)
        return list(read)

    assert sync() == ["t000", "t001", "t002", "t003"]
    first = contents(client_of(storage))
    assert sync() == ["t003"] and contents(client_of(storage)) == first
    amend(folder / "t001" / "run.json", reason="changed by hand")
    assert sync() == ["t001", "t003"]
    (changed,) = [
        run for run in runs_of(client_of(storage)).values() if run.data.tags.get("reason") == "changed by hand"
    ]
    assert changed.data.tags["dasgm.run"].endswith("/t001")
    other = f"sqlite:///{storage}/other.db"
    assert sync(other) == ["t000", "t001", "t002", "t003"], "an empty one gets all"
    histories = [{name: run[3] for name, run in contents(c).items()} for c in (client_of(storage), MlflowClient(other))]
    assert histories[0] == histories[1]


def test_a_run_that_goes_on_sends_what_is_new_and_is_reopened(storage: Path) -> None:
    folder = write_run(storage / "search", 3, "interrupted")
    client = client_of(storage)
    tracking.sync(folder)
    (before,) = runs_of(client).values()
    assert before.info.status == "KILLED"
    for state, status in (("waiting", "SCHEDULED"), ("running", "RUNNING"), ("failed", "FAILED")):
        write_run(folder, 3, state, reason=state)
        tracking.sync(folder)
        assert [run.info.status for run in runs_of(client).values()] == [status]
    write_run(folder, 8, best=0.9)
    tracking.sync(folder)
    (after,) = runs_of(client).values()
    assert (after.info.run_id, after.info.status, after.data.tags["reason"]) == (before.info.run_id, "FINISHED", "")
    assert [m.step for m in client.get_metric_history(after.info.run_id, "val/accuracy")] == list(range(1, 9))
    assert '["skip_connect", 8]' in Path(client.download_artifacts(after.info.run_id, "genotype.json")).read_text()


def test_epochs_done_again_and_a_sender_that_died_leave_no_double(storage: Path) -> None:
    folder = write_run(storage / "search", 6)
    client = client_of(storage)
    tracking.sync(folder)
    (run,) = runs_of(client).values()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    later = [
        line | {"time": line["time"] + 1000} if line["epoch"] > 4 else line for line in lines
    ]  # back to a checkpoint
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in later))
    first = contents(client)
    tracking.sync(folder)
    assert contents(client) == first
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    client.delete_tag(run.info.run_id, "dasgm.sent")  # died after the files, before the tags
    tracking.sync(folder)
    assert contents(client) == first


def test_a_trial_alone_joins_its_sweep_and_a_deleted_run_stays_deleted(storage: Path) -> None:
    folder = write_sweep(storage / "it's a 50% sweep")
    client = client_of(storage)
    assert "/runs/" in str(tracking.sync(folder / "t001"))
    assert set(runs_of(client)) == {"it's a 50% sweep", "t001 biggan v50"}
    tracking.sync(folder)
    client.delete_run(runs_of(client)["t000"].info.run_id)
    tracking.sync(folder)
    assert set(runs_of(client)) == {"it's a 50% sweep", "t001 biggan v50", "t002 biggan v50"}


def test_records_of_runs_that_sweep_nothing_or_died_before_they_began(storage: Path) -> None:
    lone = write_run(storage / "search", 1)
    record = json.loads((lone / "run.json").read_text())
    del record["parameters"]
    (lone / "run.json").write_text(json.dumps(record))
    sweep = write_sweep(storage / "sweep")
    (sweep / "t003").mkdir()
    (sweep / "t003" / "run.json").write_text('{"name": "t003", "state": "failed", "reason": "no picture in class 7"}')
    for _ in range(2):
        tracking.sync(lone)
        tracking.sync(sweep)
    runs = runs_of(client_of(storage))
    assert runs["search biggan v50"].data.params == {} and len(runs) == 6
    assert (runs["t003"].info.status, runs["t003"].data.tags["reason"]) == ("FAILED", "no picture in class 7")


def test_a_vast_page_is_left_out(storage: Path) -> None:
    folder = write_run(storage / "s", 2)
    with open(folder / "report.html", "wb") as file:
        file.truncate(2**34)
    assert tracking.sync(folder)
    (run,) = runs_of(client_of(storage)).values()
    assert "report.html" not in [file.path for file in client_of(storage).list_artifacts(run.info.run_id)]


def test_only_one_process_sends_a_folder(storage: Path) -> None:
    folder = write_run(storage / "search", 1)
    with stores.alone(folder), pytest.raises(ValueError, match="another process"):
        tracking.sync(folder)
    tracking.sync(folder)
