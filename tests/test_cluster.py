"""Clusters: their files, the doctor, and commands that hand themselves to Ray's job server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loopback
import pytest
import yaml
from commands import TESTS, TINY, Simulated, finish, start, wait_for

from cluster import connection, doctor, handover, job, launcher, room
from cluster.room import Workers
from dasgm.store.records import read_json
from dasgm.store.run import Run

ROOT = TESTS.parent
FILES = {name: ROOT / "cluster" / f"{name}.yaml" for name in ("gpu", "local")}
VALUES = {"<REGION>": "us-west-2", "<ZONES>": "us-west-2a", "<IMAGE>": "ami-0", "<SECURITY_GROUP>": "sg-0"}
VALUES |= {"<FILE_SYSTEM>": "fs-0", "<BUCKET>": "bucket", "<HEAD>": "10.0.0.1", "<WORKER>": "10.0.0.2"}
VALUES |= {"<USER>": "me", "<KEY_FILE>": "~/key", "<SHARED>": "/shared"}


def filled(name: str, path: Path, **changes: str) -> Path:
    """A file of ours with its placeholders filled in, and text replaced."""
    text = FILES[name].read_text()
    for old, new in (VALUES | changes).items():
        text = text.replace(old, new)
    path.write_text(text)
    return path


def failures(path: Path) -> list[str]:
    return [line for good, line in launcher.look_at_yaml(path) if good is False]


# ------------------------------------------------------------------------------------------------ the files


@pytest.mark.parametrize("name", FILES)
def test_placeholders_are_refused_and_nothing_else(name):
    (line,) = failures(FILES[name])
    named = {word for word in VALUES if word in FILES[name].read_text()}
    assert all(word in line for word in named) and len(named) >= 5


@pytest.mark.parametrize("name", FILES)
def test_filled_in_files_pass_rays_own_validation(name, tmp_path, monkeypatch):
    monkeypatch.setattr(
        launcher, "_security_group", lambda config: iter(())
    )  # credentials and network of whoever tests
    path = filled(name, tmp_path / "c.yaml")
    assert failures(path) == []
    config = yaml.safe_load(path.read_text())
    for key, source in config["file_mounts"].items():  # single folders: a mount is hashed whole
        assert source == "~/.ray/auth_token" or (ROOT / source).exists()
        assert key.startswith("~/") and source != "."


@pytest.mark.parametrize("name", FILES)
def test_what_an_install_needs_is_sent(name):
    mounts = yaml.safe_load(FILES[name].read_text())["file_mounts"]
    sent = {key.removeprefix("~/project/"): source for key, source in mounts.items() if key.startswith("~/project/")}
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, packages = setup["project"], setup["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = {"pyproject.toml", "constraints.txt", project["readme"], *project["license-files"]}
    assert needed | {package.rstrip("*") for package in packages} == set(sent)
    assert all(key == source for key, source in sent.items())


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("name", FILES)
def test_a_download_that_fails_ends_the_set_up_where_it_fails(name, tmp_path):
    (line,) = [line for line in yaml.safe_load(FILES[name].read_text())["setup_commands"] if "curl" in line]
    nowhere = os.environ | {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(["bash", "-c", line], env=nowhere, capture_output=True, text=True)
    assert done.returncode and "curl" in done.stderr


def test_the_line_that_the_loopback_test_changes_is_there():
    assert (ROOT / "cluster" / loopback.SOURCE).read_text().count(loopback.LINE) == 1


def test_every_parameter_of_a_machine_is_ec2s():
    model = pytest.importorskip("botocore.session").get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape

    def check(known: dict[str, Any], shape: Any, path: str) -> None:
        shape = getattr(shape, "member", shape)
        for key, below in known.items():
            if key != "SubnetIds":
                assert key in shape.members, f"{path}.{key}"
                check(below or {}, shape.members[key], f"{path}.{key}")

    check(launcher.INSTANCE, shape, "RunInstances")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  region:", "  regoin:", "provider.regoin is not known, did you mean 'region'?"),
        ("      InstanceType: g5", "      InstanceTyp: g5", "did you mean 'InstanceType'?"),
        ("VolumeSize", "VolumeSzie", "did you mean 'VolumeSize'?"),
        ("SpotInstanceType", "SpotType", "gpu8.node_config.InstanceMarketOptions.SpotOptions.SpotType"),
        ("DASGM_SLOTS=16", "DASGM_SLOTS=8", "set DASGM_SLOTS=16"),
        ("idle_timeout_minutes", "idle_timeout_minute", "idle_timeout_minute"),
        ("head_node_type: head", "head_node_type: haed", "head_node_type"),
        ("RAY_AUTH_MODE=token", "", "RAY_AUTH_MODE=token is missing"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "0.0.0.0 is every interface"),
        ("--host 127.0.0.1", "", "--host 127.0.0.1 is missing"),
        ("SecurityGroupIds: [sg-0]", "EbsOptimized: true", "give every node type SecurityGroupIds"),
        ("cluster_name: dasgm", "cluster_name: [", "is not YAML"),
        ("  type: aws", "  - aws", "is not YAML"),
    ],
)
def test_what_ray_would_let_pass_is_found(old, new, says, tmp_path):
    path = filled("gpu", tmp_path / "c.yaml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(says in line for line in failures(path)), failures(path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"[" * 100_000, b"a: &a [*a"], ids=["binary", "nested", "cut off"]
)
def test_what_is_no_yaml_is_one_line(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_bytes(content)
    (line,) = failures(tmp_path / "c.yaml")
    assert "is not YAML" in line and len(line.splitlines()) == 1
    assert doctor.main([str(tmp_path / "c.yaml")]) == 1 and capsys.readouterr().out.count("is not YAML") == 1


def test_a_network_is_not_every_interface(tmp_path):
    assert (
        failures(filled("local", tmp_path / "c.yaml", **{"touch ~/.bashrc": "ip route add 10.0.0.0/8 dev eth1"})) == []
    )


def test_no_aws_credentials_is_a_failure(tmp_path, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setattr(boto3.session.Session, "get_credentials", lambda session: None)
    (line,) = failures(filled("gpu", tmp_path / "c.yaml"))
    assert line.endswith("aws configure")


def test_spot_is_one_line():
    lines = FILES["gpu"].read_text().splitlines()
    (spot,) = [line for line in lines if "spot" in line and "MarketType" in line]
    kinds = yaml.safe_load("\n".join(line for line in lines if line != spot))["available_node_types"]
    assert (
        "InstanceMarketOptions" not in kinds["gpu8"]["node_config"] and "InstanceType" in kinds["gpu8"]["node_config"]
    )


@pytest.mark.parametrize(
    ("rule", "good"),
    [
        ({"FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}, True),
        ({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}, True),
        ({"FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}, False),
        ({"FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}, False),
        ({"FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/1"}, {"CidrIp": "128.0.0.0/1"}]}, False),
        ({"FromPort": 22, "ToPort": 22, "Ipv6Ranges": [{"CidrIpv6": "2001:db8::1/128"}]}, True),
        ({"FromPort": 22, "ToPort": 22, "PrefixListIds": [{"PrefixListId": "pl-1"}]}, False),
        ({"FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}, False),
        ({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-2"}]}, False),
    ],
)
def test_rules_of_a_security_group(rule, good):
    ((verdict, line),) = launcher.rules([{"GroupId": "sg-1", "IpPermissions": [rule]}])
    assert verdict is good, line


# ------------------------------------------------------------------------------------------------ machines that come


def nodes(*machines: dict[str, float]) -> list[dict[str, Any]]:
    """As Ray lists them, with one that is gone."""
    gone = {"Alive": False, "Resources": {"CPU": 999.0, "GPU": 999.0, "slot": 999.0}}
    return [gone, *({"Alive": True, "Resources": its} for its in machines)]


def test_machines_are_asked_for_and_the_request_is_withdrawn(monkeypatch):
    import ray.autoscaler.sdk

    seen: list[Any] = []
    head, machine = {"CPU": 0.0}, {"CPU": 192.0, "GPU": 8.0, "slot": 8.0}
    states = iter([nodes(), nodes(head), nodes(head, machine)])
    monkeypatch.setenv("DASGM_SLOTS", "16")
    monkeypatch.setattr(ray, "nodes", lambda: next(states))
    monkeypatch.setattr(ray.autoscaler.sdk, "request_resources", lambda bundles: seen.append(bundles))
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    wide = Workers(2, 1.0, private=False, wait=60)
    assert room.wait_for_room(wide, lambda line: None) == 8  # two machines with 8 GPUs may come
    assert seen == [[{"CPU": 1.0, "GPU": 1.0}] * 2] * 2 + [[]]
    seen.clear()
    monkeypatch.setattr(ray, "nodes", list)
    clock = iter([0.0, 1.0, 61.0])  # begun, asked, given up
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=clock.__next__, sleep=lambda seconds: None))
    with pytest.raises(ValueError, match="2 GPUs"):
        room.wait_for_room(wide, lambda line: None)
    assert seen == [[{"CPU": 1.0, "GPU": 1.0}] * 2, []]


@pytest.mark.parametrize(
    ("workers", "searches"),
    [
        (Workers(1, 1.0), 16),
        (Workers(2, 1.0), 8),
        (Workers(3, 1.0), 4),  # two drivers on each machine, though five searches have their GPUs
        (Workers(5, 1.0), 2),
        (Workers(12, 1.0), 1),  # wider than a machine
        (Workers(1, 0.5), 32),
        (Workers(1, 0.4), 32),  # a share lies on one GPU
        (Workers(1, 0.6), 16),
        (Workers(2, 1.0, cpus=64.0), 3),  # three workers on each machine
        (Workers(2, 1.0, cpus=100.0), 1),
    ],
)
def test_what_may_come_is_counted_machine_by_machine(workers, searches, monkeypatch):
    import ray

    monkeypatch.setenv("DASGM_SLOTS", "16")
    monkeypatch.setattr(
        ray, "nodes", lambda: nodes({"CPU": 0.0}, *[{"CPU": 192.0, "GPU": 8.0, "slot": 8.0}] * (1 + (searches == 1)))
    )
    assert room.wait_for_room(workers, lambda line: None) == searches


def test_actors_that_last_are_made_on_the_head_where_machines_come_and_go(monkeypatch):
    made: list[str] = []
    for place in ("cluster_autoscaler.get_or_create_autoscaling_coordinator", "stats.get_or_create_stats_actor"):
        monkeypatch.setattr(f"ray.data._internal.{place}", lambda place=place: made.append(place))
    monkeypatch.delenv("DASGM_SLOTS", raising=False)
    connection._lasting_actors_here()
    assert not made
    monkeypatch.setenv("DASGM_SLOTS", "16")
    connection._lasting_actors_here()
    assert len(made) == 2


@pytest.mark.parametrize(
    ("workers", "slots"),
    [(Workers(1, 1.0), 1.0), (Workers(2, 1.0), 2.0), (Workers(1, 0.5), 0.5), (Workers(3, 0.5), 2.0), (Workers(4), 4.0)],
)
def test_a_search_takes_a_slot_for_each_gpu_or_else_cpu(workers, slots, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "nodes", lambda: nodes({"CPU": 0.0}, {"slot": 8.0}))
    assert room.driver(workers) == {"slot": slots}
    assert room.driver(Workers(16, 1.0)) == {"slot": 8.0}  # wider than a machine
    monkeypatch.setattr(ray, "nodes", lambda: nodes({"CPU": 0.0}))
    assert room.driver(workers) == room.HOLDS_NOTHING


def test_a_cluster_says_how_many_gpus_a_worker_gets(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("DASGM_GPUS", "1")
    assert job.workers_for(4, None) == Workers(4, 1.0, private=False)
    assert job.workers_for(4, 8.0) == Workers(4, 2.0, private=False)
    with pytest.raises(ValueError, match="4 workers on 2 GPUs: NCCL cannot put two workers on one GPU"):
        job.workers_for(4, 2.0)
    monkeypatch.delenv("DASGM_GPUS")
    assert job.workers_for(4, None) == Workers(4, 0.0, private=False)


# ------------------------------------------------------------------------------------------------ handing over


def test_no_option_is_one_of_ray_submits(monkeypatch):
    from ray.scripts.scripts import submit

    theirs = {name for option in submit.params for name in option.opts if name.startswith("-")}
    assert "--stop" in theirs
    for script in ("tuning/sweep.py", "tuning/reproduce.py", "cluster/search.py"):
        _, out, _ = finish(start(str(ROOT / script), "--help"))
        ours = {word.strip(",│") for word in out.split() if word.startswith("--")}
        assert {"--follow", "--cancel", "--storage"} <= ours and not ours & theirs, ours & theirs


def test_only_a_command_on_a_joined_cluster_is_handed_over(monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert handover.hand_over("tuning.sweep", ["--num-trials=1"]) is None
    for words in (["--follow", "x"], ["--cancel=x"], ["--follow"], ["--cancel", "x", "--name=y"]):
        with pytest.raises(SystemExit) as error:
            handover.hand_over("tuning.sweep", words)
        said = capsys.readouterr().err
        assert error.value.code == 2 and len(said.splitlines()) == 1, said
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert handover.hand_over("tuning.sweep", ["--preset", "pdarts", "--dry-run"]) is None
    assert handover.hand_over("tuning.sweep", ["--help"]) is None
    monkeypatch.setenv(handover.INSIDE, "sweep-1")
    assert handover.hand_over("tuning.sweep", []) is None


@pytest.mark.parametrize(
    "words",
    [["--storage=s3://b/p?secret_key=HIDDEN"], ["--storage", "s3://k:HIDDEN@b/p"], ["s3://b/p?access_key=HIDDEN"]],
)
def test_key_in_an_address_is_refused_before_the_job_is_handed_over(words, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(handover, "_client", lambda: pytest.fail("the job server is asked"))
    with pytest.raises(SystemExit) as error:
        handover.hand_over("tuning.sweep", words)
    said = capsys.readouterr()
    assert error.value.code == 2 and "HIDDEN" not in said.err + said.out and len(said.err.splitlines()) == 1


def test_no_job_server_is_one_line():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{s.getsockname()[1]}"
    process = start(str(ROOT / "tuning" / "sweep.py"), RAY_ADDRESS=address)
    code, _, err = finish(process)
    assert code == 2 and address in err and "no job server answers" in err and len(err.splitlines()) == 1, err


HAND_OVER = "import sys; from cluster.handover import hand_over; sys.exit(hand_over('echo_job', sys.argv[1:]))"


@pytest.fixture(scope="module")
def one_node():
    cluster = Simulated(1)
    yield cluster
    cluster.stop()


@pytest.mark.slow
def test_arguments_arrive_intact_and_the_exit_code_comes_back(one_node, tmp_path):
    words = ["--note", "two words", "--json", '{"a": "*"}', "--code", "7", "--name", "a name"]
    code, out, err = finish(one_node.run("-c", HAND_OVER, *words, cwd=tmp_path))
    said = next(json.loads(line) for line in out.splitlines() if line.startswith("{"))
    assert code == 7 and said["words"] == words and said["cwd"] == str(tmp_path), (out, err)
    assert said["inside"].startswith("a-name-") and f"job {said['inside']} runs on the cluster" in out
    code, again, _ = finish(one_node.run("-c", HAND_OVER, "--follow", "a name"))
    assert code == 7 and "two words" in again and "the end" in again
    code, _, err = finish(one_node.run("-c", HAND_OVER, "--follow", "nothing"))
    assert code == 2 and "'nothing' is not known" in err and said["inside"] in err


@pytest.mark.slow
def test_ctrl_c_and_a_lost_terminal_only_stop_following(one_node, tmp_path):
    end = tmp_path / "end"
    for number, how in enumerate((signal.SIGINT, signal.SIGHUP)):
        name = f"f{number}"
        log = (tmp_path / name).open("w")
        process = one_node.run("-c", HAND_OVER, "--until", str(end), "--name", name)
        assert process.stdout
        seen = ""
        while '"words"' not in seen:
            seen += process.stdout.readline()
        os.killpg(process.pid, how)
        code, out, _ = finish(process)
        log.close()
        if how == signal.SIGINT:
            assert code == 130 and "no longer following" in out and f"--follow {name}-" in out, out
        end.touch()
        code, out, err = finish(one_node.run("-c", HAND_OVER, "--follow", name))
        assert code == 0 and "the end" in out, (out, err)
        end.unlink()


@pytest.mark.slow
def test_cancel_ends_a_job(one_node, tmp_path):
    process = one_node.run("-c", HAND_OVER, "--until", str(tmp_path / "never"), "--name", "c")
    assert process.stdout
    seen = ""
    while '"words"' not in seen:
        seen += process.stdout.readline()
    code, out, err = finish(one_node.run("-c", HAND_OVER, "--cancel", "c"))
    assert code == 0 and "was cancelled" in out, (out, err)
    code, out, _ = finish(process)
    assert code == 130 and "the end" not in out
    code, out, _ = finish(one_node.run("-c", HAND_OVER, "--cancel", "c"))
    assert code == 0 and "had ended already" in out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_spread_over_the_machines_of_a_cluster(tmp_path):
    cluster = Simulated(3)
    try:
        words = ["--gan=none", "--num-trials=3", "--space=toy_spaces:mixed", "--grace=4", *TINY]
        process = cluster.run(str(ROOT / "tuning" / "sweep.py"), "--storage", str(tmp_path), "--name", "s", *words)
        wait_for(process, lambda: len(list(tmp_path.glob("s/t*/metrics.jsonl"))) == 3)
        used = cluster.ask("nodes")
        code, out, err = finish(process)
        assert code == 0 and "best genotype" in out, (out, err)
        assert len(set(used)) == 3  # a slot each
        assert read_json(tmp_path / "s" / "sweep.json")["state"] == "finished"
        assert {Run(tmp_path / "s" / f"t00{n}").about["state"] for n in range(3)} <= {"finished", "failed", "stopped"}
    finally:
        cluster.stop()
