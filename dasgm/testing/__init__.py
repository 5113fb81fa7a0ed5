"""Tests that every plug-in must pass, for those of dasgm and for yours. Needs pytest; nothing else in dasgm does.

from dasgm.testing import GanConformance

class TestMyGan(GanConformance):
    @pytest.fixture
    def config(self):
        return mygan.Config(channels=4)  # small: each test builds it
"""

import pytest

pytest.register_assert_rewrite(*(f"dasgm.testing.{name}" for name in ("_plugins", "data", "gans", "methods", "spaces")))

from dasgm.testing.data import DataConformance  # noqa: E402
from dasgm.testing.gans import GanConformance  # noqa: E402
from dasgm.testing.methods import MethodConformance  # noqa: E402
from dasgm.testing.spaces import SpaceConformance  # noqa: E402

__all__ = ["DataConformance", "GanConformance", "MethodConformance", "SpaceConformance"]
