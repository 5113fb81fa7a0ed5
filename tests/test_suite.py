"""The tests' own rules, on small runs of pytest: limits in the machine's seconds, nothing left behind, no test lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import leftovers
import patience
import psutil
import pytest
from commands import ROOT, busy, start, two_cpus
from patience import now, until

LASTING = "import subprocess, sys, os; lasting = lambda: subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
TWO = ("-n2", "--dist=loadfile", "--no-loadscope-reorder")


def pytest_of(folder: Path, *words: str, **files: str) -> subprocess.Popen[str]:
    """pytest, with the plugins of these tests, on files of so much text."""
    (folder / "conftest.py").write_text(
        "import leftovers\nleftovers.GRACE = 0.3\npytest_plugins = ('patience', 'leftovers', 'scheduling')\n"
    )
    for name, text in files.items():
        (folder / f"{name}.py").write_text(LASTING + text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    plugins = ("-p", "xdist", "-p", "pytest_timeout", "-p", "no:cacheprovider")
    return start("-m", "pytest", "-rfE", *plugins, *words, cwd=folder, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def outcome(process: subprocess.Popen[str]) -> tuple[set[str], str]:
    """The tests that are named as failed, and all that is said."""
    out, err = process.communicate()
    assert "INTERNALERROR" not in out + err, out + err
    lines = out.splitlines()
    return {line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))}, out


def counts(out: str) -> dict[str, int]:
    return {kind.rstrip("s"): int(n) for n, kind in re.findall(r"(\d+) (passed|failed|errors?)", out.splitlines()[-1])}


def runs(number: str) -> bool:
    """Whether there is such a process, but for a dead one that nobody has asked about."""
    return os.path.exists(f"/proc/{number}/exe")


def below(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "sleep"]


ABORTS = "def test_before(): pass\ndef test_aborts(): os.abort()\ndef test_after(): pass\n"


def test_a_test_process_that_dies_is_a_failed_test_and_the_others_run(tmp_path):
    """At the same time and one after another; in the midst of its file and as its last test."""
    last = "def test_1(): pass\ndef test_last(): os._exit(0)\n"
    names = {f"test_{letter}": "def test_1(): pass\ndef test_2(): pass\n" for letter in "wxyz"}
    failed, out = outcome(pytest_of(tmp_path, *TWO, test_a=ABORTS, test_b=ABORTS, test_c=last, **names))
    assert failed == {f"FAILED test_{name}" for name in ("a.py::test_aborts", "b.py::test_aborts", "c.py::test_last")}
    assert counts(out) == {"failed": 3, "passed": 4 + 1 + 8}, out


SLOW = """
import os, time
from xdist.workermanage import WorkerController
WorkerController.shutting_down = property(lambda node: node._shutdown_sent)  # though its end has been noticed
def pytest_runtest_logreport(): "PYTEST_XDIST_WORKER" in os.environ or time.sleep(0.3)
"""


def test_a_test_process_that_is_dead_before_it_gets_more_work_loses_none(tmp_path):
    """The collecting process hears of a passed test only when the next one has ended the process."""
    names = {f"test_{letter}": "def test_1(): pass\ndef test_2(): pass\n" for letter in "wxyz"}
    failed, out = outcome(pytest_of(tmp_path, *TWO, "-p", "slow", slow=SLOW, test_a=ABORTS, test_b=ABORTS, **names))
    assert failed == {"FAILED test_a.py::test_aborts", "FAILED test_b.py::test_aborts"}
    assert counts(out) == {"failed": 2, "passed": 4 + 8}, out


@pytest.mark.parametrize("how", [("-n0",), TWO], ids=["alone", "two"])
def test_what_a_test_leaves_is_named_ended_and_an_error(tmp_path, how):
    """Orphans, in groups of their own; of a fixture of the file too, but not before the file's end."""
    file = """
import pytest
@pytest.fixture(scope="module")
def server(): return lasting()
def test_first(server): pass
def test_leaves(): subprocess.run(["sh", "-c", "setsid sleep 600 & exit 0"])
def test_last(server): assert server.poll() is None
"""
    failed, out = outcome(pytest_of(tmp_path, *how, test_one=file, test_two="def test_1(): pass"))
    assert failed == {"ERROR test_one.py::test_leaves", "ERROR test_one.py::test_last"}, out
    for name in ("test_one.py::test_leaves", "test_one.py::server, a fixture,"):
        (number,) = re.findall(rf"^{re.escape(name)} left process (\d+): sleep 600$", out, re.MULTILINE)
        assert not runs(number)
    assert counts(out) == {"error": 2, "passed": 4}


