"""The tracker against bad servers and a real one that is killed and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import ROOT, TINY, finish, start, wait_for
from mlflow import MlflowClient
from patience import now, rest, stretched, until
from tracked import (
    client_of,
    contents,
    environment,  # noqa: F401 (a fixture for every test)
    runs_of,
    write_run,
    write_sweep,
)

from cluster import tracking
from dasgm.store import replica
from dasgm.store.bucket import local
from dasgm.store.records import read_lines


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
    command, root = [sys.executable, "-c", code], ROOT
    began = now()
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert now() - began < 10 and done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1 and "no answer within 2 s" in done.stdout


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    code = "import sys, cluster.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_command_prints_where_to_look(storage: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = write_sweep(storage / "sweep")
    assert tracking.main([str(sweep), str(sweep / "t001")]) == 0
    first, second, serve = capfd.readouterr().out.splitlines()
    assert "http://127.0.0.1:5000/#/experiments/1/runs?workflowType" in first and "/#/experiments/1/runs/" in second
    assert (
        serve == f"start this to open these pages: {tracking.ui_command(storage)}"
        and f"'sqlite:///{storage}/mlflow.db'" in serve
    )


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
            replica.send(folder)
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
        ('{"format": 3}', [], "run.json is not a record of format 1 or 2"),
        ('{"form', [], "run.json is not a record of format 1 or 2"),
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
        its = os.environ | {"PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}
        with open(self.folder / "server.log", "a") as log:
            self.process = subprocess.Popen(command, env=its, stdout=log, stderr=log, start_new_session=True)
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
    process = start(str(ROOT / "cluster" / "search.py"), *words, MLFLOW_TRACKING_URI=served.uri)
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
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not (made := list(tmp_path.glob(".mlflow.db.*"))) or not made[0].stat().st_size:
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    made[0].rename(tmp_path / f".mlflow.db.{os.getpid()}")  # in containers numbers are the same each time
    assert tracking.sync(folder) and len(runs_of(client_of(tmp_path))) == 1
