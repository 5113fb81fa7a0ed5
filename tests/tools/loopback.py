"""cluster/local.yaml for real, on loopback: run as root in pid, mount and network namespaces of its own.

python tests/tools/loopback.py FOLDER VENV

FOLDER is scratch. The transcript goes to standard output, the figures to FOLDER/result.json. 127.0.0.1 is the head,
127.0.0.2 the worker.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from apart import left, run, settle
from buckets import Server, serve
from commands import ROOT, TINY
from patience import rest

SOURCE = "job.py"
LINE = 'folder, cache = local(payload["folder"]), local(payload["cache"])'
SSHD = """Port 2223
ListenAddress {address}
HostKey {place}/hostkey
PidFile none
AuthorizedKeysFile {place}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
StrictModes no
MaxStartups 50
SetEnv {environment}
"""
# ssh takes ~ from the password file, not from $HOME
SSH = """#!/bin/bash
words=() last=
for word; do [ "$last" = -i ] && word=${{word/#\\~/$HOME}}; words+=("$word"); last=$word; done
exec /usr/bin/ssh -F {place}/ssh_config "${{words[@]}}"
"""
NODES = {"head": "127.0.0.1", "worker": "127.0.0.2"}
SECRET = "known-to-the-machines-alone"


@contextmanager
def ssh_server(place: Path, store: Server) -> Iterator[None]:
    """On loopback, its own port, keys to be thrown away; `ssh` on PATH finds it.

    A node's environment has the keys of the object storage, as an instance profile would give them.
    """
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    Path("/run/sshd").mkdir()
    for key in ("hostkey", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / key], check=True)
    (place / "ssh_config").write_text("Host 127.0.0.*\n  Port 2223\n")
    (place / "bin").mkdir()
    (place / "bin" / "ssh").write_text(SSH.format(place=place))
    (place / "bin" / "ssh").chmod(0o755)
    servers = []
    for node, address in NODES.items():
        config = place / f"sshd_{node}"
        own = {"HOME": f"{place}/{node}"} | store.machine(place / node / "mirrors", 10)
        own["AWS_SECRET_ACCESS_KEY"] = SECRET
        environment = " ".join(f"{name}={value}" for name, value in own.items())
        config.write_text(SSHD.format(place=place, environment=environment, address=address))
        servers.append(subprocess.Popen(["/usr/sbin/sshd", "-D", "-f", config, "-E", place / "sshd.log"]))
    try:
        yield
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def settings(place: Path, venv: Path) -> Path:
    """local.yaml filled in. What it would download is here already; two nodes on one host need names and no `ray stop`
    on the second, which would stop the first."""
    text = (place / "project" / "cluster" / "local.yaml").read_text()
    filled = {"<HEAD>": "127.0.0.1", "<WORKER>": "127.0.0.2", "<USER>": "root", "<KEY_FILE>": str(place / "key")}
    for name, value in (filled | {"<SHARED>": str(place / "shared"), "DASGM_GPUS=1": "DASGM_GPUS=0"}).items():
        text = text.replace(name, value)
    config: dict[str, Any] = yaml.safe_load(text)
    commands = [c for c in config["setup_commands"] if "uv" not in c]
    paths = f"echo 'export PATH={place}/bin:$PATH PYTHONPATH=$HOME/project' >> ~/.dasgm.sh"
    config["setup_commands"] = [f"ln -sfn {venv} ~/venv", *commands, paths]
    small = "--object-store-memory=200000000"
    for part, address in NODES.items():
        starting = config[f"{part}_start_ray_commands"]
        here = f"{small} --node-ip-address={address} --"
        config[f"{part}_start_ray_commands"] = [
            c.replace("ray start --", f"ray start {here}") for c in starting if part == "head" or c != "ray stop"
        ]
    path = place / "project" / "cluster" / "local.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False, width=1000))
    return path


def main(place: Path, venv: Path) -> None:
    settle(place, venv, "client")
    for name in (*NODES, "shared"):
        (place / name).mkdir()
    mounts = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())["file_mounts"]
    for name in (name for name in mounts.values() if not name.startswith("~")):
        source, copy = ROOT / name, place / "project" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    os.environ.update(PYTHONPATH=str(place / "project"), RAY_UP_enable_autoscaler_v2="0")
    os.chdir(place / "project")
    with contextmanager(serve)() as store, ssh_server(place, store):
        result = cluster(settings(place, venv), place, store)
    (place / "result.json").write_text(json.dumps(result | {"left": left()}))


def cluster(config: Path, place: Path, store: Server) -> dict[str, Any]:
    """The whole story of the page; what was seen."""
    yaml_file, result = str(config), {}
    runs = place / "shared" / "two words"
    words = [*TINY, "--gan=none", "--num-trials=2", "--storage", f"'{runs}'"]  # quoted twice: `ray submit` takes one
    run("ray", "get-auth-token", "--generate")
    run("chmod", "600", f"{place}/client/.ray/auth_token")
    runs.mkdir()
    run("python", "cluster/doctor.py", yaml_file, "--storage", str(runs))
    run("ray", "up", "-y", yaml_file, RAY_UP_enable_autoscaler_v2="0")
    rest(20)
    result["status"] = run("ray", "exec", yaml_file, "until ray status | grep slot; do sleep 2; done")
    result["first"] = run("ray", "submit", yaml_file, "tuning/sweep.py", "--", *words, "--name", "before")
    stored = [*TINY, "--gan=none", "--num-trials=1", "--storage=s3://bucket/runs", "--name=stored"]
    result["third"] = run("ray", "submit", yaml_file, "tuning/sweep.py", "--", *stored)
    result["stored"] = {name: store.read(name).decode("latin-1") for name in store.names("")}
    source = config.parent / SOURCE
    source.write_text(source.read_text().replace(LINE, f'{LINE}\n    (folder / "changed").touch()'))
    run("ray", "rsync-up", yaml_file, "cluster/", "~/project/cluster/")
    result["second"] = run("ray", "submit", yaml_file, "tuning/sweep.py", "--", *words, "--name", "after")
    result["again"] = run("ray", "submit", yaml_file, "tuning/sweep.py", "--", "--follow", "before")
    result["changed"] = sorted(str(path.relative_to(runs)) for path in runs.glob("*/*/changed"))
    result["listening"] = listening()
    result["revealed"] = revealed(place)
    run("ray", "exec", yaml_file, "pkill -f '[m]lflow.server'")
    run("ray", "down", "-y", yaml_file)
    return result


def revealed(place: Path) -> list[str]:
    """Files that have the nodes' secret key in them, but for what gives it to the nodes."""
    files = (path for path in place.rglob("*") if path.is_file() and not path.is_symlink() and path.parent != place)
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def listening() -> dict[str, list[str]]:
    """Address: programs that listen there."""
    found: dict[str, set[str]] = {}
    for process in psutil.process_iter():
        try:
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    name = f"{connection.laddr.port} {' '.join(process.cmdline())[:80]}"
                    found.setdefault(connection.laddr.ip, set()).add(name)
        except psutil.Error:
            pass
    return {ip: sorted(names) for ip, names in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
