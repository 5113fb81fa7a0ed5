"""What the three suites share: the plug-in as the command line sees it, and a small search with it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.config import PARTS, from_json, override, to_json
from dasgm.plugins import key_of, plugin
from dasgm.presets import preset
from dasgm.search import Search
from dasgm.testing._sentences import sentences, unclear


class Conformance:
    """Tests of the `Config` of any plug-in. A subclass has a fixture `config`, as small as the tests allow."""

    part: str
    """Field of a search's configuration that holds the plug-in."""

    @pytest.fixture(autouse=True)
    def seeded(self) -> None:
        torch.manual_seed(0)

    def test_its_key_leads_to_it(self, config: Any) -> None:
        """`--gan KEY` finds it, and a run's config.json brings it back."""
        assert plugin(PARTS[self.part], key_of(config)) is type(config)
        search = preset("quickstart").config
        if not getattr(config, "streamed", False):
            part: dict[str, Any] = {self.part: config}
            search = replace(search, **part)
            assert from_json(to_json(search)) == search

    def test_each_setting_has_a_sentence(self, config: Any) -> None:
        """The docstring under each field, which `--help` shows."""
        found = {name: unclear(text) for name, text in sentences(type(config)).items()}
        assert not {name: why for name, why in found.items() if why}

    def test_its_settings_do_not_import_torch(self, config: Any) -> None:
        """`--help` imports every plug-in and must be quick: import torch within functions."""
        module = type(config).__module__
        code = f"import sys, {module}; {module}.Config(); sys.exit('torch' in sys.modules and 'torch was imported')"
        path = os.pathsep.join(filter(None, sys.path))
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def small_search(loaded: Any = None, **parts: Any) -> Search:
    """A search of the digits, or of `loaded`, without a GAN and with batches of 16, but for `parts`."""
    config = override(preset("quickstart").config, {"gan": "none", "batch_size": 16, "data.limit": 200})
    config = override(config, {"method.epochs": 1, "method.arch_start_epoch": 0})
    config = replace(config, **parts)
    return Search(config, loaded or config.data.load(None))


def ensure_same_bits_after_resume(one: Search, other: Search) -> None:
    """After an iteration of `one`, its state makes `other` do the next iteration to the same bits."""
    one.schedule()
    losses = one.iterate()
    assert all(loss.isfinite().all() for loss in losses.values())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for search in (one, other):
        search.schedule()
        search.iterate()
    assert one.A.steps == other.A.steps == 2
    for a, b in zip(_players(one), _players(other), strict=True):
        assert all(torch.equal(p, b.params[name]) for name, p in a.params.items())


def ensure_same_bits_with_draws_made_before(one: Search, other: Search, iterations: int = 2) -> None:
    """As a GPU takes iterations: their draws are made before them, and no number is drawn otherwise."""
    other.iterations.ahead = True
    for search in (one, other):
        search.schedule()
        for _ in range(iterations):
            search.iterate()
    assert all(draws.known for draws in other.iterations.draws.values())
    for a, b in zip(_players(one), _players(other), strict=True):
        assert all(torch.equal(p, b.params[name]) for name, p in a.params.items())


def ensure_two_routes_agree(W: nn.Module, A: nn.Module, x: Tensor, y: Tensor) -> None:
    """Double backward equals forward mode over the gradient of the loss on (x, y), from the supernet W to A."""
    weights = {k: p.detach() for k, p in W.named_parameters()}
    alphas = {k: p.detach() for k, p in A.named_parameters()}
    direction = {k: torch.randn_like(p) for k, p in weights.items()}

    def loss(weights: dict[str, Tensor], alphas: dict[str, Tensor]) -> Tensor:
        buffers = {k: b.clone() for k, b in W.named_buffers()}
        mixture = torch.func.functional_call(A, alphas, ())
        return F.cross_entropy(torch.func.functional_call(W, (weights, buffers), (x, mixture)), y)

    def slope(alphas: dict[str, Tensor]) -> Tensor:
        gradient = torch.func.grad(loss)(weights, alphas)
        return torch.stack([(gradient[k] * direction[k]).sum() for k in direction]).sum()

    backward = torch.func.grad(slope)(alphas)
    forward = torch.func.jvp(lambda p: torch.func.grad(loss, 1)(p, alphas), (weights,), (direction,))[1]
    for key in alphas:
        torch.testing.assert_close(forward[key], backward[key], rtol=1e-7, atol=1e-9)
        assert backward[key].abs().max() > 0


def _players(search: Search) -> list[Any]:
    return [search.W, search.A, *search.gan.players]
