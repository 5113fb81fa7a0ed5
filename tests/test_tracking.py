"""The tracker against real MLflow stores: SQLite, a server on loopback, a closed port, a socket that never answers."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import TINY, finish, start, wait_for
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from patience import now, rest, stretched, until
from PIL import Image

from cluster import stores, tracking
from dasgm.store import replica as mirror
from dasgm.store.bucket import local
from dasgm.store.files import write_atomic
from dasgm.store.records import amend, read_lines

START = 1_790_000_000.0
POINTS = {"loss/classifier": 2.0, "val/accuracy": 0.3, "arch/entropy_normal": 1.9, "speed/images_per_s": 900.0}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    for name, value in stores.ENVIRONMENT.items():  # restored afterwards, as the tracker itself sets them
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


# ------------------------------------------------------------------------------------- folders as searches write them


def write_run(folder: Path, epochs: int, state: str = "finished", gan: str = "biggan", **record: Any) -> Path:
    """Write what a search of so many epochs leaves; again with more epochs, it goes on. `best` is the final proxy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    best = record.pop("best", None)
    seed = int(folder.name[1:]) if folder.name[1:].isdigit() else 0
    parameters: dict[str, Any] = {"classifier_lr": 0.01 * (seed + 1), "arch_lr": 3e-4, "gan": gan}
    if gan != "none":
        parameters |= {"generator_lr": 1e-3, "val_portion": 0.5}
    lines = [
        {"epoch": e, "phase": "search", "time": START + e} | {k: v + e for k, v in POINTS.items()}
        for e in range(1, epochs + 1)
    ]
    if best is not None:
        lines.append(
            {"epoch": epochs, "phase": "best", "time": START + 99, "best/proxy": best, "best/proxy_error": 0.02}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"seed": seed, "gan": {"key": gan}}))
    (folder / "genotype.json").write_text(json.dumps({"normal": [["skip_connect", epochs]]}))
    for epoch in range(0, epochs + 1, 3):
        for kind in ("cells", "samples") if gan != "none" else ("cells",):
            Image.new("RGB", (64, 32), (epoch * 9, seed * 20, 99)).save(folder / "pictures" / f"{kind}-{epoch:03d}.png")
    fields = {
        "format": 1,
        "name": folder.name,
        "title": folder.name if gan == "none" else f"{folder.name} {gan} v50",
        "sweep": None,
        "parameters": parameters,
        "state": state,
        "reason": "",
        "command": "dasgm search quickstart",
        "started": START,
        "ended": None if state in ("running", "waiting") else START + 100,
        "device": "cpu",
        "published": "",
    }
    write_atomic(folder / "run.json", json.dumps(fields | record))
    return folder


def write_sweep(folder: Path, state: str = "finished") -> Path:
    fields = {
        "format": 1,
        "name": folder.name,
        "state": state,
        "reason": "",
        "preset": "quickstart",
        "dataset": "digits",
        "seed": 0,
        "command": "python tuning/sweep.py --num-trials 3",
        "started": START,
        "ended": None if state == "running" else START + 200,
        "num_trials": 3,
        "objective": "best/proxy",
        "config": {"seed": 0},
        "machine": "2 CPUs, x86_64",
    }
    write_run(folder / "t000", 4, gan="none", best=0.9)
    write_run(folder / "t001", 6, best=0.95)
    write_run(folder / "t002", 2, "stopped", reason="stopped at rung 2: 0.43 < 0.51")
    write_atomic(folder / "sweep.json", json.dumps(fields))
    (folder / "report.html").write_text("<html>ranking</html>")
    return folder


@pytest.fixture(scope="module")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store with its schema, which takes seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def storage(tmp_path: Path, new_store: Path) -> Path:
    folder = tmp_path / "my runs"
    folder.mkdir()
    shutil.copy(new_store, folder / "mlflow.db")
    return folder