def test_a_process_is_seen_in_the_midst_of_an_exec(tmp_path):
    """One that does nothing but execute itself again."""
    script = tmp_path / "script"
    script.write_text('exec sh "$0"\n')
    process = subprocess.Popen(["sh", str(script)], env=os.environ | {"MARKED": "yes"})
    try:
        seen = psutil.Process(process.pid)
        assert {leftovers.environment(seen).get("MARKED") for _ in range(2000)} == {"yes"}
    finally:
        process.kill()
        process.wait()


def test_what_a_fixture_began_that_fails_and_what_a_dead_process_began_ends_at_once(tmp_path):
    fails = """
import pytest
@pytest.fixture(scope="module")
def server(): open("one", "w").write(str(lasting().pid)); raise ValueError("no server")
def test_fails(server): pass
def test_then(): assert not os.path.exists(f"/proc/{open('one').read()}/exe")
"""
    dies = "def test_dies(): open('two', 'w').write(str(lasting().pid)); os.abort()\n"
    failed, out = outcome(pytest_of(tmp_path, *TWO, test_a=fails, test_b=dies))
    assert failed == {"ERROR test_a.py::test_fails", "FAILED test_b.py::test_dies"}, out
    assert "test_a.py::server, a fixture, left process" in out and "test_b.py::test_dies left process" in out
    assert not runs((tmp_path / "two").read_text())


def test_what_is_left_by_a_pytest_that_is_killed_ends_and_nobody_elses(tmp_path):
    other = subprocess.Popen(["sleep", "600"])
    run = pytest_of(tmp_path, "-n0", test_a="def test_waits(): lasting().wait()\n")
    until(lambda: below(run))
    ours = below(run)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    until(lambda: not any(runs(str(process.pid)) for process in ours))
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_test_beyond_its_limit_fails_and_what_it_began_ends(tmp_path):
    file = "def test_hangs(): lasting().wait()\ndef test_next(): pass\n"
    failed, out = outcome(pytest_of(tmp_path, "-n0", "--timeout=1", test_a=file))
    assert failed == {"FAILED test_a.py::test_hangs", "ERROR test_a.py::test_hangs"}, out
    assert "Timeout (>1.0s)" in out and "test_a.py::test_hangs left process" in out
    assert counts(out) == {"failed": 1, "error": 1, "passed": 1}


def test_a_limit_is_longer_where_the_machine_is_slower(tmp_path):
    """Where work takes four times as long, a wait of 1.2 s is within a limit of 0.6 s."""
    file = "import patience, time\npatience.slowness = lambda: {}\npatience.AGAIN = 0.1\n"
    file += "def test_waits(): time.sleep(1.2)\n"
    for slowness, failing in ((4, set()), (1, {"FAILED test_a.py::test_waits"})):
        failed, out = outcome(pytest_of(tmp_path, "-n0", "--timeout=0.6", test_a=file.format(slowness)))
        assert failed == failing, out


def test_the_clock_runs_slower_under_other_load(monkeypatch):
    """Beside a loop on each CPU this process has half of one, or less."""
    monkeypatch.setattr(patience, "AGAIN", 0.1)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))  # the work alone says so
    monkeypatch.setattr(patience, "UNIT", min(measured(patience.work) for _ in range(5)))
    cpus = os.sched_getaffinity(0)
    with busy():
        two_cpus()
        begun, wall = now(), time.monotonic()
        while (taken := time.monotonic() - wall) < 2:
            passed = now() - begun
    os.sched_setaffinity(0, cpus)
    assert passed < taken / 1.1, (passed, taken)


def measured(work: Callable[[], None]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def test_limits_are_not_in_seconds_of_the_wall():
    """What waits for something to happen has no limit but its test's."""
    literal = re.compile(r"\btimeout=\d|monotonic\(\) *(<|- *\w+ *<)|\b(end|deadline) *= *time\.(monotonic|time)\(\)")
    here = {"patience.py", "leftovers.py", Path(__file__).name}
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name not in here
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if literal.search(line) and "timeout=1)" not in line and "communicate(timeout=" not in line
    ]
    assert not found, "\n".join(found)
