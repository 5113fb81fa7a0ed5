"""What who waits is told: lines while Ray starts, and an answer to Ctrl-C while Python is inside C code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from patience import until

from cluster.patience import told

CODE = """
import hashlib, sys
from cluster.patience import answered
try:
    with answered("heard"):
        print("ready", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 6 * 10**6)  # seconds in C, where Python's own handler has to wait
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


def test_a_line_comes_again_and_again_with_what_is_waited_for():
    lines: list[str] = []
    names = iter(["a", "b"])
    with told("starting", lambda: next(names, "c"), lines.append, every=0.05):
        until(lambda: len(lines) >= 3, 0.01)
    assert lines[:3] == [f"starting: 0 s so far, waiting for {name}" for name in "abc"]
    said = len(lines)
    time.sleep(0.2)
    assert len(lines) == said  # it ended with the block


def test_nothing_is_said_while_nothing_is_waited_for():
    lines: list[str] = []
    names = iter(["", "", "b"])
    with told("starting", lambda: next(names, "b"), lines.append, every=0.02):
        until(lambda: lines, 0.01)
    assert lines[0].endswith("waiting for b")


def test_who_is_quick_is_told_nothing():
    lines: list[str] = []
    with told("starting", lambda: "a", lines.append):
        pass
    assert lines == []


def test_ctrl_c_is_answered_before_c_code_lets_go():
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "heard\n"
    answered = time.monotonic() - begun
    assert process.stdout.readline() == "interrupted\n" and process.wait() == 130
    assert answered < (time.monotonic() - begun) / 3
