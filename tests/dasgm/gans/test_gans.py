"""What every GAN in the folder must hold: a new file is tested without a line here."""

from __future__ import annotations

import pytest

from dasgm.config import key_of, keys, plugin
from dasgm.gans import biggan
from dasgm.testing import GanConformance

KEYS = keys("gans")
LINEAR = ("stylegan2ada",)  # no tanh: images go beyond [-1, 1]


def test_the_folder_has_the_paper_s_gan():
    assert "biggan" in KEYS


class TestEveryGan(GanConformance):
    @pytest.fixture(params=KEYS)
    def config(self, request):
        return plugin("gans", request.param)(channels=4)

    @pytest.fixture
    def largest(self, config):
        return 9.0 if key_of(config) in LINEAR else 1.0


@pytest.mark.parametrize(
    "settings",
    [{"z_dim": 2}, {"shared_dim": 0}, {"embedding_std": -0.1}, {"orthogonal": -1.0}, {"average_decay": 1.0}],
    ids=str,
)
def test_wrong_settings_of_biggan_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=rf"^gan\.{next(iter(settings))} [^\n]*expected[^\n]*$"):
        biggan.Config(**settings).build(3, 16, searched=False)
