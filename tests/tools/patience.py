"""Seconds as this machine gives them: the tests' limits hold on a slow machine and on a busy one.

`now()` is a clock that runs slower than the wall's by the factor by which this machine is slower, at this moment, than
the one that the limits were chosen on. A measured piece of work says how much that is, so other load, a slow processor
and a container's share of one all count. A test has one limit, pytest-timeout's (`timeout` in pyproject.toml or the
mark), in these seconds. What a test waits for needs no limit of its own.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from time import perf_counter  # by name: tests replace functions of `time`
from typing import Any

import pytest
import pytest_timeout

UNIT = 0.02
"""Seconds that `work` takes on an idle core of an AMD EPYC, on which the limits were chosen."""
AGAIN = 2.0
"""Seconds of the wall after which the machine is measured again."""
MOST = 30.0
"""However slow the machine is, a limit is at most so many times as long."""
_clock = {"at": float("-inf"), "passed": 0.0, "slowness": 1.0}


def work() -> None:
    """Longer than some turns of the scheduler: a shorter piece would be done before the other load has its turn."""
    total = 0
    for i in range(300_000):
        total += i * i


def slowness() -> float:
    """How many times slower the machine is now; 1 or more.

    Measured by a piece of work, and by the processes that wait for each processor: this one sleeps most of the time,
    which the scheduler rewards, so that its own work suffers less than that of the commands which it waits for.
    """
    begun = perf_counter()
    work()
    waiting = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return min(max(1.0, (perf_counter() - begun) / UNIT, waiting), MOST)


def now() -> float:
    """Seconds of this machine since it was first asked."""
    if _clock["at"] == float("-inf"):
        _clock["at"] = perf_counter()
    elif perf_counter() - _clock["at"] > AGAIN:
        _clock["slowness"] = slowness()
    here = perf_counter()
    _clock["passed"] += (here - _clock["at"]) / _clock["slowness"]
    _clock["at"] = here
    return _clock["passed"]


def rest(seconds: float) -> None:
    """Sleep so many seconds of this machine."""
    end = now() + seconds
    while (left := end - now()) > 0:
        time.sleep(min(left, AGAIN))


def stretched(seconds: float) -> float:
    """Seconds of the wall for a limit that is handed to what is tested."""
    return seconds * slowness()


def until(condition: Callable[[], Any], pause: float = 0.05) -> None:
    """Wait; the test's own limit ends it."""
    while not condition():
        time.sleep(pause)


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """pytest-timeout's limit in seconds of this machine. A test that is stuck in native code, where no signal is
    answered, is ended with its process once the longest possible limit is over."""
    if settings.method != "signal" or threading.current_thread() is not threading.main_thread():
        return None
    end = now() + settings.timeout

    def look(number: int, frame: object) -> None:
        __tracebackhide__ = True
        if now() >= end:
            signal.setitimer(signal.ITIMER_REAL, 0)
            pytest_timeout.timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.cancel_dump_traceback_later()

    item.cancel_timeout = cancel  # type: ignore[attr-defined]  # pytest-timeout calls it
    every = min(10.0, settings.timeout / 4)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, every, every)
    faulthandler.dump_traceback_later(MOST * settings.timeout, exit=True)
    return True
