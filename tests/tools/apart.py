"""Scripts of tests in pid, mount and network namespaces of their own: `ray stop` ends every Ray that it can see."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from commands import ROOT, TOOLS
from patience import now

APART = ["unshare", "--mount", "--pid", "--net", "--fork", "--mount-proc", "--kill-child"]
# what Ray has for all clusters of a machine, whatever $TMPDIR says: here folders of our own are mounted over them
SHARED = (Path("/tmp/ray"), Path(f"/tmp/ray_ssh_{hashlib.sha256(getpass.getuser().encode()).hexdigest()[:10]}"))


@contextmanager
def apart(script: str, *needed: str) -> Iterator[SimpleNamespace]:
    """`python tests/tools/SCRIPT FOLDER VENV` there, as root: the folder as `place`, and what its result.json says."""
    missing = [tool for tool in ("unshare", "ip", "mount", *needed) if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: openssh-server openssh-client rsync iproute2 util-linux)")
    if os.getuid() or subprocess.run([*APART, "true"], capture_output=True).returncode:
        pytest.skip("needs root, and the right to make pid, mount and network namespaces")
    made = [folder for folder in SHARED if not folder.exists()]
    place = Path(tempfile.mkdtemp(prefix="lo-", dir="/tmp"))  # short: Ray's sockets lie below
    ours = ("RAY_", "MLFLOW_", "GLOO_", "TUNE_")  # conftest.py sets them for private Rays, a token too
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"PYTHONPATH": f"{ROOT}:{TOOLS}", "OMP_NUM_THREADS": "1"}
    words = ["sh", "-c", '"$@"; exit $?', "sh"]  # the first process of a pid namespace has to reap the others
    words += [sys.executable, str(TOOLS / script), str(place), sys.prefix]
    done = subprocess.run([*APART, *words], env=environment, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    yield SimpleNamespace(place=place, **json.loads((place / "result.json").read_text()))
    shutil.rmtree(place)
    for folder in made:
        folder.rmdir()  # empty: what was written went to the folder mounted over it


# ------------------------------------------------------------------------------------------------ within the namespaces


def settle(place: Path, venv: Path, home: str) -> None:
    """Loopback, a home, and folders of our own where Ray has some for the whole machine."""
    for name in (home, "tmp", "ray", "ssh"):
        (place / name).mkdir()
    for name, folder in zip(("ray", "ssh"), SHARED, strict=True):
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", place / name, folder], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ.update(
        HOME=str(place / home),
        PATH=f"{place}/bin:{venv}/bin:{os.environ['PATH']}",
        TMPDIR=str(place / "tmp"),
        RAY_TMPDIR=str(place / "tmp"),
        RAY_USAGE_STATS_ENABLED="0",
    )


def run(*words: str, **environment: str) -> str:
    """A command of the page, into the transcript; its output. It has to succeed."""
    shown = " ".join(f"'{word}'" if " " in word else word for word in words)
    print(f"$ {' '.join(f'{k}={v}' for k, v in environment.items())} {shown}".replace("$  ", "$ "), flush=True)
    begun = time.monotonic()
    nothing = subprocess.DEVNULL
    done = subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, stdin=nothing)
    print(done.stdout + done.stderr + f"[{done.returncode}, {time.monotonic() - begun:.0f} s]\n", flush=True)
    assert done.returncode == 0, words
    return done.stdout


def left(seconds: float = 30) -> list[str]:
    """Processes that are still there after `seconds` of this machine; `ssh` keeps a connection for 10."""
    end = now() + seconds
    while True:
        others = [p for p in psutil.process_iter(["cmdline"]) if p.pid not in (1, os.getpid())]
        if not others or now() > end:
            return [" ".join(p.info["cmdline"] or [str(p.pid)]) for p in others]
        time.sleep(1)
