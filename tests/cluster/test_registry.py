"""The model registry on real stores: what a version holds and answers, repeated, beside others, and served."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT, environment_with
from evaluations import (
    environment,  # noqa: F401 (a fixture for every test)
    search_sweep,
)
from mlflow import pyfunc
from mlflow.artifacts import download_artifacts
from patience import until
from PIL import Image
from predicted import predictions
from shared import once
from tracked import client_of, contents, runs_of

import dasgm
from cluster import evaluate, registry, tracking
from dasgm.data import digits
from dasgm.jobs.evaluate import main
from dasgm.jobs.session import Hooks
from dasgm.pages.view import registrations
from dasgm.recipes import EvaluateConfig
from dasgm.spaces.darts import KNOWN
from dasgm.store.records import amend, read_json
from tuning import sweep

CONFIG = EvaluateConfig(data=digits.Config(limit=200), cells=3, channels=4, epochs=2, batch_size=32, threads=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, to be copied."""

    def make(folder: Path) -> None:
        threads = torch.get_num_threads()
        main(KNOWN["PDARTS"], CONFIG, folder / "mine", Hooks(say=lambda line: None))
        torch.set_num_threads(threads)

    return once(tmp_path_factory, "trained-digits", make) / "mine"


@pytest.fixture
def run(made: Path, storage: Path) -> Path:
    return Path(shutil.copytree(made, storage / "mine"))


