"""Optimisers of torch that do not import its compiler.

torch.optim imports torch._dynamo at its first call, only to say that the call is not to be compiled: 900 modules, in
which a small search would spend as long as in an epoch. A process that has not imported the compiler compiles nothing,
so there the call needs none; as soon as anyone, such as a plug-in, has imported it, torch's own wrappers do their work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from torch import no_grad
from torch.optim import SGD, Adam, Optimizer

COMPILER = "torch._dynamo"


@cache
def leave_out_compiler() -> None:
    """Let torch's wrappers of its optimisers' functions wait until someone has imported the compiler."""
    if COMPILER in sys.modules:
        return
    for kind in (SGD, Adam):
        _leave_out(kind, "step", no_grad())
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        _leave_out(Optimizer, name, lambda function: function)


def _leave_out(kind: type[Optimizer], name: str, then: Callable[[Any], Any]) -> None:
    own = getattr(kind, name)
    if not hasattr(own, "__wrapped__"):
        return
    plain = then(own.__wrapped__)

    @wraps(own)
    def function(self: Optimizer, *args: Any, **more: Any) -> Any:
        compiled = COMPILER in sys.modules or self.defaults.get("differentiable")
        return (own if compiled else plain)(self, *args, **more)

    setattr(kind, name, function)
