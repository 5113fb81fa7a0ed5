"""What a player of a stage keeps of the one before where each edge has lost some operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dasgm.bilevel import Player, Tensors

if TYPE_CHECKING:
    from dasgm.methods._base import CellType

Keep = Callable[[Tensors], Tensors]
"""Tensors of the module before by name (parameters, buffers or moments) -> those of the module after."""


def columns(before: Sequence[CellType], after: Sequence[CellType]) -> Keep:
    """For A: the columns of the operations that each edge still has."""
    kept = {
        f"alphas_{old.name}": torch.tensor([
            [names.index(name) for name in left] for names, left in zip(old.operations, new.operations, strict=True)
        ])
        for old, new in zip(before, after, strict=True)
    }  # fmt: skip
    return lambda tensors: {
        name: t.gather(1, kept[name].to(t.device)) if name in kept else t for name, t in tensors.items()
    }


def blocks(before: nn.Module, after: nn.Module) -> Keep:
    """For W: of what an operation learns, the parts of the edges that still have it (`SearchSpace.supernet`)."""

    def keep(tensors: Tensors) -> Tensors:
        found = {}
        for name, t in tensors.items():
            match name.split("."):
                case ["cells", cell, "fans", state, "convolutions", operation, *_]:
                    had, left = (_edges(net, f"cells.{cell}.fans.{state}", operation) for net in (before, after))
                    parts = t.chunk(len(had))
                    if left:
                        found[name] = torch.cat([parts[had.index(edge)] for edge in left])
                case _:
                    found[name] = t
        return found

    return keep


def _edges(supernet: nn.Module, fan: str, operation: str) -> list[int]:
    having: Any = supernet.get_submodule(fan).having
    return list(having.get(operation, ()))


def carry(before: Player, after: Player, keep: Keep) -> None:
    """Gives a player the parameters, buffers, moments and number of steps of the player before."""
    state, own = before.state_dict(), after.module.state_dict()
    state["module"] = own | {name: t for name, t in keep(state["module"]).items() if name in own}
    if state["optimizer"]:
        state["optimizer"] = _moments(state["optimizer"], list(before.params), list(after.params), keep)
    after.load_state_dict(state)


def _moments(moments: dict[int, dict[str, Any]], before: list[str], after: list[str], keep: Keep) -> Any:
    """{number of a parameter: {name of a moment: tensor}} for the parameters after."""
    kinds = next(iter(moments.values()))
    found: dict[int, dict[str, Any]] = {number: {} for number in range(len(after))}
    for kind, example in kinds.items():
        if example is None or example.ndim == 0:  # without momentum; Adam's number of steps
            kept = dict.fromkeys(after, example)
        else:
            kept = keep({before[number]: entry[kind] for number, entry in moments.items()})
        for number, name in enumerate(after):
            found[number][kind] = kept[name] if kept[name] is None else kept[name].clone()
    return found
