"""Optimisers of torch that do not import its compiler.

torch.optim imports torch._dynamo at its first call, only to say that the call is not to be compiled: 900 modules, in
which a small search would spend as long as in an epoch. No job compiles an optimiser.
"""

from __future__ import annotations

from functools import cache

from torch import no_grad
from torch.optim import SGD, Adam, Optimizer


@cache
def leave_out_compiler() -> None:
    """Take torch's own wrappers off the functions of its optimisers; what they compute stays."""
    for kind in (SGD, Adam):
        if step := getattr(kind.step, "__wrapped__", None):  # the wrapper that a `differentiable` optimiser needs
            kind.step = no_grad()(step)  # type: ignore[method-assign]
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        if function := getattr(getattr(Optimizer, name), "__wrapped__", None):
            function.__dynamo_disable = function  # where torch keeps what torch._dynamo made of it
