"""What every GAN in the folder must hold: a new file is tested without a line here."""

from __future__ import annotations

import pytest

from dasgm.gans import biggan, stylegan2ada
from dasgm.plugins import key_of, keys, plugin
from dasgm.testing import GanConformance
from dasgm.testing._plugins import ensure_same_bits_with_draws_made_before, small_search

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


def test_draws_can_be_made_before_an_iteration_while_p_moves():
    """R1 in every other iteration, as two kinds of them."""
    gan = stylegan2ada.Config(channels=4, augment_start=0.5, augment_interval=1, augment_kimg=0.1, r1_interval=2)
    searches = [small_search(gan=gan, batch_size=4) for _ in range(2)]
    ensure_same_bits_with_draws_made_before(*searches, iterations=4)
    assert len(searches[1].iterations.draws) == 2 and searches[1].gan.E.buffers["stock.augmentation.p"] != 0.5
