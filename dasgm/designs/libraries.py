"""Builds the networks of torchvision and timm, and loads weights into them."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dasgm.store.files import first_line, short

OPTIONS: dict[str, dict[str, Any]] = {  # of networks that would return tuples in training
    name: {"aux_logits": False, "init_weights": True} for name in ("googlenet", "inception_v3")
}
HEADS_IN_TRAINING = re.compile(r"(aux\d*|AuxLogits)\.")  # of their published weights


def build(library: str, name: str, classes: int) -> nn.Module:
    """A network with random weights, on the CPU, as the library builds it by default but without auxiliary heads."""
    # not on the meta device: some compute with numbers meanwhile, and tables of positions are in no file of weights
    with torch.device("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            import timm

            found: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
        else:
            from torchvision import models

            found = models.get_model(name, weights=None, num_classes=classes, **OPTIONS.get(name, {}))
    return found


def begin(network: nn.Module, path: Path, classes: int) -> list[str]:
    """Load the weights of a file. Returns the names of those that stay random: of a head for another number of classes.

    Raises:
        ValueError: the file cannot be read, or is of another network.
    """
    own, given = network.state_dict(), _tensors(path)
    given = {name: t for name, t in given.items() if name in own or not HEADS_IN_TRAINING.match(name)}
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    if odd := [*missing, *(name for name in given if name not in own)]:
        raise ValueError(f"{len(odd)} tensors are missing or unexpected, such as {short(odd[0])}")
    fresh = [name for name, t in own.items() if name in given and given[name].shape != t.shape]
    for name in fresh:
        mine, theirs = list(own[name].shape), list(given[name].shape)
        if mine[:1] != [classes] or mine[1:] != theirs[1:]:
            raise ValueError(f"{short(name)} is {theirs}, not {mine}")
    network.load_state_dict(own | {name: t for name, t in given.items() if name not in fresh})
    return fresh


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of safetensors, or of torch.save, on the CPU. Nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"neither safetensors nor tensors of torch.save ({first_line(error)[:120]})") from None
    for key in ("state_dict", "model"):  # as training scripts save them
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ValueError("no dictionary of tensors by name, as network.state_dict() gives")
    return {str(name): t for name, t in found.items()}
