"""What every search space must pass: the folder is listed, a new file is tested without a line here."""

from __future__ import annotations

import pytest

from dasgm.genotype import space_of
from dasgm.plugins import keys
from dasgm.testing import SpaceConformance


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # inside torch.func.jvp
class TestEverySpace(SpaceConformance):
    @pytest.fixture(params=keys("spaces"))
    def space(self, request):
        return space_of(request.param)
