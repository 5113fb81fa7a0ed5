"""The machines of a local cluster, asked over SSH for what they need to have."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.launcher import Finding

PROBE = """
for tool in bash rsync uptime curl; do command -v $tool > /dev/null || echo "missing $tool"; done
echo "gpus $(nvidia-smi -L 2> /dev/null | grep -c ^GPU)"
test -x ~/venv/bin/python && ~/venv/bin/python -c 'import platform, importlib.metadata as m
print("python", platform.python_version())
for name in ("ray", "torch"): print(name, m.version(name))' 2> /dev/null
for path in {paths}; do test -e "$path" || echo "absent $path"; done
true
"""
STORED = """
test ! -e {mark} || echo "shared yes"
touch {mark}-$$ 2> /dev/null && rm {mark}-$$ && echo "written yes"
true
"""


@dataclass(frozen=True)
class Machine:
    """What a machine of a local cluster answered."""

    host: str
    missing: list[str]
    """Tools."""
    absent: list[str]
    """Paths that do not exist there."""
    facts: dict[str, str]
    """Versions of python, ray and torch, as far as they are installed; the number of `gpus`; whether the storage can
    be `written`, and is `shared`: whether the head's mark is in it."""

    @staticmethod
    def of(host: str, answer: Sequence[tuple[str, str]]) -> Machine:
        missing, absent = ([value for key, value in answer if key == kind] for kind in ("missing", "absent"))
        return Machine(host, missing, absent, dict(answer))

    def wrong_tools(self) -> Iterator[str]:
        yield from (f"install {tool}" for tool in self.missing)

    def wrong_paths(self) -> Iterator[str]:
        yield from (f"{path} is not there: every machine needs it at this path" for path in self.absent)

    def wrong_storage(self, storage: str, head: str, marked: bool, user: str) -> Iterator[str]:
        """`marked`: the head has left its mark in the storage."""
        if not storage or storage in self.absent:
            return
        if "written" not in self.facts:
            yield f"storage {storage} cannot be written: give {user} the right to"
        elif marked and "shared" not in self.facts:
            yield f"storage {storage} is not the one of {head}: mount one folder on all machines, as by NFS"

    def wrong_versions(self, pins: dict[str, str]) -> Iterator[str]:
        others = [f"{name} {self.facts[name]} for {pin}" for name, pin in pins.items() if self.differs(name, pin)]
        if others:
            yield f"has {', '.join(others)}: remove ~/venv there, `ray up` makes it anew"

    def differs(self, name: str, pin: str) -> bool:
        """Whether a version there is another one; what is not installed is no error."""
        return self.facts.get(name, pin) != pin

    def wrong_gpus(self, promised: float) -> Iterator[str]:
        """`promised`: GPUs of each worker, as the YAML has it."""
        if promised and self.facts.get("gpus") == "0":
            yield "nvidia-smi lists no GPU, and the YAML exports DASGM_GPUS: install the driver or set DASGM_GPUS=0"

    def well(self, pins: dict[str, str], stored: str) -> str:
        """The line of a machine that passes; `stored` says what is known of the storage."""
        installed = " ".join(f"{key} {self.facts[key]}" for key in pins if key in self.facts)
        gpus = self.facts.get("gpus", 0)
        return (
            f"{self.host}: reached, has rsync and the rest, {gpus} GPUs, {installed or 'nothing installed yet'}{stored}"
        )


def look_at_machines(
    config: dict[str, Any], pins: dict[str, str], data: str = "", storage: str = ""
) -> Iterator[Finding]:
    """Ask every machine of a local cluster for tools, versions, GPUs, data, and a storage that all share.

    Args:
        config: the cluster's YAML file.
        pins: the versions that every machine is to have.
        data: a path that every machine is to have; empty: it is not looked for.
        storage: the same of the storage. The head leaves a mark there, which the others have to see.
    """
    provider, auth = config["provider"], config.get("auth", {})
    head, workers = provider["head_ip"], provider["worker_ips"]
    mark = shlex.quote(f"{storage}/.dasgm-{uuid.uuid4().hex}")
    question, promised = _question(data, storage, mark), _gpus_of_a_worker(config)
    marked = False
    for host in dict.fromkeys([head, *workers]):
        leave = f"touch {mark} 2> /dev/null\n" if storage and host == head else ""
        answer = _ask(host, auth, leave + question)
        if isinstance(answer, str):
            yield False, f"{host}: {answer}"
            continue
        machine = Machine.of(host, answer)
        marked |= host == head and "shared" in machine.facts
        wrong = [
            *machine.wrong_tools(),
            *machine.wrong_paths(),
            *machine.wrong_storage(storage, head, marked, auth.get("ssh_user")),
            *machine.wrong_versions(pins),
            *machine.wrong_gpus(promised if host in workers else 0),
        ]
        yield from ((False, f"{host}: {line}") for line in wrong)
        if not wrong:
            shared = " and shared" if marked and host != head else ""
            yield True, machine.well(pins, f", {storage} is written{shared}" if storage else "")
    if marked:
        _ask(head, auth, f"rm -f {mark}")


def _question(data: str, storage: str, mark: str) -> str:
    """The script that a machine answers; `mark`: the path of the head's mark in the storage."""
    question = PROBE.replace("{paths}", " ".join(shlex.quote(path) for path in (data, storage) if path))
    return question + (STORED.replace("{mark}", mark) if storage else "")


def _gpus_of_a_worker(config: dict[str, Any]) -> float:
    """DASGM_GPUS, as the YAML exports it; 0 without it."""
    said = re.search(r"DASGM_GPUS=([\d.]+)", "\n".join(config.get("setup_commands", [])))
    return float(said[1]) if said else 0.0


def _ask(host: str, auth: dict[str, Any], script: str) -> list[tuple[str, str]] | str:
    """The lines of its answer, each a key and a value; or, as text, why there is no answer."""
    key = ["-i", os.path.expanduser(auth["ssh_private_key"])] if "ssh_private_key" in auth else []
    known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]  # as Ray
    command = ["ssh", *key, *known, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", f"{auth.get('ssh_user')}@{host}"]
    try:
        done = subprocess.run([*command, "bash", "-s"], input=script, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no answer over SSH ({type(error).__name__}): is it on, and is its port 22 (else ~/.ssh/config)?"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"`{' '.join(command[-1:])}` is refused ({last[:120]}): check auth in the YAML and the key there"
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in done.stdout.splitlines() if " " in line]
