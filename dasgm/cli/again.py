"""The command line of this process, as its user typed it: what to run again to continue. Free of torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

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
    return _outer.get() or line([*program(words, usual), *words])


@contextmanager
def part_of(command: str) -> Iterator[None]:
    """Inside, what another command of ours does is a part of `command`, which continues it."""
    token = _outer.set(command)
    try:
        yield
    finally:
        _outer.reset(token)


def line(words: Sequence[str | Path]) -> str:
    """Words as one printable line that bash and zsh read as the same words."""
    return " ".join(map(_quoted, map(str, words)))


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


def _quoted(word: str) -> str:
    """As shlex does; what cannot be printed as its bytes: a newline, a terminal's escape, a name that is no UTF-8."""
    if word.isprintable():
        return shlex.quote(word)
    plain = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t"}
    octal = "".join(plain.get(c) or (c if c.isprintable() else _octal(c)) for c in word)
    return f"$'{octal}'"


def _octal(character: str) -> str:
    """Always three digits: what follows is no part of it."""
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(character))
