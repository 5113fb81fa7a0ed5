"""Clusters: their files, the doctor, and commands that hand themselves to Ray's job server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from typing import Any

import loopback
import pytest
import yaml
from cluster_files import FILES, VALUES, failures, filled
from commands import ROOT

from cluster import doctor, launcher


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
