"""A module as a pure function of its parameters and buffers."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from dasgm.bilevel.response import Tensors, add, copied, scaled

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of a batch norm
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
        dropped = self._slots.only_written()
        read = copied({k: b for k, b in self.buffers.items() if k not in dropped})
        return self._slots.call(self.params, {k: read.get(k) for k in self.buffers}, args)

    def at(self, params: Tensors) -> Point:
        """The same module and buffers with other parameters."""
        return Point(self._slots, params, self.buffers)

    def moved(self, direction: Tensors, eps: Tensor | float) -> Point:
        """The point params + eps * direction."""
        at = {k: t.detach() for k, t in self.params.items()}
        return self.at(at | add({k: at[k] for k in direction}, scaled(direction, eps)))

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
        norms = [(name, m) for name, m in module.named_modules() if _keeps_statistics(m)]
        self.statistics = {f"{name}.{leaf}".lstrip("."): m for name, m in norms for leaf in STATISTICS}
        self.params = self._find("_parameters", module.named_parameters)
        self.buffers = self._find("_buffers", module.named_buffers)

    def _find(self, where: str, named: Any) -> Places:
        names = [name for name, _ in named(remove_duplicate=False)]
        shared = set(names) - {name for name, _ in named()}
        assert not shared, f"{sorted(shared)} are shared by two modules: a pure call would replace one of them only"
        owners = ((name, *name.rpartition(".")[::2]) for name in names)
        return {name: (getattr(self.module.get_submodule(owner), where), leaf) for name, owner, leaf in owners}

    def only_written(self) -> set[str]:
        """Names of buffers that a forward pass writes and does not read: running statistics in training mode."""
        return {name for name, norm in self.statistics.items() if norm.training}

    def call(self, params: Tensors, buffers: dict[str, Tensor | None], args: tuple[Any, ...]) -> Any:
        """The module's output with these tensors. Its own tensors are put back, even after an exception."""
        own = [(slot, leaf, slot[leaf]) for slot, leaf in (*self.params.values(), *self.buffers.values())]
        kept = _keeps_writes.set(False)
        try:
            for (slot, leaf, _), tensor in zip(own, (*params.values(), *buffers.values()), strict=True):
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


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm of torch, or one that says that it treats its statistics as torch's do."""
    known = getattr(module, "statistics_as_torch", type(module).__module__.startswith("torch.nn."))
    return known and getattr(module, STATISTICS[0], None) is not None
