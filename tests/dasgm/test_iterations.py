"""What a CUDA graph records, and the comparison of "auto", on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from smooth import images

from dasgm.bilevel import Draws
from dasgm.bilevel.iterations import Graph, far, in_place
from dasgm.config import SearchConfig, override
from dasgm.data._base import DataConfig
from dasgm.jobs import evaluate, search
from dasgm.jobs.session import Hooks
from dasgm.methods.darts import Config as Darts
from dasgm.plugins import plugin
from dasgm.presets import preset
from dasgm.recipes import recipe
from dasgm.search import Search
from dasgm.spaces.darts import KNOWN

GANS: dict[str, dict[str, Any]] = {
    "biggan": {},
    "contragan": {},
    "stylegan2ada": {"augment_start": 0.3, "augment_interval": 2, "r1_interval": 3, "z_dim": 8, "w_dim": 8},
}


def made(gan: str) -> Search:
    """A small search, at its first epoch with stages 3 and 4."""
    config = SearchConfig(
        method=Darts(cells=3, channels=2),
        gan=plugin("gans", gan)(channels=4, **GANS[gan]),
        data=DataConfig(image_size=16),
        batch_size=4,
    )
    small = Search(config, images())
    small.left = small.stage.epochs - small.stage.arch_start_epoch
    small.schedule()
    small.gan.G.steps = 1  # so that the first R1 comes when another kind of iteration is recorded
    return small


def tensors(of: Search) -> dict[str, torch.Tensor]:
    found = {}
    for name, player in of.players.items():
        found |= {f"{name}.{key}": t for key, t in [*player.params.items(), *player.buffers.items()]}
        found |= {f"{name}.mean.{key}": t for key, t in (player.mean or {}).items()}
    return found


@pytest.mark.parametrize("gan", GANS)
def test_the_form_with_static_buffers_equals_the_step(gan: str) -> None:
    plain, static = made(gan), made(gan)
    players, draws = list(static.players.values()), dict[Any, Draws]()
    places = {name: t.data_ptr() for name, t in tensors(static).items()}
    for _ in range(6):
        expected, own = plain.iterate(), draws.setdefault(static.gan.phase, Draws(static.device))
        if own.known:
            own.fill()
            losses = Graph(static._iterate, players, static, own, None).once()
        else:
            with in_place(players), own.of_iteration():
                losses = static._iterate()
        assert expected.keys() == losses.keys() and all(torch.equal(x, losses[name]) for name, x in expected.items())
        found = tensors(static)
        assert {name: t.data_ptr() for name, t in found.items()} == places
        assert all(torch.equal(t, found[name]) for name, t in tensors(plain).items())
    assert len(draws) == (2 if gan == "stylegan2ada" else 1) and all(own.known for own in draws.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0])
def test_a_graph_with_other_numbers_is_found(value: float) -> None:
    own = {"weights": torch.ones(3), "moments": torch.ones(2)}
    assert far(own, own) == []
    assert far(own | {"moments": torch.tensor([1.0, value])}, own) == ["moments"]
    still = {"weights": torch.zeros(3)}
    assert far(still, still) == [] and far({"weights": torch.full((3,), value)}, still) == ["weights"]


def test_a_graph_is_refused_before_a_folder_is_begun(tmp_path: Path) -> None:
    says = "^cuda-graph on: it needs a GPU, and the device is cpu; use --cuda-graph auto or off$"
    asked, quiet = {"cuda_graph": "on", "device": "cpu"}, Hooks(say=lambda line: None)
    with pytest.raises(ValueError, match=says):
        search.main(override(preset("quickstart").config, asked), tmp_path / "search", quiet)
    with pytest.raises(ValueError, match=says):
        config = override(recipe("digits-small").config, asked)
        evaluate.main(KNOWN["DARTS_V2"], config, tmp_path / "evaluation", quiet)
    assert list(tmp_path.iterdir()) == []
