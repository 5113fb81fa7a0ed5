"""What every search method must hold."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dasgm.genotype import Genotype
from dasgm.jobs.search import fits
from dasgm.methods._base import MethodConfig
from dasgm.presets import preset
from dasgm.testing._plugins import (
    Conformance,
    ensure_same_bits_after_resume,
    ensure_same_bits_with_draws_made_before,
    small_search,
)

MOST_STAGES = 20


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class MethodConformance(Conformance):
    """Subclass it with a fixture `config`: `Config(epochs=1, cells=3, channels=8, arch_start_epoch=0)` or so."""

    part = "method"

    def test_stages_end_with_a_valid_genotype(self, config: MethodConfig) -> None:
        search, stages = small_search(method=config), 0
        while True:
            stages += 1
            search.schedule()
            search.iterate()
            genotype = search.genotype()
            assert Genotype.from_json(genotype.to_json()) == genotype
            following = config.next(search.config.space, search.stage, search.relaxation())
            if following is None:
                break
            assert following.index == search.stage.index + 1
            search.enter(following)
            assert stages < MOST_STAGES, "the stages do not end"
        assert stages == len(search.config.stages), "the outline announces each stage"

    def test_the_first_stage_is_plain_data(self, config: MethodConfig) -> None:
        """A checkpoint keeps the stage as JSON."""
        stage = config.first(small_search(method=config).config.space)
        plain = json.loads(json.dumps(asdict(stage)))
        assert type(stage)(**{name: _tuples(value) for name, value in plain.items()}) == stage

    def test_images_that_the_supernet_cannot_halve_twice_are_refused(self, config: MethodConfig) -> None:
        search = replace(preset("darts-1st").config, method=config)
        data = SimpleNamespace(J1=range(99), J2=range(99), classes=range(7), image_size=28)
        fits(search, data, 1)
        data.image_size = 30
        with pytest.raises(ValueError, match=r"image size 30: .* multiple of 4"):
            fits(search, data, 1)

    def test_the_weights_optimiser_leaves_the_architecture_alone(self, config: MethodConfig) -> None:
        search = small_search(method=config)
        optimizer: Any = search.W.optimizer
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert not stepped & {id(p) for p in search.A.params.values()}
        before = {name: p.clone() for name, p in search.A.params.items()}
        search.stage = replace(search.stage, arch_start_epoch=99)
        search.schedule()
        search.iterate()
        assert all(torch.equal(p, before[name]) for name, p in search.A.params.items())

    def test_a_resumed_search_has_the_same_bits(self, config: MethodConfig) -> None:
        ensure_same_bits_after_resume(small_search(method=config), small_search(method=config))

    def test_draws_can_be_made_before_an_iteration(self, config: MethodConfig) -> None:
        """What a GPU needs in order not to be waited for."""
        ensure_same_bits_with_draws_made_before(small_search(method=config), small_search(method=config))

    @pytest.mark.parametrize(
        ("field", "value"), [("epochs", 0), ("cells", 2), ("channels", 0), ("arch_start_epoch", -1)]
    )
    def test_wrong_settings_are_refused_by_name(self, config: MethodConfig, field: str, value: int) -> None:
        with pytest.raises(ValueError, match=rf"^method\.{field} {value}[^\n]*expected[^\n]*$"):
            replace(config, **{field: value})