def client_of(storage: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{storage}/mlflow.db")


def experiment_of(client: MlflowClient) -> Experiment:
    found = client.get_experiment_by_name("dasgm")
    assert found is not None
    return found


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """All active runs by name; no two of one name."""
    runs = client.search_runs([experiment_of(client).experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {str(run.info.run_name): run for run in runs}


def contents(client: MlflowClient) -> dict[str, Any]:
    """Everything that a resend could have doubled or lost."""
    everything = {}
    for name, run in runs_of(client).items():
        number = run.info.run_id
        histories = {
            key: [(m.value, m.timestamp, m.step) for m in client.get_metric_history(number, key)]
            for key in run.data.metrics
        }
        files = sorted(file.path for path in (None, "images") for file in client.list_artifacts(number, path))
        everything[name] = (run.info, run.data.params, run.data.tags, histories, files)
    return json.loads(json.dumps(everything, default=lambda info: dict(info)))


# ------------------------------------------------------------------------------------- SQLite


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

    key = str(link).partition("viewStateShareKey=")[2]
    kind, _, blob = experiment_of(client).tags[f"mlflow.sharedViewState.{key}"].partition(";")
    view = json.loads(zlib.decompress(base64.b64decode(blob)))
    assert kind == "deflate" and view["orderByKey"] == "metrics.`best/proxy`" and not view["orderByAsc"]
    assert {f"params.`{name}`" for name in ("gan", "classifier_lr", "val_portion")} < set(view["selectedColumns"])
    ranked = client.search_runs(
        [experiment_of(client).experiment_id], view["searchFilter"], order_by=[view["orderByKey"] + " DESC"]
    )
    assert [run.info.run_name for run in ranked] == ["t001 biggan v50", "t000", "t002 biggan v50"]

    compared = tracking.compare([folder / "t000", folder / "t001"])
    assert all(runs[name].info.run_id in compared for name in ("t000", "t001 biggan v50"))
    with pytest.raises(ValueError, match="is not in MLflow yet"):
        tracking.compare([write_run(folder / "t003", 1)])


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
    with tracking._alone(folder), pytest.raises(ValueError, match="another process"):
        tracking.sync(folder)
    tracking.sync(folder)


# ------------------------------------------------------------------------------------- the mirror and bad servers


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_mirror_follows_a_folder(storage: Path) -> None:
    folder = storage / "search"
    mirror = tracking.MlflowSync(folder, pause=0.1).start()
    mirror.kick()  # before there is anything to send
    took = []
    for epoch in range(1, 5):
        write_run(folder, epoch, "running")
        began = time.perf_counter()
        mirror.kick()
        took.append(time.perf_counter() - began)
        time.sleep(0.1)
    assert min(took) < 0.05  # one that waited would do so each time
    write_run(folder, 5, best=0.9)
    assert mirror.stop(stretched(30)) == "" and mirror.error == ""
    (run,) = runs_of(client_of(storage)).values()
    assert run.info.status == "FINISHED" and run.info.run_id in str(mirror.link)
    assert [m.step for m in client_of(storage).get_metric_history(run.info.run_id, "val/accuracy")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["silent", "closed"])
def test_a_bad_server_costs_no_time_and_what_it_missed_arrives_later(
    kind: str,
    storage: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    uri = request.getfixturevalue(kind)
    folder = write_run(storage / "search", 3, best=0.9)
    mirror = tracking.MlflowSync(folder, uri).start()
    mirror.kick()
    rest(0.5)
    began = now()
    complaint = mirror.stop(1)
    assert now() - began < 1.5
    assert ("no answer within 1 s" if kind == "silent" else "Connection refused") in complaint
    assert uri in complaint and "python -m cluster.tracking" in complaint and "\n" not in complaint
    assert capfd.readouterr() == ("", "")
    mirror._thread.join()  # it holds the folder for as long as it waits for an answer
    tracking.sync(folder)
    (run,) = runs_of(client_of(storage)).values()
    assert (run.info.status, run.data.metrics["best/proxy"]) == ("FINISHED", 0.9)


def test_a_process_with_a_silent_server_ends(storage: Path, silent: str) -> None:
    folder = write_run(storage / "search", 3)
    code = f"from cluster.tracking import MlflowSync; print(MlflowSync({str(folder)!r}, {silent!r}).start().stop(2))"
    command, root = [sys.executable, "-c", code], Path(__file__).parents[1]
    began = now()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert now() - began < 10 and done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1 and "no answer within 2 s" in done.stdout


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    code = "import sys, cluster.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


# ------------------------------------------------------------------------------------- the command, and a real server


def test_the_command_prints_where_to_look(storage: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(storage / "sweep")
    assert tracking.main([str(sweep), str(sweep / "t001")]) == 0
    first, second, serve = capfd.readouterr().out.splitlines()
    assert "http://127.0.0.1:5000/#/experiments/1/runs?workflowType" in first and "/#/experiments/1/runs/" in second
    assert serve == f"served by: {tracking.ui_command(storage)}" and f"'sqlite:///{storage}/mlflow.db'" in serve


def test_the_command_takes_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    buckets = pytest.importorskip("buckets")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with contextmanager(buckets.serve)() as server:
        for name, value in server.machine(tmp_path / "a").items():
            monkeypatch.setenv(name, value)
        sweep = write_sweep(local("s3://bucket/r/sweep"))
        for folder in (sweep, *sweep.glob("t*")):
            mirror.send(folder)
            for record in folder.glob("run.json"):
                server.client.upload_file(str(record), "bucket", f"r/sweep/{folder.name}/run.json")
        monkeypatch.setenv("DASGM_CACHE", str(tmp_path / "b"))
        trial, whole = "s3://bucket/r/sweep/t001", "s3://bucket/r/sweep"
        assert tracking.main([trial, whole, "--uri", uri]) == 0
        assert [line.partition(": http")[0] for line in capfd.readouterr().out.splitlines()[:2]] == [trial, whole]
        client = MlflowClient(uri)
        runs = client.search_runs([client.get_experiment_by_name(tracking.EXPERIMENT).experiment_id])
        assert len(runs) == 1 + len(list(sweep.glob("t*")))
        assert tracking.main(["s3://bucket/r/none", "--uri", uri]) == 2
        assert tracking.main(["s3://bucket/r?secret_key=HIDDEN", "--uri", uri]) == 2
        first, second = capfd.readouterr().err.splitlines()
        assert "s3://bucket/r/none: it has neither" in first and "secret_key" in second and "HIDDEN" not in second


@pytest.mark.parametrize(
    ("written", "arguments", "expected"),
    [
        ("", [], "it has neither run.json nor sweep.json"),
        ('{"format": 2}', [], "run.json is not a record of format 1"),
        ('{"form', [], "run.json is not a record of format 1"),
        ("run", ["--uri", "nonsense://x"], "nonsense"),
    ],
)
def test_bad_input_is_one_line(
    written: str, arguments: list[str], expected: str, storage: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(storage / "search", 1)
    (folder / "run.json").unlink() if not written else None
    if written.startswith("{"):
        (folder / "run.json").write_text(written)
    assert tracking.main([str(folder), *arguments]) == 2
    output, error = capfd.readouterr()
    assert output == "" and error.count("\n") == 1 and expected in error


class Server:
    """A real `mlflow server` on loopback, whose port and store stay while it comes and goes."""

    def __init__(self, folder: Path, store: Path):
        self.folder = folder
        shutil.copy(store, folder / "server.db")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it calls uvicorn by name
        environment = os.environ | {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until(self.answers)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=1)
            return True
        except OSError:
            assert self.process and self.process.poll() is None, (self.folder / "server.log").read_text()
            return False

    def kill(self) -> None:
        """With all its processes."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def served(tmp_path: Path, new_store: Path) -> Iterator[Server]:
    server = Server(tmp_path, new_store)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(served: Server) -> str:
    return served.uri


def test_a_server_that_is_killed_and_comes_back_has_all_once(
    served: Server, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gone while epochs are reported; the mirror goes on, says so in one line, and makes up for it."""
    folder = write_run(storage / "search", 1, "running")
    mirror = tracking.MlflowSync(folder, served.uri, pause=0.1).start()

    until(lambda: mirror.kick() or mirror.link)
    served.kill()
    for epoch in (2, 3):
        write_run(folder, epoch, "running")
        mirror.kick()
    until(lambda: mirror.kick() or "Connection refused" in capsys.readouterr().out)
    assert mirror.error == "Connection refused"
    served.start()
    until(lambda: mirror.kick() or not mirror.error)
    write_run(folder, 4, best=0.9)
    assert mirror.stop(stretched(60)) == ""
    told = f"MLflow at {served.uri}: it answers again, and what was missing has been sent\n"
    assert capsys.readouterr().out.endswith(told)
    client = MlflowClient(served.uri)
    (run,) = runs_of(client).values()
    assert run.info.status == "FINISHED" and run.data.metrics["best/proxy"] == 0.9
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/accuracy")] == [1, 2, 3, 4]


def test_a_real_server_holds_the_same(server: str, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(storage / "sweep")
    tracking.sync(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mirror = tracking.MlflowSync(folder).start()
    assert mirror.stop(stretched(30)) == ""
    assert tracking.address(str(mirror.link), storage).startswith(f"{server}/#/experiments/1/runs?")
    assert tracking.ui_command(storage) == ""
    served, local = contents(MlflowClient(server)), contents(client_of(storage))
    tracking.sync(folder)
    assert contents(MlflowClient(server)) == served
    for name in local:
        for part in (1, 3):  # parameters, and metrics with their times
            assert served[name][part] == local[name][part]
        assert len(served[name][4]) == len(local[name][4])


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_search_whose_server_goes_for_good_ends_and_is_sent_later(
    served: Server, storage: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """For real: a Ray Train job, and a server that is killed after epoch 1."""
    words = ["--gan=none", "--storage", str(storage), "--name=search", *TINY]
    process = start(str(Path(__file__).parents[1] / "cluster" / "search.py"), *words, MLFLOW_TRACKING_URI=served.uri)
    wait_for(process, lambda: read_lines(storage / "search" / "metrics.jsonl"))
    served.kill()
    code, out, err = finish(process)
    assert (code, err) == (0, "") and "finished: proxy accuracy " in out, (out, err)
    *once, said = [line for line in out.splitlines() if line.startswith("MLflow at ")]
    assert served.uri in said and "python -m cluster.tracking" in said
    assert once in ([], [f"MLflow at {served.uri}: Connection refused; the run continues, and it is tried again"])
    rows = read_lines(storage / "search" / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 4]
    served.start()
    assert tracking.main([str(storage / "search"), "--uri", served.uri]) == 0
    client = MlflowClient(served.uri)
    (run,) = runs_of(client).values()
    assert run.info.status == "FINISHED" and run.data.metrics["best/proxy"] == rows[-1]["best/proxy"]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/accuracy")] == [1, 2, 3, 4]
    assert capfd.readouterr().err == ""


def test_a_mirror_that_is_killed_while_it_makes_the_database_leaves_none_that_is_half_made(tmp_path):
    folder = write_run(tmp_path / "one", 2)
    code = f"from cluster.tracking import sync; sync({str(folder)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    while not (made := list(tmp_path.glob(".mlflow.db.*"))) or not made[0].stat().st_size:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    made[0].rename(tmp_path / f".mlflow.db.{os.getpid()}")  # in containers numbers are the same each time
    assert tracking.sync(folder) and len(runs_of(client_of(tmp_path))) == 1