def test_registering_again_changes_nothing_and_the_runs_pages_link_to_the_version(
    run: Path, storage: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tracking.main([str(run), "--register", "digits of mine"]) == 0
    out = capfd.readouterr().out
    link = "#/models/digits%20of%20mine/versions/1"
    assert f"mine is version 1 of digits of mine: http://127.0.0.1:5000/{link}" in out
    assert "version 1 (mine) is the champion of digits of mine: there was none before" in out
    client = client_of(storage)
    first = contents(client)
    assert tracking.main([str(run), "--register", "digits of mine"]) == 0
    assert contents(client) == first and "mine was already version 1" in capfd.readouterr().out
    (version,) = client.search_model_versions("name = 'digits of mine'")
    (ours,) = runs_of(client).values()
    assert version.run_id == ours.info.run_id
    assert client.get_model_version_by_alias("digits of mine", "champion").version == version.version

    assert ours.data.tags["registered"] == "digits of mine/1"
    assert f"[digits of mine, version 1]({link})" in ours.data.tags["mlflow.note.content"]
    page = (run / "report.html").read_text()
    assert f'<a href="http://127.0.0.1:5000/{link}">version 1 of digits of mine</a>' in page


def test_a_version_is_the_network_without_pickle(run: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking.register([run], "digits")
    client = client_of(storage)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    folder = Path(download_artifacts("models:/digits@champion"))
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    described = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"}
    held = described | {"model.onnx", "input_example.json", "serving_input_example.json"}
    assert set(files) - {"registered_model_meta"} == held, "a download may add where it came from"
    assert not [name for name, content in files.items() if content[:1] == b"\x80"], "a pickle begins so"
    needed = {line.partition("==")[0] for line in files["requirements.txt"].decode().split()}
    assert needed == {"mlflow", "onnx", "onnxruntime"}
    result = read_json(run / "model.json")["result"]
    (ours,) = runs_of(client).values()
    (model_of_run,) = client.get_run(ours.info.run_id).outputs.model_outputs
    metrics = {metric.key: metric.value for metric in client.get_logged_model(model_of_run.model_id).metrics}
    assert metrics["result/error"] == result["error"] and metrics["result/parameters"] == result["parameters"]

    # what it answers, in a process that has neither torch nor dasgm
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model, data = dasgm.load(run), CONFIG.data.load()
    x = torch.stack([model.preprocess(picture) for picture in data.test_images[:5]])
    np.save(storage / "x.npy", x.numpy())
    code = f"""
import sys
sys.modules["torch"] = sys.modules["dasgm"] = None
import numpy as np
from mlflow import pyfunc
x = np.load("x.npy")
model = pyfunc.load_model({str(folder)!r})
np.save("y.npy", model.predict({{"images": x}})["logits"])
"""
    subprocess.run([sys.executable, "-c", code], cwd=storage, check=True, env=environment_with(PYTHONPATH=""))
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(np.load(storage / "y.npy")), model(x), rtol=1e-4, atol=1e-4)
    loaded = pyfunc.load_model(str(folder))
    assert loaded.metadata.metadata["classes"] == list(model.classes)
    example = loaded.input_example["images"]
    assert loaded.predict(loaded.input_example)["logits"].shape == (1, 10) and example.shape == (1, 3, 16, 16)
    with pytest.raises(Exception, match="Shape of input"):
        loaded.predict({"images": x.numpy()[:, :, :8]})


def test_champion_is_who_is_better_and_one_killed_half_way_leaves_no_second_model(
    run: Path, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(run, storage / "other"))
    amend(other / "run.json", started=1_790_000_000.0, name="other", title="other")
    predictions(run / "predictions.csv", "0" * 9 + "1" * 9)
    predictions(other / "predictions.csv", "1" * 9 + "0" + "1" * 8)

    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_log_metrics", die)
        with pytest.raises(Killed):
            tracking.register([run], "digits")
    lines = tracking.register([run], "digits")
    client = client_of(storage)
    (experiment,) = client.search_experiments(filter_string="name = 'dasgm'")
    assert len(client.search_logged_models([experiment.experiment_id])) == 1
    assert int(client.get_model_version_by_alias("digits", "champion").version) == 1
    shutil.rmtree(run)  # its predictions are in MLflow
    lines = tracking.register([other], "digits")
    assert "version 2 (other) has 9 and version 1 (mine) has 1, p = 0.012" in lines[1], "12 / 1024"
    assert int(client.get_model_version_by_alias("digits", "champion").version) == 2
    (other / "model.safetensors").write_bytes((other / "model.json").read_bytes())
    with pytest.raises(ValueError, match="model.safetensors"):
        tracking.register([other], "digits")
    assert len(client.search_model_versions("name = 'digits'")) == 2


def test_two_fits_share_the_registry_beside_them(
    made: Path, storage: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (storage / name / "training" for name in ("fit-pets-s0", "fit-pets-s1"))
    for number, run in enumerate((first, second)):
        shutil.copytree(made, run)
        (run.parent / "fit.json").write_text("{}")
        amend(run / "run.json", title=f"{run.parent.name}: training")
        predictions(run / "predictions.csv", "0" * 8 + "1" * 9 if number == 0 else "1" * 17)
    monkeypatch.chdir(storage.parent)
    for run, name in ((first, "pets"), (second, "pets"), (second, "animals")):
        assert tracking.main([str(run.relative_to(storage.parent)), "--register", name]) == 0
    out, err = capfd.readouterr()
    assert "Downloading" not in err and not [*storage.glob("*/mlflow.db"), *storage.glob("*/mlartifacts")]
    for line in ("fit-pets-s0-training is version 1 of pets", "fit-pets-s1-training is version 2 of pets"):
        assert f"{line}: http://127.0.0.1:5000/#/models/pets/versions/" in out
    assert "version 2 (fit-pets-s1-training) has 8 and version 1 (fit-pets-s0-training) has 0, p = 0.0039" in out, (
        "2^-8"
    )
    assert f"the registry with all versions of pets is MLflow at sqlite:///{storage}/mlflow.db" in out
    client = client_of(storage)
    ids = {name: run.info.run_id for name, run in runs_of(client).items()}
    assert set(ids) == {"fit-pets-s0: training", "fit-pets-s1: training"}
    found = {(v.name, int(v.version)): v.run_id for v in client.search_model_versions()}
    a, b = ids["fit-pets-s0: training"], ids["fit-pets-s1: training"]
    assert found == {("pets", 1): a, ("pets", 2): b, ("animals", 1): b}

    other = Path(shutil.copytree(made, storage.parent / "elsewhere" / "mine"))
    for words, says in (
        ([str(first.parent)], "it holds the runs of a fit: name one of them, such as"),
        ([str(first), str(other), "--register", "pets"], "each have an MLflow database of their own"),
    ):
        assert tracking.main(words) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert says in line


def test_refused_in_one_line(
    run: Path, storage: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = search_sweep(storage / "found")
    amend(run / "run.json", state="interrupted")
    for folder, name, says in (
        (run, "a/b", "register 'a/b': expected a name of"),
        (run, "", "expected a name of"),
        (run, "digits", "no trained network (model.json)"),
        (search, "digits", "no trained network to register; `python cluster/evaluate.py --from-sweep found --register"),
    ):
        assert tracking.main([str(folder), "--register", name]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert says in line, line
    with monkeypatch.context() as patched:
        patched.setattr("dasgm.export.find_spec", lambda name: None if name == "onnxruntime" else name)
        assert tracking.main([str(run), "--register", "digits"]) == 2
        assert "register digits needs onnxruntime: pip install 'dasgm[export]'" in capfd.readouterr().err
    client = client_of(storage)
    assert not client.search_registered_models()


def test_a_group_of_evaluations_registers_what_it_trained(
    made: Path, storage: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["PDARTS", "--dataset=digits", "--name=g", f"--storage={storage}", "--register=digits"]
    group = evaluate.asked(words)
    shutil.copytree(made, group.folder / "PDARTS-s0")
    group.begin()
    group.note(state="finished")
    assert group.show()
    link = "http://127.0.0.1:5000/#/models/digits/versions/1"
    assert f"PDARTS-s0 is version 1 of digits: {link}\nversion 1 (PDARTS-s0) is the champion" in capsys.readouterr().out
    assert registrations(read_json(group.folder / "PDARTS-s0" / "run.json"))[0]["link"] == link
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert not group.show(), "what was asked for was not done"
    later = f"python -m cluster.tracking '{group.folder}/PDARTS-s0' --register digits"
    assert f"register digits: Connection refused; `{later}` does it later" in capsys.readouterr().out
    assert evaluate.asked([*words, "--seeds=2"]).show() and "digits: not yet, since" in capsys.readouterr().out


def test_before_anything_is_trained(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    words = ["DARTS_V2", "--dataset=digits", f"--storage={tmp_path / 'runs'}"]
    swept = ["--gan=none", f"--storage={tmp_path / 'runs'}", "--name=s", "--then-imagenet", str(photographs)]
    swept += ["--imagenet-set", "recipe=imagenet-small", "batch-size=8", "loader=torch"]
    monkeypatch.setattr("cluster.evaluations.cpus", lambda: 2)
    (tmp_path / "file").touch()
    nowhere = f"sqlite:///{tmp_path}/file/mlflow.db"
    for command, uri, more, says in (
        (evaluate.main, closed, [*words, "--register=digits"], f"registry at {closed} does not answer: Connection ref"),
        (evaluate.main, nowhere, [*words, "--register=digits"], f"registry at {nowhere} does not answer: "),
        (evaluate.main, closed, [*words, "--register=a:b"], "register 'a:b': expected a name of"),
        (sweep.main, closed, [*swept, "--register=digits"], f"registry at {closed} does not answer: Connection ref"),
        (
            sweep.main,
            closed,
            ["--gan=none", "--register=digits"],
            "no trained network; train the best with --then-train",
        ),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(SystemExit) as stopped:
            command(more)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and line.startswith("error: ") and says in line, line
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_guides_lines_serve_a_picture(run: Path, storage: Path) -> None:
    """`mlflow models serve` for real, by the commands and the code of docs/howto/models.md."""
    section = (ROOT / "docs" / "howto" / "models.md").read_text().partition("## From a trained model to a server")[2]
    blocks = re.findall(r"```(?:sh|python)\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    send, *blocks = (block.replace("runs/fit-pets-s0/training", shlex.quote(str(run))) for block in blocks)
    serve, script, ask, curl = (block.replace("$PWD/runs", f"'{storage}'") for block in blocks)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve, script, curl = (block.replace("5001", str(port)) for block in (serve, script, curl))
    place = storage / "elsewhere"
    place.mkdir()
    data, model = CONFIG.data.load(), dasgm.load(run)
    Image.fromarray(data.test_images[3].permute(1, 2, 0).numpy()).save(place / "cat.jpg", quality=95)
    ours = environment_with(
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        PYTHONPATH="",  # neither the server nor who asks it needs dasgm
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    (place / "ask.py").write_text(script)

    def do(*words: str, **more: str) -> str:
        return subprocess.run(words, cwd=place, env=ours | more, check=True, capture_output=True, text=True).stdout

    do("bash", "-c", send, PYTHONPATH=str(ROOT))
    log = place / "server.log"
    with open(log, "w") as said:
        server = subprocess.Popen(
            ["bash", "-c", serve], cwd=place, env=ours, stdout=said, stderr=said, start_new_session=True
        )
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/ping", server, log), 0.2)
        said = do("bash", "-c", ask)
        answer = json.loads(do("bash", "-c", curl))
        with torch.no_grad():
            expected = model(model.preprocess(place / "cat.jpg")[None]).numpy()
        np.testing.assert_allclose(answer["predictions"]["logits"], expected, rtol=1e-3, atol=1e-3)
        ((name, probability),) = model.predict([place / "cat.jpg"], top=1)[0]
        assert said == f"{name} {probability:.1%}\n"
        for odd in ({"images": [[[[0.0]]]]}, {"pictures": [1.0]}, [[1.0, 2.0]]):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps({"inputs": odd}).encode(),
                {"Content-Type": "application/json"},
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == 400, odd
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(address: str, server: subprocess.Popen[bytes], log: Path) -> bool:
    try:
        urllib.request.urlopen(address)
        return True
    except OSError:
        assert server.poll() is None, log.read_text()
        return False
