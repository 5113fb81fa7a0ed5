"""Find what would fail before it costs anything: python cluster/doctor.py [cluster/gpu.yaml | cluster/local.yaml].

Each line says that a check passed, or what to do, or what could not be checked and why. The exit code is 1 if a check
fails. Nothing is started or rented. Each machine over SSH is asked once; files that are written to its storage for that
are removed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.launcher import PLACEHOLDER, Finding, look_at_yaml, read_yaml, schema
from cluster.machines import look_at_machines
from dasgm.cli.arguments import Parser, fail
from dasgm.plugins import key_of, keys, nearest
from dasgm.presets import preset, with_dataset
from dasgm.store import replica
from dasgm.store import run as runs
from dasgm.store.bucket import checked, lies_at, local
from dasgm.store.files import first_line

LOOPBACK = ("127.", "::1", "::ffff:127.")
TOKEN = "~/.ray/auth_token"


# ------------------------------------------------------------------------------------------------ this machine


def pinned(root: Path, config: dict[str, Any] | None) -> dict[str, str]:
    """Versions that every node gets: of Ray and torch from constraints.txt, of Python from the YAML file."""
    path = root / "constraints.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    found = {line.partition("==")[0]: line.partition("==")[2] for line in lines}
    commands = "\n".join((config or {}).get("setup_commands", []))
    python = re.search(r"--python (3\.\d+\.\d+)", commands)
    return {k: found[k] for k in ("ray", "torch") if k in found} | ({"python": python[1]} if python else {})


def look_at_versions(pins: dict[str, str]) -> Iterator[Finding]:
    """Compare the versions here with the nodes'. Only Ray's must agree: this machine uses SSH and HTTP alone."""
    here = {name: importlib.metadata.version(name) for name in ("ray", "torch")}
    here["python"] = platform.python_version()
    if "ray" in pins and pins["ray"] != here["ray"]:
        yield False, f"Ray {here['ray']} here, {pins['ray']} on the nodes: pip install -c constraints.txt ."
    said = ", ".join(f"{name} {here[name]}" for name in here)
    others = [f"{name} {pins[name]}" for name in pins if name != "ray" and pins[name].split("+")[0] != here[name]]
    differ = f"; nodes have {', '.join(others)}, which is well as long as the driver runs on the head" if others else ""
    yield True, f"versions here: {said}{differ}"


def look_at_tools() -> Iterator[Finding]:
    for tool in ("ssh", "rsync"):
        found = shutil.which(tool)
        yield (True, f"{tool}: {found}") if found else (False, f"{tool} is missing: install it, `ray up` needs it")


def look_at_storage(storage: str) -> Iterator[Finding]:
    """Write, read and remove a file in the storage of runs."""
    try:
        path = local(storage).expanduser().absolute()
        if lies_at(path) == str(path):
            made = not path.exists()
            runs.ensure_writable(path)
            if made:
                path.rmdir()
        replica.ensure_writable(path)
        yield True, f"storage {storage}: written and read"
    except ValueError as error:
        yield False, str(error)


def look_at_gpus() -> Iterator[Finding]:
    from cluster.connection import visible_gpus

    seen, listed = visible_gpus(), 0
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
        listed = done.stdout.count("GPU ")
    if listed > seen:
        yield False, f"nvidia-smi lists {listed} GPUs, torch sees {seen}: install a torch for the driver's CUDA version"
    else:
        yield True, f"GPUs here: {seen or 'none, so searches here run on the CPU'}"


def look_at_data(dataset: str, data_dir: str | None) -> Iterator[Finding]:
    if dataset not in keys("data"):
        yield False, f"data set {dataset!r} is not known{nearest(dataset, keys('data'))}"
    elif data_dir is None and dataset != "digits":
        yield None, f"data set {dataset}: without --data-dir it is not looked for here (CIFAR is downloaded)"
    else:
        config = with_dataset(preset("quickstart").config, dataset).data
        try:
            yield True, f"data set {key_of(config)}: {config.load(data_dir, 'cpu').describe()}"
        except (ValueError, OSError) as error:
            yield False, first_line(error)


def look_at_ports() -> Iterator[Finding]:
    """Look for sockets of Ray's processes on this machine that listen beyond loopback."""
    import ray  # noqa: F401  (it brings psutil)

    import psutil  # isort: skip

    ports = set()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            ours = any("/ray/" in word or word.startswith("ray::") for word in words[:3])
            connections = process.net_connections("inet") if ours else []
        except psutil.Error:  # gone, or another user's
            continue
        listening = (c.laddr for c in connections if c.status == psutil.CONN_LISTEN)
        ports |= {laddr.port for laddr in listening if not laddr.ip.startswith(LOOPBACK)}
    if ports:
        shown = ", ".join(map(str, sorted(ports)[:12])) + (f" and {len(ports) - 12} more" if len(ports) > 12 else "")
        yield False, f"Ray listens on every interface at {shown}: let a firewall shut them to all but the cluster"
    else:
        yield True, "Ray listens nowhere on this machine beyond loopback"


