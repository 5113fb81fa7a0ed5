"""What a person who waits is told: every few seconds what is waited for, and at once that Ctrl-C has arrived."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dasgm.store.files import printable

EVERY = 5.0
"""Seconds between lines."""
STOPPING = (
    "stopping: every whole epoch is saved; waiting for what runs, then for Ray, to end, and up to 20 s for MLflow. "
    "Ctrl-C again does not wait"
)


def say_now(line: str) -> None:
    """Print a line, odd characters in it escaped; a pipe gets it at once too."""
    print(printable(line), flush=True)


@contextmanager
def told(
    doing: str, awaited: Callable[[], str], say: Callable[[str], None] = say_now, every: float = EVERY
) -> Iterator[None]:
    """Say every few seconds, while the block runs, what is being done, for how long, and what is waited for.

    Nothing is said while `awaited` names nothing.
    """
    over, begun = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(every):
            if what := awaited():
                say(f"{doing}: {time.monotonic() - begun:.0f} s so far, waiting for {what}")

    thread = threading.Thread(target=tell, daemon=True, name="patience")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def answered(line: str = STOPPING, say: Callable[[str], None] = say_now) -> Iterator[None]:
    """Say `line` at the first Ctrl-C or SIGTERM, and leave what these do as it is.

    Python runs its handlers between two bytecodes of the main thread, which may be seconds away while Ray or torch
    computes; the signal itself writes into a pipe, from which another thread reads.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def answer() -> None:
        while heard := os.read(reader, 64):
            if {signal.SIGINT, signal.SIGTERM} & set(heard):
                say(line)
                return

    thread = threading.Thread(target=answer, daemon=True, name="answer")
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # the thread reads the end
        thread.join()
        os.close(reader)
