"""Hostile files for tests: values, JSON documents and bytes that a fuzzer damages, and what a command may answer."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from dasgm.cli import main as cli

TERMINAL = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202e"  # title, colour, erasing (in 8 bits), right to left
NAMES = ("", "a", "key", "x\ny", TERMINAL, "[/red]", "../../etc/passwd", "\ud800", "none", "cifar10", "long" * 30_000)
NUMBERS = (None, True, -1, 0, 1, 2**31, 2**63, 10**20, 10**400, -0.5, 1e-320, 1e308, float("nan"), float("inf"))
VALUES: SearchStrategy[Any] = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(NAMES),
    st.text(max_size=8),
    st.sampled_from([[], {}, [[]] * 5, {"key": {}}, [1, "a", None], {TERMINAL: TERMINAL}]),
)
DEEP = st.sampled_from([20, 31, 33, 100, 900, 970, 990, 1000, 100_000])


@st.composite
def document(draw: Any, valid: Any) -> str:
    """JSON of `valid`, some of it replaced, left out or added to; now and then deep, or no JSON."""
    found = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        place, key = _place(draw, found)
        if place is None:
            found = copy.deepcopy(draw(VALUES))
            break
        change = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add", "deepen")))
        if change == "replace":
            place[key] = copy.deepcopy(draw(VALUES))
        elif change == "remove":
            del place[key]
        elif change == "deepen":
            place[key] = {"deep": place[key]}
        elif isinstance(place, dict):
            place[draw(st.sampled_from(NAMES))] = copy.deepcopy(draw(VALUES))
        else:
            place.insert(key, copy.deepcopy(draw(VALUES)))
    text = json.dumps(found)
    if draw(st.integers(0, 9)) == 0:
        depth = draw(DEEP)
        text = draw(st.sampled_from(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth)))
    return text


def _place(draw: Any, value: Any) -> tuple[Any, Any]:
    """Somewhere inside: what holds it, and its key."""
    place, key = None, None
    while isinstance(value, dict | list) and value:
        place, key = value, draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        value = place[key]
        if draw(st.booleans()):
            break
    return place, key


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes of `content`, some of them changed, cut out, doubled or added."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        if draw(st.booleans()):  # where formats keep what matters
            at = max(0, len(found) - 1 - at % 64) if draw(st.booleans()) else at % 64
        length = draw(st.sampled_from((1, 1, 1, 2, 4, 8, 100, 10_000)))
        change = draw(st.sampled_from(("set", "set", "set", "cut", "double", "end")))
        if change == "set":
            found[at : at + length] = draw(st.sampled_from((b"\0", b"\xff", b"\x7f", b"\x80", b"{"))) * min(length, 8)
        elif change == "cut":
            del found[at : at + length]
        elif change == "double":
            found[at:at] = found[at : at + length]
        else:
            del found[at:]
    return bytes(found)


@contextmanager
def limited(more: int = 2**30) -> Iterator[None]:
    """This process may take so many bytes more than it has: beyond, it is a MemoryError, which no check allows."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def hunt(check: Callable[[Any], None], strategy: SearchStrategy[Any], examples: int, fixed: bool = True) -> None:
    """`check` on as many examples; the same each time, if `fixed`."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=fixed,
        database=None,
        phases=[Phase.generate] if fixed else [Phase.generate, Phase.shrink],  # shrinking can take minutes
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    with limited():
        run()


def harmless(text: str) -> None:
    """Nothing that a terminal obeys."""
    assert all(c.isprintable() or c == "\n" for c in text), repr(text[:300])


def one_line(action: Callable[[], object]) -> str:
    """What it says as a ValueError; '' where it went well. Any other exception passes."""
    try:
        action()
    except ValueError as error:
        assert not isinstance(error, UnicodeError), error
        line = str(error)
        assert line and "\n" not in line, repr(line[:500])
        return line
    return ""


def command(*words: str | Path, main: Callable[[list[str]], int] = cli.main) -> tuple[int, str]:
    """A command in this process: its exit code, 0 or 2, and what it said: harmless, an error in one line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(map(str, words)))
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            code = ended.code
    said, wrong = out.getvalue(), err.getvalue()
    harmless(said + wrong)
    assert len(wrong) < 2000
    (said + wrong).encode()
    assert (code == 0 and not wrong) or (code == 2 and wrong.startswith("error: ") and wrong.count("\n") == 1), (
        code,
        wrong[:500],
    )
    return code, said + wrong
