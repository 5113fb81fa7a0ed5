"""Before torch and Ray are imported by any test: one thread a process, since the tests run two at a time on what may be
two cores, and what a private Ray reads when it is imported."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from cluster import job  # noqa: E402

job.prepare()

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
