"""Which stores of MLflow are refused before a search starts, and an experiment that was deleted."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tracked import (
    environment,  # noqa: F401 (a fixture for every test)
    write_run,
)

from cluster import stores, tracking
from dasgm.store.run import Run

URIS = [
    *("http://127.0.0.1:5000", "https://host/path", "HTTP://host", "databricks", "databricks://profile", "uc"),
    *("databricks-uc", "sqlite:////tmp/x.db", "sqlite+pysqlite:////tmp/x.db", "postgresql+psycopg2://u:p@h/db"),
    *("mysql://u@h/db", "mssql+pyodbc://u@h/db", "postgres://u:secret@h/db", "foo://x", "localhost:5000"),
    *("ftp://h", "sqlit:///x.db", "redis://h", "s3://bucket/x", "mongodb://h"),
]


@pytest.mark.parametrize("uri", URIS)
def test_a_kind_is_known_where_mlflow_has_a_store_for_it(uri, monkeypatch):
    registry = import_module("mlflow.tracking._tracking_service.utils")._tracking_store_registry
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    try:
        registry.get_store_builder(uri)
    except MlflowException:
        with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI .*: MLflow has no store of the kind") as error:
            stores.ensure_known()
        assert "secret" not in str(error.value) and "\n" not in str(error.value)
    else:
        stores.ensure_known()
        stores.ensure_known(uri)


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "127.0.0.1:5000"])
def test_a_folder_is_refused_as_mlflow_refuses_it(uri, monkeypatch):
    with pytest.raises(MlflowException, match="maintenance mode"):
        MlflowClient(uri).search_experiments()
    with pytest.raises(ValueError, match="no longer writes to folders"):
        stores.ensure_known(uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    stores.ensure_known(uri)


def test_an_address_without_a_host_is_refused():
    for uri in ("http:/127.0.0.1:5000", "http://", "http://[x"):
        with pytest.raises(ValueError, match="expected such as http://127.0.0.1:5000"):
            stores.ensure_known(uri)


@pytest.mark.parametrize(
    "words",
    [
        ["tuning.sweep"],
        ["tuning.sweep", "--then-imagenet=nowhere"],  # before ImageNet's files are looked for
        ["tuning.reproduce", "--rows=darts-1st", "--small"],
        ["cluster.search"],
        ["cluster.pretrain"],
    ],
)
def test_every_command_refuses_it_before_anything_starts(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://x")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(SystemExit) as end:
        import_module(words[0]).main([*words[1:], f"--storage={tmp_path}", "--name=s"])
    said = capsys.readouterr()
    assert end.value.code == 2 and re.fullmatch("error: MLFLOW_TRACKING_URI 'foo://x': .*\n", said.err)
    assert not (tmp_path / "s").exists()


def test_evaluations_and_the_mirrors_own_command_refuse_it_too(tmp_path, monkeypatch, capsys):
    words = ["DARTS_V2", "--recipe=digits-small", f"--storage={tmp_path}"]
    assert tracking.main([str(tmp_path), "--uri=foo://x"]) == 2
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://x")
    assert tracking.main([str(tmp_path)]) == 2
    with pytest.raises(SystemExit) as end:
        import_module("cluster.evaluate").main(words)
    assert end.value.code == 2
    assert capsys.readouterr().err.count("MLflow has no store of the kind 'foo'") == 3
    assert not list(tmp_path.glob("DARTS*"))


def test_an_empty_variable_counts_as_none(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    stores.ensure_known()


def test_a_deleted_experiment_is_restored_or_another_is_named(storage, monkeypatch):  # noqa: F811
    from mlflow.cli import cli

    folder, client = write_run(storage / "s", 2), MlflowClient(f"sqlite:///{storage}/mlflow.db")
    number = client.create_experiment("dasgm")
    client.delete_experiment(number)
    with pytest.raises(ValueError, match="experiment 'dasgm' is deleted") as error:
        tracking.sync(folder)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    tracking.sync(folder)
    assert client.get_experiment_by_name("another") is not None
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    said = stores.one_line(error.value)
    variable, *command = shlex.split(said.split("`")[1])
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    assert command[0] == "mlflow"
    done = CliRunner().invoke(cli, command[1:])
    assert done.exit_code == 0, done.output
    monkeypatch.delenv(name)
    tracking.sync(folder)
    found = client.get_experiment(number)
    assert found.lifecycle_stage == "active" and len(client.search_runs([number])) == 1


def test_the_mirror_says_so_in_one_line(storage):  # noqa: F811
    folder, client = write_run(storage / "s", 2), MlflowClient(f"sqlite:///{storage}/mlflow.db")
    client.delete_experiment(client.create_experiment("dasgm"))
    missing = tracking.MlflowSync(Run(folder).folder).start().stop(60)
    assert "mlflow experiments restore" in missing and "MLFLOW_EXPERIMENT_NAME" in missing and "\n" not in missing