def look_at_token(needed: bool) -> Iterator[Finding]:
    path = Path(TOKEN).expanduser()
    if not path.exists():
        make = f"ray get-auth-token --generate && chmod 600 {TOKEN}"
        yield (False, f"{TOKEN} is missing: {make}") if needed else (True, f"no {TOKEN}: a private Ray makes its own")
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield False, f"{TOKEN} can be read by others: chmod 600 {TOKEN}"
    else:
        yield True, f"{TOKEN}: for you alone"


# ------------------------------------------------------------------------------------------------ the command


def look(options: argparse.Namespace) -> Iterator[Finding]:
    """All checks, in the order in which a command would fail."""
    config: dict[str, Any] | None = None
    root = Path(__file__).parents[1]
    if options.yaml:
        yield from look_at_yaml(options.yaml)
        with suppress(ValueError):  # said above
            _, found = read_yaml(options.yaml)
            config = None if schema(found) else found
    pins = pinned(root, config)
    yield from look_at_versions(pins)
    yield from look_at_tools()
    yield from look_at_token(needed=options.yaml is not None)
    yield from look_at_ports()
    if config is None:  # this machine is checked, or the file cannot be used
        if not options.yaml:
            yield from look_at_storage(options.storage or "runs")
        yield from look_at_gpus()
        yield from look_at_data(options.dataset, options.data_dir)
        return
    yield from look_at_key(config)
    yield from look_at_cluster(config, pins, options.data_dir, options.storage)
    yield from look_at_gpus()
    if not options.data_dir:
        yield from look_at_data(options.dataset, None)


def look_at_key(config: dict[str, Any]) -> Iterator[Finding]:
    key = config.get("auth", {}).get("ssh_private_key", "")
    if key and not PLACEHOLDER.search(key) and not Path(key).expanduser().is_file():
        yield False, f"auth.ssh_private_key {key}: there is no such file: name yours, or ssh-keygen -f {key}"


def look_at_cluster(
    config: dict[str, Any], pins: dict[str, str], data: str | None, storage: str | None
) -> Iterator[Finding]:
    """Look at data and storage that the machines of a cluster have, not this one."""
    scheme, mark, _ = (storage or "").partition("://")
    folder = "" if not storage or mark and scheme != "file" else str(local(storage))
    if config["provider"]["type"] == "local":
        if not storage:
            yield None, "storage: name it with --storage"
        elif not folder:  # a path is looked at from the machines
            for good, line in look_at_storage(storage):
                yield good or None, f"from here only, every machine needs its keys: {line}"
        if PLACEHOLDER.search(str(config["provider"]) + str(config.get("auth"))):
            yield None, "the machines: the file does not name them yet"
        else:
            yield from look_at_machines(config, pins, data or "", folder)
        return
    mounted = re.findall(r"mountpoint -q (\S+)", "\n".join(config.get("setup_commands", [])))
    if not storage:
        yield None, "storage: name it with --storage"
    elif not folder:
        yield from look_at_storage(storage)
    elif any(Path(folder).is_relative_to(place) for place in mounted):
        yield None, f"storage {storage}: on a file system that only the machines have"
    else:
        yield False, f"storage {storage}: a machine's own disk goes with it; name s3://BUCKET/PREFIX"
    if data:
        yield (
            None,
            f"data in {data}: every machine needs it there; {' and '.join(mounted) or 'nothing'} is on all of them",
        )


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> int:
    parser = Parser(prog="python cluster/doctor.py", description=__doc__)
    parser.add_argument(
        "yaml",
        nargs="?",
        type=Path,
        metavar="YAML",
        help="YAML file that describes a cluster. By default this machine is checked.",
    )
    parser.add_argument(
        "--storage",
        help="Folder for runs: a path, or an address such as s3://BUCKET/PREFIX (default: runs, on this machine).",
    )
    parser.add_argument("--dataset", default="digits", help="Name of the data set (default: digits).")
    parser.add_argument(
        "--data-dir",
        help="Folder with the data set's files, the same on every machine. By default no files are looked for.",
    )
    options = parser.parse_args(arguments)
    if options.yaml and not options.yaml.is_file():
        fail(f"{options.yaml}: there is no such file")
    if "://" in (options.storage or ""):
        try:
            checked(options.storage)
        except ValueError as error:
            fail(error)
    failed = False
    for good, line in look(options):
        failed |= good is False
        say(f"{ {True: 'ok', False: 'FAIL', None: 'not looked at'}[good]:<13} {line}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
