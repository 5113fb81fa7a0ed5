"""A small pre-training for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import finish, start
from shared import once

from dasgm.config import SearchConfig, override
from dasgm.jobs.session import Hooks
from dasgm.presets import preset

LENGTH = 205  # two epochs and a piece
CHANGES: dict[str, Any] = {
    "gan.channels": 2,
    "gan.shared_dim": 8,
    "gan.z_dim": 24,
    "gan.average_start": 50,
    "gan.average_decay": 0.98,
    "gan.pretrain_iterations": LENGTH,
    "gan.pretrain_discriminator_steps": 1,
    "data.limit": 200,
    "data.holdout": 0.2,
    "batch_size": 8,
    "val_portion": 0.5,
    "method.epochs": 2,
    "method.channels": 2,
    "proxy.epochs": 0,
    "pictures_every": 1,
}
WORDS = [f"--{k.replace('_', '-')}={v}" for k, v in CHANGES.items()]
OWN = [w for w in WORDS if not w.startswith(("--method", "--proxy", "--val"))]  # of these, what a pre-training has
QUIET = Hooks(say=lambda line: None)


def small(**changes: Any) -> SearchConfig:
    """A tiny search on digits whose GAN is frozen, unless changed."""
    return override(preset("quickstart").config, CHANGES | {"freeze_gan": True} | changes)


def pretraining(storage: Path, begin: Callable[..., Any]) -> Any:
    """The real command, begun by `commands.start`, or forked."""
    words = ["pretrain", "quickstart", "--no-search-discriminator", *OWN, "--storage", str(storage), "--name", "gan"]
    return begin("-m", "dasgm", *words)


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A finished pre-training, stock discriminator."""

    def make(storage: Path) -> None:
        code, out, err = finish(pretraining(storage, start))
        assert (code, err) == (0, ""), (out, err)
        assert "images to their label" in out

    return once(tmp_path_factory, "pretraining", make) / "gan"


def with_file(made: Path, **changes: Any) -> SearchConfig:
    return small(gan_checkpoint=str(made), **changes)


@pytest.fixture(scope="module")
def data():
    return small().data.load(None)
