"""Commands of ours that begin at once: forked from a process that has imported torch and what else takes long.

For tests of what a command says, writes and ends with. Those of a start, of what is imported and of Ray take
`commands.start`, a new interpreter.

python tests/tools/warm.py SOCKET      is the process that they are forked from; it ends with its standard input
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import environment_with, two_cpus
from leftovers import marked

PRELOADED = ("dasgm.cli.search", "dasgm.cli.pretrain", "dasgm.cli.evaluate", "dasgm.cli.verbs", "dasgm.jobs.estimate")
PRELOADED += ("dasgm.jobs.search", "dasgm.pages.report", "dasgm.pages.figures", "matplotlib.pyplot", "pyarrow.parquet")
PRELOADED += ("tuning.sweep", "tuning.reproduce", "cluster.search", "cluster.evaluate", "optuna", "tyro")


class Command:
    """One of them, as a `subprocess.Popen` with text on pipes."""

    def __init__(self, server: str, words: tuple[str, ...], cwd: Path | None, environment: dict[str, str]):
        self.args, self.returncode = words, None
        self._said = [tempfile.TemporaryFile() for _ in range(2)]
        asked = {"words": words, "cwd": str(cwd or Path.cwd()), "environment": environment}
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(server)
        socket.send_fds(self._connection, [b"\n"], [file.fileno() for file in self._said])
        self._answers = self._connection.makefile("rw")
        print(json.dumps(asked), file=self._answers, flush=True)
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            self.returncode = int(self._answers.readline())
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        if self.wait(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, *map(self._read, self._said))
        self._connection.close()
        out, err = (self._read(file).decode() for file in self._said)
        return out, err

    @staticmethod
    def _read(file: Any) -> bytes:
        return os.pread(file.fileno(), 2**30, 0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Warm:
    """The process that commands are forked from."""

    def __init__(self, folder: str, config: pytest.Config):
        self._place, self._config = f"{folder}/socket", config
        self._process = self._begin()
        self._begun: list[Command] = []

    def _begin(self) -> subprocess.Popen[bytes]:
        Path(self._place).unlink(missing_ok=True)
        words, pipe = [sys.executable, __file__, self._place], subprocess.PIPE
        with marked(self._config, "", "the process that commands are forked from"):  # not the test's that needs it
            process = subprocess.Popen(words, env=environment_with(), stdin=pipe, stdout=pipe, start_new_session=True)
        assert process.stdout and process.stdout.readline() == b"up\n"
        return process

    def start(self, *words: str, cwd: Path | None = None, **environment: str) -> Command:
        """`python WORDS`, with the environment of `commands.start`."""
        if (code := self._process.poll()) is not None:  # something killed it: the other tests need not fail for that
            output = getattr(self._config, "workeroutput", {})  # pytest-xdist does not show a worker's warnings
            output.setdefault("warm", []).append(f"ended with {code}; then came {' '.join(words)[:200]}")
            self._process = self._begin()
        command = Command(self._place, words, cwd, environment_with(**environment))
        self._begun.append(command)
        return command

    def end(self) -> None:
        """Kill what still runs."""
        while self._begun:
            command = self._begun.pop()
            command.kill()
            command.wait()

    def stop(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="session")
def warm_process(pytestconfig: pytest.Config) -> Iterator[Warm]:
    """One for each process that tests; it is there once a test needs it."""
    with tempfile.TemporaryDirectory(prefix="w-") as folder:  # not pytest's: the path of a socket has to be short
        process = Warm(folder, pytestconfig)
        yield process
        process.stop()


@pytest.fixture
def warm(warm_process: Warm) -> Iterator[Warm]:
    """A command that a test leaves is killed as the test ends."""
    yield warm_process
    warm_process.end()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say what else would not be seen."""
    for said in getattr(node, "workeroutput", {}).get("warm", []):
        print(f"\n{node.gateway.id}: the process that commands are forked from {said}")


# ----------------------------------------------------------------------------------------- the process, and its forks


def _serve(place: str) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a fork's first collection would copy all pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    print("up", flush=True)
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            _attend(connection)
            os._exit(0)
        connection.close()
    os._exit(0)  # without the seconds in which the interpreter takes torch apart


def _attend(connection: socket.socket) -> None:
    """Fork a command, and say its number and its exit code."""
    _, files, _, _ = socket.recv_fds(connection, 1, 2)
    talk = connection.makefile("rw")
    asked = json.loads(talk.readline())
    if not (pid := os.fork()):
        connection.close()
        os._exit(_run(asked, files))
    with suppress(BrokenPipeError):
        print(pid, file=talk, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=talk, flush=True)


def _run(asked: dict[str, Any], files: list[int]) -> int:
    """Be `python WORDS`; its exit code."""
    os.setsid()
    two_cpus()
    for file, number in zip((os.open(os.devnull, os.O_RDONLY), *files), range(3), strict=True):
        os.dup2(file, number)
    before = os.environ["PYTHONPATH"].split(":")
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    atexit._clear()  # what the process it is forked from has to do at its end
    kind, *words = asked["words"]
    sys.orig_argv = [sys.executable, kind, *words]
    first = os.getcwd() if kind in ("-m", "-c") else str(Path(kind).resolve().parent)
    others = [path for path in sys.path[1:] if path not in before]
    sys.path[:] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(":")), *others]
    code = 0
    try:
        if kind == "-m":
            sys.argv = words
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *words[1:]]
            exec(words[0], {"__name__": "__main__"})
        else:
            sys.argv = [kind, *words]
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code & 0xFF


if __name__ == "__main__":
    _serve(sys.argv[1])
