"""Before torch and Ray are imported by any test: one thread a process, since several tests run at a time on what may be
two cores, and what a private Ray and MLflow read when they are imported."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a shell's background job: commands would not hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

from cluster import connection, stores  # noqa: E402

connection.set_environment()
stores.set_environment()

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile(  # a busy machine is no failure: a test has one limit, `patience`'s
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

pytest_plugins = ("patience", "leftovers", "scheduling", "nullgpu", "warm")
LONGEST = ("test_sweep", "test_gpu", "test_loop", "test_job")


def pytest_collection_modifyitems(items):
    """The longest files first, or one of the processes would be left alone with the last of them."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


@pytest.fixture
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
