"""Differentiable architecture search with a generative model (DASGM)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dasgm._version import __version__

if TYPE_CHECKING:
    from dasgm.model import Model

__all__ = ["__version__", "load"]


def load(path: str | Path, device: str = "cpu") -> Model:
    """Loads a trained network in eval mode, from a run's folder, its model.json or its model.safetensors; see
    `dasgm.model`.

    Raises:
        ValueError: there is no network at `path`, or it cannot be used. The message is one line.
    """
    from dasgm import model  # torch takes seconds to import

    return model.load(path, device)
