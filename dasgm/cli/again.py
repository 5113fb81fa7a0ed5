"""The command line of this process, as its user typed it: what to run again to continue. Free of torch."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from dasgm.store.files import shell_line

PROGRAM = "DASGM_PROGRAM"
"""Set for a process that runs the user's command elsewhere, such as a cluster's job: `program` there, as JSON."""
_outer: ContextVar[str] = ContextVar("outer", default="")


def program(words: Sequence[str], usual: str) -> list[str]:
    """How this process was started, without its arguments, as in ["python", "/some/path/tuning/sweep.py"].

    Args:
        words: the arguments that the command was given.
        usual: the command, or its file in a checkout, for where it was called from Python with arguments of its own.
    """
    if handed := os.environ.get(PROGRAM):
        return [str(word) for word in json.loads(handed)]
    started = sys.orig_argv[: len(sys.orig_argv) - len(words)]
    if list(words) != sys.argv[1:] or [*started, *words] != sys.orig_argv:
        return script(usual)
    return _script(Path(started[1])) if len(started) == 2 and _starts(started[0], Path(started[1])) else started


def script(usual: str) -> list[str]:
    """A command of ours by its usual name; a file of a checkout (cluster/evaluate.py) elsewhere by its module."""
    if not usual.endswith(".py"):
        return [usual]
    return ["python", usual] if Path(usual).is_file() else ["python", "-m", usual[:-3].replace("/", ".")]


def called(words: Sequence[str], usual: str) -> str:
    """The whole command, for a shell: a line to copy. Arguments as in `program`."""
    return _outer.get() or shell_line([*program(words, usual), *words])


@contextmanager
def part_of(command: str) -> Iterator[None]:
    """Inside, what another command of ours does is a part of `command`, which continues it."""
    token = _outer.set(command)
    try:
        yield
    finally:
        _outer.reset(token)


def _starts(python: str, script: Path) -> bool:
    """Whether `script` is a program that starts this Python itself: the kernel puts that before the script's path."""
    try:
        with open(script, "rb") as file:
            return os.access(script, os.X_OK) and os.fsencode(python) in file.read(1000)
    except OSError:
        return False


def _script(path: Path) -> list[str]:
    """By its name alone where that finds it on a shell's PATH, else by its path, with the slash that a shell needs."""
    found = shutil.which(path.name)
    return [path.name if found and os.path.samefile(found, path) else os.path.join(path.parent, path.name)]
