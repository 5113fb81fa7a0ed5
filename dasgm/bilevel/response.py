"""The response of an optimiser's step: how the new parameters depend on the gradient that the step was given.

    response(v) = (d new parameters / d gradient)^T v = C (D v)

D is the Jacobian of the optimiser, which is diagonal, and C that of the gradient clipping, which is symmetric. The two
do not commute. docs/algorithm.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

Tensors = dict[str, Tensor]
Response = Callable[[Tensors], Tensors]


def add(x: Tensors, y: Tensors) -> Tensors:
    """x + y, where {} stands for a gradient that is missing."""
    return {k: x[k] + y[k] for k in x} if x and y else x or y


def norm(x: Tensors) -> Tensor:
    """Euclidean norm over all tensors together."""
    return torch.stack([t.pow(2).sum() for t in x.values()]).sum().sqrt()


def no_response(v: Tensors) -> Tensors:
    """The response where no step was taken."""
    return {}


@dataclass(frozen=True)
class SgdResponse:
    """The response of a plain SGD step, -lr v: the paper's literal Eq. 4, whatever optimiser takes the step."""

    lr: float

    def __call__(self, v: Tensors) -> Tensors:
        return {k: -self.lr * t for k, t in v.items()}


@dataclass(frozen=True)
class Clipping:
    """Gradient clipping by the norm over all parameters: g -> scale g with scale = min(1, clip / (|g| + 1e-6))."""

    grads: Tensors
    norm: Tensor
    scale: float

    @classmethod
    def of(cls, grads: Tensors, clip: float | None) -> Clipping:
        total = norm(grads)
        return cls(grads, total, min(1.0, clip / (float(total) + 1e-6)) if clip else 1.0)

    def clipped(self) -> Tensors:
        return {k: g * self.scale for k, g in self.grads.items()} if self.scale < 1.0 else self.grads

    def jacobian(self, x: Tensors) -> Tensors:
        """C x, where C = scale (I - g g^T / (|g| (|g| + 1e-6))), or the identity where nothing is clipped."""
        if self.scale == 1.0:
            return x
        along = torch.stack([(self.grads[k] * t).sum() for k, t in x.items()]).sum()
        shrink = along / (self.norm * (self.norm + 1e-6))
        return {k: self.scale * (t - self.grads[k] * shrink) for k, t in x.items()}


@dataclass(frozen=True)
class StepResponse:
    """The response of the step that the optimiser took last. The optimiser's next step makes it invalid."""

    optimizer: Optimizer
    params: Tensors
    clipping: Clipping
    handed: Tensors
    """Of Adam: the gradient that its moments saw, with weight decay and with the sign of `maximize`."""

    @torch.no_grad()
    def __call__(self, v: Tensors) -> Tensors:
        if not v:
            return {}
        return self.clipping.jacobian({k: d * v[k] for k, d in self._diagonal().items()})

    def _diagonal(self) -> Tensors:
        """D: the derivative of each new parameter by the entry of the gradient that the optimiser was handed."""
        if isinstance(self.optimizer, SGD):  # momentum and weight decay do not depend on this gradient
            lr = self.optimizer.param_groups[0]["lr"]
            return {k: torch.full_like(g, -lr) for k, g in self.clipping.grads.items()}
        return {k: self._of_adam(self.params[k], h, self.clipping.grads[k]) for k, h in self.handed.items()}

    def _of_adam(self, p: Tensor, h: Tensor, g: Tensor) -> Tensor:
        (group,) = self.optimizer.param_groups
        (b1, b2), lr, eps, sign = group["betas"], group["lr"], group["eps"], _sign(self.optimizer)
        moments = self.optimizer.state[p]
        t = int(moments["step"])
        bc1, bc2 = 1 - b1**t, 1 - b2**t
        s, mean = (moments["exp_avg_sq"] / bc2).sqrt(), moments["exp_avg"] / bc1
        d = -sign * lr * ((1 - b1) / (bc1 * (s + eps)) - mean * (1 - b2) * h / (bc2 * s * (s + eps) ** 2))
        # g is exactly 0 where a class is absent from the batch: the gradient is identically 0, so D is 0 there.
        # Where the square of g underflows, the formula would be 0/0.
        return torch.where((g == 0) | (s == 0), 0.0, d)


def take_step(optimizer: Optimizer, params: Tensors, clipping: Clipping) -> StepResponse:
    """Step along the gradients in `p.grad` and return the response of that step. SGD without Nesterov, or Adam."""
    (group,) = optimizer.param_groups
    handed = {}
    if isinstance(optimizer, SGD):
        assert not group["nesterov"] and not group["dampening"]
    else:
        assert isinstance(optimizer, Adam) and not group["amsgrad"]
        sign, decay = _sign(optimizer), group["weight_decay"]
        handed = {k: sign * _grad_of(params[k]) + decay * params[k] for k in clipping.grads}
    optimizer.step()
    return StepResponse(optimizer, params, clipping, handed)


def _sign(optimizer: Optimizer) -> float:
    return -1.0 if optimizer.param_groups[0]["maximize"] else 1.0


def _grad_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
