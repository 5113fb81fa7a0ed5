"""The doctor: this machine, and machines over an `ssh` that only changes the folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cluster_files import FILES, filled
from commands import ROOT, finish, start

from cluster import doctor

SSH = """#!/bin/bash
host=${{@: -3:1}}
cd {place}/${{host#*@}} && PATH=$PWD/bin:{place}/bin exec bash -s
"""


def test_doctor_on_this_machine(tmp_path):
    words = ["--storage", str(tmp_path / "new")]
    code, out, err = finish(start(str(ROOT / "cluster" / "doctor.py"), *words, HOME=str(tmp_path)))
    said = [line for line in out.splitlines() if "rsync" not in line and "ssh" not in line]
    assert err == "" and said and all(line.startswith("ok ") for line in said if "interface" not in line), out
    assert "digits: 10 classes" in out and "written and read" in out and not (tmp_path / "new").exists()


def test_doctor_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    said: list[str] = []
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("0" * 64)
    token.chmod(0o644)
    (tmp_path / "file").write_text("")
    words = ["--storage", f"file://{tmp_path}/file", "--data-dir", "nowhere", str(FILES["gpu"])]
    assert doctor.main(words, said.append) == 1
    failed = [line.removeprefix("FAIL").strip() for line in said if line.startswith("FAIL")]
    for part in ("fill in <REGION>", "chmod 600", "a machine's own disk"):
        assert sum(part in line for line in failed) == 1, (part, failed)
    assert all(len(line.splitlines()) == 1 for line in said)
    assert any(line.startswith("not looked at") and "data in nowhere" in line for line in said)
    assert [good for good, _ in doctor.look_at_storage(str(tmp_path / "file"))] == [False]


def test_on_aws_paths_are_the_machines_own(tmp_path):
    config = yaml.safe_load(filled("gpu", tmp_path / "c.yaml").read_text())

    def look(data: str | None, storage: str) -> list[tuple[bool | None, str]]:
        return list(doctor.look_at_cluster(config, {}, data, storage))

    assert [good for good, _ in look("/mnt/dasgm/cifar", "/mnt/dasgm/runs")] == [None, None]
    assert [good for good, _ in look(None, "/mnt/dasgm-other")] == [False]


def test_doctor_sees_ray_listening_everywhere(tmp_path):
    (tmp_path / "ray").mkdir()
    script = tmp_path / "ray" / "raylet.py"
    script.write_text(
        "import socket, sys\ns = socket.create_server(('', 0))\nprint(s.getsockname()[1], flush=True)\nsys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    port = process.stdout.readline().strip()
    ((good, line),) = doctor.look_at_ports()
    process.communicate("")
    assert good is False and port in line and "firewall" in line


def test_versions_of_both_sides():
    pins = doctor.pinned(ROOT, yaml.safe_load(FILES["gpu"].read_text()))
    assert sorted(pins) == ["python", "ray", "torch"]
    assert [good for good, _ in doctor.look_at_versions(pins)] == [True]
    ((good, line), _) = doctor.look_at_versions(pins | {"ray": "2.0.0"})
    assert good is False and "2.0.0 on the nodes" in line
    assert doctor.pinned(ROOT, yaml.safe_load(FILES["local"].read_text())) == pins


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Asks 10.0.0.1, the head, and 10.0.0.2; `runs` of both is one folder. What failed, but for what is about here."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "touch", "rm", "grep"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    for tool in ("rsync", "uptime", "curl", "ssh"):
        (tools / tool).write_text(SSH.format(place=tmp_path) if tool == "ssh" else "")
        (tools / tool).chmod(0o755)
    for host in ("10.0.0.1", "10.0.0.2"):
        (tmp_path / host / "bin").mkdir(parents=True)
    (tmp_path / "10.0.0.1" / "runs").mkdir()
    (tmp_path / "10.0.0.2" / "runs").symlink_to(tmp_path / "10.0.0.1" / "runs")
    smi = tmp_path / "10.0.0.2" / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/bash\necho 'GPU 0: a card'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # who runs the tests may have results in runs/
    (tmp_path / "key").write_text("")

    def ask(*words: str, **changes: str) -> list[str]:
        said: list[str] = []
        file = filled("local", tmp_path / "c.yaml", **changes)
        code = doctor.main([*words, str(file)], said.append)
        failed = [line.removeprefix("FAIL").strip() for line in said if line.startswith("FAIL")]
        assert code == bool(failed)
        return [line for line in failed if "auth_token" not in line and "every interface" not in line]

    return ask


def test_sound_machines_pass_and_keep_nothing(machines, tmp_path):
    assert machines("--storage", "runs", "--data-dir", "runs") == []
    assert list((tmp_path / "10.0.0.1" / "runs").iterdir()) == [] and not Path("runs").exists()


def test_worker_without_a_gpu_is_found_where_the_file_promises_some(machines, tmp_path):
    (tmp_path / "10.0.0.2" / "bin" / "nvidia-smi").unlink()
    (line,) = machines("--storage", "runs")
    assert line.startswith("10.0.0.2: ") and "install the driver or set DASGM_GPUS=0" in line
    assert machines("--storage", "runs", **{"DASGM_GPUS=1": "DASGM_GPUS=0"}) == []


def test_storage_of_the_machines_is_looked_at_there(machines, tmp_path):
    worker = tmp_path / "10.0.0.2" / "runs"
    worker.unlink()
    worker.mkdir()
    (line,) = machines("--storage", "runs")
    assert "10.0.0.2: storage runs is not the one of 10.0.0.1" in line
    worker.rmdir()
    worker.write_text("")
    (line,) = machines("--storage", "runs")
    assert "10.0.0.2: storage runs cannot be written" in line
    worker.unlink()
    (line,) = machines("--storage", "runs")
    assert "10.0.0.2: runs is not there" in line


def test_data_of_the_machines_is_looked_at_there(machines, tmp_path):
    (tmp_path / "10.0.0.1" / "data").mkdir()
    (line,) = machines("--data-dir", "data")
    assert "10.0.0.2: data is not there" in line


def test_key_that_is_not_there_is_found(machines, tmp_path):
    (tmp_path / "key").unlink()
    assert any("auth.ssh_private_key ~/key: there is no such file" in line for line in machines())
