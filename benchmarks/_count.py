"""Operations that a piece of work dispatches to a device: a figure that no other work on the machine disturbs.

Where there is no GPU, tensors without numbers (device `meta`) take the same branches as on one. Their counts were
compared with those of a CUDA build whose kernels do nothing: they differ by one in a thousand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = {
    "detach", "alias", "_unsafe_view", "_reshape_alias", "unbind", "split", "split_with_sizes", "set_",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
}  # fmt: skip
"""Views and allocations: nothing is launched."""


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "meta"


class Counted(TorchDispatchMode):
    """Counts what is dispatched on the device while it is entered.

    Attributes:
        operations: by name.
        synchronisations: how often the host asked for a value of the device.
        copies: between host and device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.synchronisations = self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if name == "_local_scalar_dense" and given[0].device.type != "cpu":
            self.synchronisations += 1
            if given[0].is_meta:  # has no value: as if it were one
                return torch.ones((), dtype=given[0].dtype).item()
        result = func(*args, **kwargs)
        places = {t.device.type for t in (*given, *tree_leaves(result)) if isinstance(t, Tensor) and t.numel() > 0}
        if places - {"cpu"}:
            self.copies += len(places) > 1 and any(t.device.type == "cpu" and t.ndim for t in given)
            self.operations[name] += not (func.is_view or name in FREE or name == "_local_scalar_dense")
        return result

    @property
    def total(self) -> int:
        return self.operations.total()


def counted(work: Callable[[], object]) -> Counted:
    """Of the second run: the first makes what is made once."""
    with optimisers_as_on_a_gpu():
        with Counted():  # which answers for values that are not there
            work()
        with Counted() as found:
            work()
    return found


@contextmanager
def optimisers_as_on_a_gpu() -> Iterator[None]:
    """PyTorch's optimisers take all parameters at once on a GPU. Here they do on `meta` too."""
    with patch("torch.optim.optimizer._get_foreach_kernels_supported_devices", lambda: ["cuda", "meta"]):
        yield
