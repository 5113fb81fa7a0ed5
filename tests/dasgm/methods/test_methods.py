"""What every search method must pass: the folder is listed, a new file is tested without a line here."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from pictures import cifar_like, png, random_pictures, write_parquet

from dasgm.config import keys, override, plugin
from dasgm.genotype import Genotype
from dasgm.jobs.search import fits
from dasgm.presets import preset, with_dataset
from dasgm.search import LOSSES, Search, _tuples

METHODS = keys("methods")


def search_with(key: str) -> Search:
    config = override(preset("quickstart").config, {"gan": "none", "batch_size": 16, "data.limit": 200})
    config = replace(config, method=plugin("methods", key)(epochs=1, cells=3, channels=8, arch_start_epoch=0))
    return Search(config, config.data.load(None))


@pytest.mark.parametrize("key", METHODS)
def test_stages_end_with_a_valid_genotype(key):
    search, stages = search_with(key), 0
    while True:
        stages += 1
        search.schedule()
        search.iterate()
        genotype = search.genotype()
        assert Genotype.from_json(genotype.to_json()) == genotype and len(genotype.normal) == len(genotype.reduce) == 8
        following = search.config.method.next(search.stage, search.relaxation())
        if following is None:
            break
        assert following.index == search.stage.index + 1
        search.enter(following)
        assert stages < 20, "the stages do not end"


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
    assert float(losses["classifier"]) == pytest.approx(math.log(100), rel=0.2)  # nothing is learnt yet


@pytest.mark.parametrize("key", METHODS)
def test_images_that_the_supernet_cannot_take_are_refused_before_work_starts(key):
    config = replace(preset("darts-1st").config, method=plugin("methods", key)())
    data = SimpleNamespace(J1=range(99), J2=range(99), classes=range(7), image_size=28)  # as of a data set of one's own
    fits(config, data, 1)
    data.image_size = 30
    with pytest.raises(ValueError, match="image size 30: .* multiple of 4"):
        fits(config, data, 1)


@pytest.mark.parametrize("key", METHODS)
def test_stage_is_plain_data(key):
    import json

    stage = plugin("methods", key)().first()
    plain = json.loads(json.dumps(asdict(stage)))
    assert type(stage)(**{k: _tuples(v) for k, v in plain.items()}) == stage


@pytest.mark.parametrize("key", METHODS)
def test_architecture_is_never_in_the_weights_optimiser(key):
    search = search_with(key)
    stepped = {id(p) for group in search.W.optimizer.param_groups for p in group["params"]}
    assert not stepped & {id(p) for p in search.A.params.values()}
    before = {k: p.clone() for k, p in search.A.params.items()}
    search.stage = replace(search.stage, arch_start_epoch=99)
    search.schedule()
    search.iterate()
    assert all(torch.equal(p, before[k]) for k, p in search.A.params.items())


@pytest.mark.parametrize("key", METHODS)
def test_resume_is_bit_equal(key):
    import copy

    one, other = search_with(key), search_with(key)
    for search in (one, other):
        search.schedule()
    one.iterate()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for search in (one, other):
        search.schedule()
        search.iterate()
    assert one.A.steps == other.A.steps == 2
    for a, b in ((one.W, other.W), (one.A, other.A)):
        assert all(torch.equal(p, b.params[k]) for k, p in a.params.items())
