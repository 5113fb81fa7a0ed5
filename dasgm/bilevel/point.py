"""A module as a pure function of its parameters and buffers."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from dasgm.bilevel.response import Tensors

Places = dict[str, tuple[dict[str, Any], str]]  # name of a tensor -> the dictionary that holds it, and its key there

_keeps_writes: ContextVar[bool] = ContextVar("keeps_writes", default=True)


def keeps_writes() -> bool:
    """Whether what a forward writes into buffers stays. In a call of a `Point` it does not: a module may leave out the
    work for it."""
    return _keeps_writes.get()


class Point:
    """A module with the given parameters and buffers in place of its own.

    Calling it gives the module's output there; nothing that the module holds changes.
    """

    def __init__(self, slots: Slots, params: Tensors, buffers: Tensors):
        self._slots, self.params, self.buffers = slots, params, buffers

    @property
    def trainable(self) -> Tensors:
        """The tensors that gradients are taken for: none."""
        return {}

    def __call__(self, *args: Any) -> Any:
        """The module's output at this point. What its forward writes into buffers is dropped."""
        buffers = {k: b.clone() for k, b in self.buffers.items()}
        return self._slots.call(self.params, buffers, args)

    def at(self, params: Tensors) -> Point:
        """The same module and buffers with other parameters."""
        return Point(self._slots, params, self.buffers)

    def moved(self, direction: Tensors, eps: float) -> Point:
        """The point params + eps * direction."""
        return self.at(
            {k: torch.add(t, direction[k], alpha=eps) if k in direction else t for k, t in self.params.items()}
        )

    def state(self) -> Point:
        """A point that stays when this one moves: here itself."""
        return self


class Slots:
    """The dictionaries in which a module holds its parameters and buffers.

    They are looked up once, since a walk over all names costs more than a forward pass. No tensor may be shared by two
    modules: a call would replace only one of them.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.params = self._find("_parameters", module.named_parameters)
        self.buffers = self._find("_buffers", module.named_buffers)

    def _find(self, where: str, named: Any) -> Places:
        names = [name for name, _ in named(remove_duplicate=False)]
        shared = set(names) - {name for name, _ in named()}
        assert not shared, f"{sorted(shared)} are shared by two modules: a pure call would replace one of them only"
        owners = ((name, *name.rpartition(".")[::2]) for name in names)
        return {name: (getattr(self.module.get_submodule(owner), where), leaf) for name, owner, leaf in owners}

    def call(self, params: Tensors, buffers: Tensors, args: tuple[Any, ...]) -> Any:
        """The module's output with these tensors. Its own tensors are put back, even after an exception."""
        own = [(slot, leaf, slot[leaf]) for slot, leaf in (*self.params.values(), *self.buffers.values())]
        kept = _keeps_writes.set(False)
        try:
            for (slot, leaf), tensor in zip(self.params.values(), params.values(), strict=True):
                slot[leaf] = tensor
            for (slot, leaf), tensor in zip(self.buffers.values(), buffers.values(), strict=True):
                slot[leaf] = tensor
            return self.module(*args)
        finally:
            _keeps_writes.reset(kept)
            for slot, leaf, tensor in own:
                slot[leaf] = tensor

    @staticmethod
    def read(places: Places) -> Tensors:
        """The tensors that the module holds now, by name."""
        return {name: slot[leaf] for name, (slot, leaf) in places.items()}
