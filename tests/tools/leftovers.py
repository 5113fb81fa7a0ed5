"""No test leaves a process behind, however it ends.

While a test runs, or a fixture of a wider scope is set up, a variable of the environment says which. Its name is this
run's own, and whatever is started then inherits it: Ray's processes too, in whatever group or session they are, and
whoever their parent is. What still has it once its test, or its fixture's scope, is over is named, ended, and an error
of that test. Processes without the variable, of the user's or of another run, are never touched.

python tests/tools/leftovers.py PID VARIABLE      waits until PID, a pytest, is gone, and ends what it left
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psutil
import pytest
from patience import now

GRACE = 10.0
"""Seconds that processes of a test which is over have to end by themselves."""
LONGEST_EXEC = 5.0
"""Seconds after which a process is taken to have no environment."""
VARIABLE = pytest.StashKey[str]()


class Owner(NamedTuple):
    """The variable's value: nothing but "" before the first test of a process."""

    worker: str = ""
    scope: str = ""  # identifier of the test, or of the module, class or session of a fixture
    name: str = ""


def environment(process: psutil.Process) -> dict[str, str]:
    """The variables of a process. In the midst of an exec they are empty for a moment, and so are the arguments, though
    there is a program. Then they are asked for again.
    """
    again, begun = 5, time.monotonic()
    while not (found := process.environ()) and process.exe() and again and time.monotonic() - begun < LONGEST_EXEC:
        again -= bool(process.cmdline())  # the exec has ended meanwhile, or there are no variables
        time.sleep(0.001)
    return found


def started(variable: str) -> dict[psutil.Process, Owner]:
    """The processes that inherited the variable, but for this one and what lasts as long as it does."""
    found, me = {}, os.getpid()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            value = environment(process).get(variable)
            if value is None or process.pid == me:
                continue
            if process.ppid() == me and "multiprocessing.resource_tracker" in " ".join(process.cmdline()):
                continue
            found[process] = Owner(*value.split("\t"))
    return found


def end(variable: str, over: Callable[[Owner], bool], grace: float | None = None) -> dict[str, list[str]]:
    """End the processes whose test is over, after the grace: name of the test -> a line for each."""
    limit, said = now() + (GRACE if grace is None else grace), dict[psutil.Process, tuple[str, str]]()

    def left() -> dict[psutil.Process, Owner]:
        return {process: owner for process, owner in started(variable).items() if over(owner)}

    while (found := left()) and now() < limit:
        time.sleep(0.1)
    while found and now() < limit + 10:  # again, as they may have started others meanwhile
        for process, owner in found.items():
            with suppress(psutil.Error):
                said.setdefault(process, (owner.name, f"{process.pid}: {' '.join(process.cmdline())[:200]}"))
                process.kill()
        time.sleep(0.05)
        found = left()
    names = dict.fromkeys(name for name, _ in said.values())
    return {name: [line for whose, line in said.values() if whose == name] for name in names}


def lines(left: dict[str, list[str]]) -> str:
    """For the test's report."""
    return "\n".join(f"{name or 'some test'} left process {line}" for name in left for line in left[name])


@contextmanager
def marked(config: pytest.Config, scope: str, name: str) -> Iterator[None]:
    """What is started in the block belongs to it."""
    variable = config.stash[VARIABLE]
    before = os.environ[variable]
    os.environ[variable] = "\t".join(Owner(_worker(config), scope, name))
    try:
        yield
    finally:
        os.environ[variable] = before


def _worker(config: pytest.Config) -> str:
    return getattr(config, "workerinput", {}).get("workerid", "")


# ----------------------------------------------------------------------------------------- in each process that tests


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with marked(item.config, item.nodeid, item.nodeid):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Iterator[None]:
    """A process of a module's fixture lasts as long as the module, but for one whose set-up fails."""
    if request.scope == "function":
        return (yield)
    scope = request.node.nodeid
    name = f"{scope}::{fixturedef.argname}, a fixture,"
    try:
        with marked(request.config, scope, name):
            return (yield)
    except BaseException as error:
        worker = _worker(request.config)
        if left := end(request.config.stash[VARIABLE], lambda owner: owner == Owner(worker, scope, name), grace=0):
            error.add_note(lines(left))
        raise


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    try:
        result = yield
    except BaseException as error:
        if left := _ended(item, nextitem):
            error.add_note(left)
        raise
    if left := _ended(item, nextitem):
        pytest.fail(left, pytrace=False)
    return result


def _ended(item: pytest.Item, nextitem: pytest.Item | None) -> str:
    go_on = {node.nodeid for node in nextitem.listchain()} if nextitem else set()
    worker = _worker(item.config)

    def over(owner: Owner) -> bool:
        return bool(owner.scope) and owner.worker == worker and owner.scope not in go_on

    return lines(end(item.config.stash[VARIABLE], over))


# ----------------------------------------------------------------------------- in the process that collects the results


def pytest_configure(config: pytest.Config) -> None:
    given = getattr(config, "workerinput", {}).get("variable")
    config.stash[VARIABLE] = given or f"DASGM_TEST_{uuid.uuid4().hex}"
    if not given:
        _watch(config.stash[VARIABLE])
    os.environ[config.stash[VARIABLE]] = ""  # so that what a test process forks has it too
    os.environ.setdefault("SPT_NOENV", "1")  # else Ray's titles of processes overwrite their environment


def _watch(variable: str) -> None:
    """For a pytest that is killed: without the variable, so that it is not ended with the others."""
    nowhere: Any = subprocess.DEVNULL
    words = [sys.executable, __file__, str(os.getpid()), variable]
    subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["variable"] = node.config.stash[VARIABLE]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a test process that died had begun is nobody's any more."""
    if error:
        left = end(node.config.stash[VARIABLE], lambda owner: owner.worker == node.gateway.id, grace=0)
        print("\n" + lines(left) if left else "")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whatever is left now is a failure, also where its test passed long ago."""
    if hasattr(session.config, "workerinput"):
        return
    for name, left in end(session.config.stash[VARIABLE], lambda owner: True).items():
        said = lines({name: left})
        place = name.partition("::")[0]
        report = pytest.TestReport(name or "a test", (place, None, name), {}, "failed", said, "teardown")
        session.config.hook.pytest_runtest_logreport(report=report)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


if __name__ == "__main__":
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(sys.argv[1])).wait()
    end(sys.argv[2], lambda owner: True, grace=0)
