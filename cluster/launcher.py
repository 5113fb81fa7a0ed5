"""Checks a cluster's YAML file for what Ray's launcher would refuse, and for what it accepts but should not."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dasgm.plugins import nearest
from dasgm.store.files import first_line, text

Finding = tuple[bool | None, str]
"""True and what passed; False and what to do; None and what could not be looked at."""

PLACEHOLDER = re.compile(r"<[A-Z_]+>")

# Ray accepts any key in these two parts, so a typo would be noticed only when machines run, or never.
PROVIDERS: dict[str, tuple[str, ...]] = {
    "aws": (
        *("type", "region", "availability_zone", "cache_stopped_nodes", "security_group", "key_pair"),
        *("use_internal_ips", "use_external_head_ip", "ssh_proxy_use_node_id", "cloudwatch"),
    ),
    "local": ("type", "head_ip", "worker_ips", "external_head_ip", "use_internal_ips", "coordinator_address"),
}
EBS = dict.fromkeys(
    ("DeleteOnTermination", "Encrypted", "Iops", "KmsKeyId", "SnapshotId", "Throughput", "VolumeSize", "VolumeType")
)
SPOT = dict.fromkeys(("InstanceInterruptionBehavior", "MaxPrice", "SpotInstanceType", "ValidUntil"))
INSTANCE: dict[str, Any] = {  # parameters of EC2's RunInstances that make sense here, and those below them
    "BlockDeviceMappings": {"DeviceName": None, "Ebs": EBS, "NoDevice": None, "VirtualName": None},
    "CapacityReservationSpecification": {"CapacityReservationPreference": None, "CapacityReservationTarget": None},
    "CpuOptions": {"CoreCount": None, "ThreadsPerCore": None, "AmdSevSnp": None},
    "EbsOptimized": None,
    "IamInstanceProfile": {"Arn": None, "Name": None},
    "ImageId": None,
    "InstanceInitiatedShutdownBehavior": None,
    "InstanceMarketOptions": {"MarketType": None, "SpotOptions": SPOT},
    "InstanceType": None,
    "KeyName": None,
    "LaunchTemplate": {"LaunchTemplateId": None, "LaunchTemplateName": None, "Version": None},
    "MetadataOptions": dict.fromkeys(
        ("HttpEndpoint", "HttpProtocolIpv6", "HttpPutResponseHopLimit", "HttpTokens", "InstanceMetadataTags")
    ),
    "Monitoring": {"Enabled": None},
    "NetworkInterfaces": None,
    "Placement": None,
    "SecurityGroupIds": None,
    "SecurityGroups": None,
    "SubnetId": None,
    "SubnetIds": None,  # Ray's own: it picks one
    "TagSpecifications": None,
    "UserData": None,
}


def read_yaml(path: Path) -> tuple[str, Any]:
    """The text of a file, and its contents. ValueError: why it cannot be read, in a few words."""
    import yaml

    try:
        found = text(path)
        return found, yaml.safe_load(found)
    except (OSError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"is not YAML: {' '.join(str(error).split())[:200]}") from None


def look_at_yaml(path: Path) -> Iterator[Finding]:
    """Look for placeholders, what Ray's schema refuses, typos that it accepts, wrong slots, and open ports."""
    try:
        content, config = read_yaml(path)
    except ValueError as error:
        yield False, f"{path}: {error}"
        return
    lines = [line.partition(" #")[0] for line in content.splitlines() if not line.lstrip().startswith("#")]
    left = list(dict.fromkeys(PLACEHOLDER.findall("\n".join(lines))))
    if left:
        yield False, f"{path}: fill in {', '.join(left)}; cluster/README.md has the commands that make them"
    else:
        yield True, f"{path}: nothing is left to fill in"
    wrong = schema(config)
    yield (False, f"{path}: {wrong}") if wrong else (True, f"{path}: Ray's schema accepts it")
    if wrong:
        return
    unknown = list(typos(config))
    yield from ((False, f"{path}: {line}") for line in unknown)
    if not unknown:
        yield True, f"{path}: every key of provider and node_config is known"
    yield from _slots(path, config, content)
    yield from _closed(path, config)
    yield from _security_group(config)


