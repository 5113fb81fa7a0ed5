"""What every search method must pass: the folder is listed, a new file is tested without a line here."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from pictures import cifar_like, png, random_pictures, write_parquet

from dasgm.config import override
from dasgm.genotype import DEFAULT_SPACE, space_of
from dasgm.jobs.means import LOSSES
from dasgm.jobs.search import fits
from dasgm.plugins import keys, plugin
from dasgm.presets import preset, with_dataset
from dasgm.search import Search
from dasgm.testing import MethodConformance
from dasgm.testing._plugins import ensure_same_bits_after_resume, small_search

METHODS = keys("methods")
ELSEWHERE = [
    (key, space)
    for key in METHODS
    for space in plugin("methods", key).spaces or keys("spaces")
    if space != DEFAULT_SPACE
]  # fmt: skip


class TestEveryMethod(MethodConformance):
    @pytest.fixture(params=METHODS)
    def config(self, request):
        return plugin("methods", request.param)(epochs=1, cells=3, channels=8, arch_start_epoch=0)


@pytest.mark.parametrize(("key", "space"), ELSEWHERE)
def test_a_search_in_another_space_resumes_and_makes_its_draws_before(key, space):
    """To the same bits; one of the two searches takes iterations as a GPU does."""
    kind = plugin("methods", key)
    own = {"partial": 1} if hasattr(kind, "partial") else {}  # partial channels are not for every space
    method = kind(epochs=1, cells=space_of(space).smallest, channels=4, arch_start_epoch=0, **own)
    one, other = (small_search(method=method, search_space=space, batch_size=8) for _ in range(2))
    one.iterations.ahead = True
    ensure_same_bits_after_resume(one, other)
    assert all(draws.known for draws in one.iterations.draws.values()) and one.genotype() == other.genotype()


@pytest.mark.parametrize("key", METHODS)
def test_a_hundred_classes_with_a_gan(tmp_path, key):
    """CIFAR-100's layout: its fine labels reach the supernet's head and the generator."""
    cifar_like(tmp_path, 200, {"fine_label": [i % 100 for i in range(200)], "coarse_label": [0] * 200})
    fine = {"fine_label": [i % 100 for i in range(20)]}
    write_parquet(tmp_path / "test.parquet", [png(p) for p in random_pictures(20)], fine)
    tiny = {"gan.channels": 4, "gan.shared_dim": 8, "batch_size": 16, "data.image_size": 16, "val_portion": 0.3}
    config = override(with_dataset(preset("quickstart").config, "cifar100"), {**tiny, "data.holdout": 0.0})
    config = replace(config, method=plugin("methods", key)(epochs=1, cells=3, channels=8, arch_start_epoch=0))
    data = config.data.load(str(tmp_path))
    fits(config, data, 1)
    search = Search(config, data)
    search.schedule()
    losses = search.iterate()
    assert search.supernet.head.out_features == 100
    assert set(LOSSES) <= set(losses) and all(value.isfinite() for value in losses.values())
    # nothing is learnt yet; what bypasses the operations is summed over the edges, so that logits are larger, as they
    # are where the weights of an edge do not sum to 1 (Fair DARTS)
    summed = search.stage.partial > 1 and not search.stage.edge_weights or sum(search.relaxation().cells[0][0]) > 1.5
    assert float(losses["classifier"]) == pytest.approx(math.log(100), rel=1.0 if summed else 0.2)
