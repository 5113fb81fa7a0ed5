"""Files that anybody may have written: read within bounds, refused in one line, shown without harm; ours, written whole
or not at all. Free of torch."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST = 16 * 2**20  # bytes of a text file; read as JSON it may take 25 times as much memory
DEEPEST = 32  # levels of nested JSON: what walks through it calls itself as often


def contents(path: Path, most: int = LARGEST) -> bytes:
    """All of a regular file of at most `most` bytes, in no more memory than that takes.

    Raises:
        OSError: it cannot be read.
        ValueError: a device, a pipe, or a file too large to be what it should.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("a folder, where a file is expected")
    if not stat.S_ISREG(mode):
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"larger than {most // 2**20} MiB, which no such file is")
        return file.read(size)  # memory is taken for what is asked for, not for what is there


def text(path: Path, most: int = LARGEST) -> str:
    """The same as text, without a byte-order mark; ValueError where it is neither UTF-8 nor, by its mark, UTF-16."""
    found = contents(path, most)
    try:
        return found.decode("utf-16" if found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("not a text file") from None


def version(path: Path) -> tuple[int, int]:
    """Tells whether a file has changed: its time, in nanoseconds, and size; (0, 0): there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def plain(json_text: str) -> Any:
    """JSON as plain data; a whole number beyond 64 bits becomes a float, as other readers of JSON have it.

    Raises:
        ValueError: no JSON, or nested more than `DEEPEST` levels.
    """
    try:
        found = json.loads(json_text, parse_int=_whole)
    except RecursionError:
        found = None
        deep = True
    else:
        deep = _deeper(found, DEEPEST)
    if deep:
        raise ValueError(f"nested more than {DEEPEST} levels")
    return found


def _whole(digits: str) -> int | float:
    number = int(digits) if len(digits) < 25 else float(digits)
    return number if abs(number) < 2**63 else float(number)


def _deeper(value: Any, levels: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(one, levels - 1) for one in inside)


def write_atomic(path: Path, content: str | bytes, microseconds: int | None = None) -> None:
    """Write under a temporary name in the same folder, then rename: a reader sees the old file or the new one.

    `microseconds`: the time that the file then has, by default this moment.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if microseconds is not None:
            os.utime(temporary, ns=(1000 * microseconds,) * 2)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; the error's type where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def gist(error: BaseException) -> str:
    """What an error tells a user; of the system's its file and reason, without a number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    files = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return ": ".join([*([" -> ".join(files)] if files else []), reason(error)])


def reason(error: Exception) -> str:
    """Why something failed, in a few words; of the system's errors without their number and file."""
    if isinstance(error, FileExistsError):  # folders alone are made where something may exist already
        return "it is a file, expected a folder"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)[:100]


def printable(line: str) -> str:
    """`line` without what a terminal would obey or cannot show: control and escape codes as Python writes them."""
    return line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def counted(n: int, noun: str) -> str:
    """'1 epoch', '1,200 epochs'."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def cut(line: str, most: int = 240) -> str:
    """`line` in at most `most` characters: the middle of a longer one is left out."""
    return line if len(line) <= most else f"{line[: most // 2 - 3]}[...]{line[-(most // 2) + 2 :]}"


def short(value: Any, most: int = 60) -> str:
    """`value` as Python writes it, which shows odd characters escaped, cut to `most` characters."""
    try:
        found = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, too many brackets
        found = type(value).__name__
    return cut(found, most)


def shown(value: Any) -> Any:
    """Plain data with every text in it made printable."""
    if isinstance(value, dict):
        return {printable(key): shown(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shown(one) for one in value]
    return printable(value) if isinstance(value, str) else value


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait for, then hold, the lock at `path`: what is computed once is computed by the first who comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def shell_line(words: Sequence[str | Path]) -> str:
    """Words as one printable line that bash and zsh read as the same words."""
    return " ".join(map(_quoted, map(str, words)))


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
