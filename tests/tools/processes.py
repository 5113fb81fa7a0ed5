"""Functions of a test's file in processes of their own, that begin at once: warm.py's commands.

python processes.py FILE FUNCTION RANK ARGUMENTS      calls one: such a file is no module that a process could import
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from warm import Command, Warm


def begin(warm: Warm, function: Callable[..., None], *args: Any, nprocs: int) -> list[Command]:
    """`function(rank, *args)` in so many processes, for a function at the top level of a file and numbers and texts."""
    words = [__file__, inspect.getfile(function), function.__name__]
    return [warm.start(*words, str(rank), json.dumps(args)) for rank in range(nprocs)]


def spawn(warm: Warm, function: Callable[..., None], *args: Any, nprocs: int) -> None:
    """The same until all have ended. AssertionError: one of them failed, with what it said; the others are ended."""
    waiting = begin(warm, function, *args, nprocs=nprocs)
    while waiting:
        for process in [process for process in waiting if process.poll() is not None]:
            assert process.returncode == 0, (process.returncode, *process.communicate())
            waiting.remove(process)
        time.sleep(0.02)


def _call(path: str, name: str, rank: str, args: str) -> None:
    spec = importlib.util.spec_from_file_location("spawned", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(int(rank), *json.loads(args))


if __name__ == "__main__":
    _call(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # a process group's threads may still wait
