"""What someone who waits is told: every few seconds what is waited for, and at once that Ctrl-C was received."""

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
    """Print a line at once, into a pipe too. Characters that cannot be printed are escaped."""
    print(printable(line), flush=True)


@contextmanager
def told(
    doing: str, awaited: Callable[[], str], say: Callable[[str], None] = say_now, every: float = EVERY
) -> Iterator[None]:
    """While the block runs, say every few seconds what is being done, for how long, and what is waited for.

    Args:
        doing: what is being done.
        awaited: returns what is waited for; nothing is said while it returns an empty text.
        every: seconds between two lines.
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
    """Say `line` at the first Ctrl-C or SIGTERM. The handlers of these signals stay as they are.

    Python runs handlers between two bytecodes of the main thread, which may take seconds while Ray or torch computes.
    The signal itself writes into a pipe at once, from which another thread reads.
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
        os.close(writer)  # so that the thread ends
        thread.join()
        os.close(reader)