def schema(config: Any) -> str:
    """The error of Ray's own validation, in one line; empty if there is none."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        return "expected keys and values, among them cluster_name and provider with its type"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            validate_config(prepare_config(config))
    except SystemExit:  # Ray's way to refuse a local provider without addresses
        return "provider: a local cluster has head_ip and worker_ips, without available_node_types"
    except Exception as error:  # jsonschema's own, ValueError, KeyError, ClickException
        return str(getattr(error, "message", error)).splitlines()[0][:200]
    return ""


def typos(config: dict[str, Any]) -> Iterator[str]:
    """Keys in `provider` and in every `node_config` that neither Ray nor EC2 knows."""
    provider = config["provider"]
    known = PROVIDERS.get(provider["type"])
    if known is None:
        yield f"provider.type {provider['type']!r}: this project has files for {', '.join(PROVIDERS)}"
        return
    for key in provider:
        if key not in known:
            yield f"provider.{key} is not known{nearest(key, list(known))}"
    for name, kind in config.get("available_node_types", {}).items():
        yield from _unknown(kind.get("node_config") or {}, INSTANCE, f"{name}.node_config")


def _unknown(found: Any, known: dict[str, Any] | None, path: str) -> Iterator[str]:
    if known is None:
        return
    if isinstance(found, list):
        for part in found:
            yield from _unknown(part, known, path)
    elif isinstance(found, dict):
        for key, value in found.items():
            if key in known:
                yield from _unknown(value, known[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is not known{nearest(key, list(known))}"


def _slots(path: Path, config: dict[str, Any], text: str) -> Iterator[Finding]:
    """Compare DASGM_SLOTS with the machines that may be started."""
    types = config.get("available_node_types", {}).values()
    if not types:
        return
    most = sum(kind.get("max_workers", 0) * kind.get("resources", {}).get("slot", 0) for kind in types)
    said = re.search(r"DASGM_SLOTS=(\d+)", text)
    if said and int(said[1]) == most and config.get("max_workers") == sum(k.get("max_workers", 0) for k in types):
        yield True, f"{path}: at most {config['max_workers']} machines with {most} slots in all"
    else:
        yield False, f"{path}: set DASGM_SLOTS={most} (max_workers times slot), and max_workers the same in both places"


def _closed(path: Path, config: dict[str, Any]) -> Iterator[Finding]:
    """Look whether the commands require the token and keep dashboard and MLflow on loopback."""
    commands = "\n".join(c for key, part in config.items() if key.endswith("_commands") for c in part)
    wanted = {
        "RAY_AUTH_MODE=token": "export it in setup_commands, or anyone who reaches a port of Ray's runs code",
        "--dashboard-host=127.0.0.1": "give it to `ray start --head`",
    }
    if "mlflow server" in commands:
        wanted["--host 127.0.0.1"] = "give it to `mlflow server`"
    missing = [f"{path}: {what} is missing: {do}" for what, do in wanted.items() if what not in commands]
    everywhere = re.search(r"(?<![\d.])0\.0\.0\.0(?!\d)", commands)  # 10.0.0.0/8 is not meant
    missing += [f"{path}: 0.0.0.0 is every interface: name 127.0.0.1"] if everywhere else []
    yield from ((False, line) for line in missing)
    if not missing:
        yield True, f"{path}: token on, dashboard and MLflow on loopback"


def _security_group(config: dict[str, Any]) -> Iterator[Finding]:
    """Look whether the machines' security groups allow SSH alone, and not from everywhere."""
    if config["provider"]["type"] != "aws":
        return
    configs = [kind.get("node_config", {}) for kind in config.get("available_node_types", {}).values()]
    groups = sorted({group for found in configs for group in found.get("SecurityGroupIds", [])})
    if not groups or any("SecurityGroupIds" not in found for found in configs):
        yield False, "node_config: give every node type SecurityGroupIds, or Ray's own group opens SSH to the world"
        return
    if any(PLACEHOLDER.search(group) for group in groups):
        return
    if importlib.util.find_spec("boto3") is None:
        yield False, "`ray up` needs boto3 to reach AWS: pip install -c constraints.txt boto3"
        return
    import boto3

    if boto3.session.Session().get_credentials() is None:
        yield False, "there are no AWS credentials here, `ray up` needs them: aws configure"
        return
    try:
        found = boto3.client("ec2", config["provider"]["region"]).describe_security_groups(GroupIds=groups)
    except Exception as error:  # botocore's many
        yield False, f"security group {', '.join(groups)}: {first_line(error)[:150]}"
        return
    yield from rules(found["SecurityGroups"])


def rules(groups: list[dict[str, Any]]) -> Iterator[Finding]:
    """Look whether groups, as EC2 describes them, allow only port 22 from outside, from single addresses."""
    for group in groups:
        wide = []
        for rule in group["IpPermissions"]:
            sources = [r["CidrIp"] for r in rule.get("IpRanges", [])]
            sources += [r["CidrIpv6"] for r in rule.get("Ipv6Ranges", [])]
            ports = f"{rule.get('FromPort', 'all')}-{rule.get('ToPort', 'all')}"
            wide += [f"{ports} from {s}" for s in sources if ports != "22-22" or not _is_single(s)]
            wide += [f"{ports} from list {found['PrefixListId']}" for found in rule.get("PrefixListIds", [])]
            others = {pair["GroupId"] for pair in rule.get("UserIdGroupPairs", [])} - {group["GroupId"]}
            wide += [f"{ports} from group {other}" for other in sorted(others)]
        name = f"security group {group['GroupId']}"
        if wide:
            yield False, f"{name}: remove {', '.join(wide)}; what suffices is 22 from your address/32 and all of itself"
        else:
            yield True, f"{name}: from outside SSH alone, from single addresses"


def _is_single(source: str) -> bool:
    return ipaddress.ip_network(source, strict=False).num_addresses == 1
