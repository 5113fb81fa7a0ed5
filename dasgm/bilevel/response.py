"""The response of an optimiser's step: how the new parameters depend on the gradient that the step was given.

    response(v) = (d new parameters / d gradient)^T v = C (D v)

D is the Jacobian of the optimiser, which is diagonal, and C that of the gradient clipping, which is symmetric. The two
do not commute. docs/explanation/algorithm.md has the formulas.

A network has hundreds of small tensors, so what is done to each of them alike is done in one call (`torch._foreach_*`),
or on one long vector. No number is read back, so a GPU is never waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.optim import SGD, Adam, Optimizer

Tensors = dict[str, Tensor]
Response = Callable[[Tensors], Tensors]


def add(x: Tensors, y: Tensors) -> Tensors:
    """x + y, where {} stands for a gradient that is missing."""
    if not (x and y):
        return x or y
    return dict(zip(x, torch._foreach_add(list(x.values()), [y[k] for k in x]), strict=True))


def scaled(x: Tensors, factor: Tensor | float) -> Tensors:
    """factor * x."""
    return dict(zip(x, torch._foreach_mul(list(x.values()), factor), strict=True)) if x else {}


def copied(x: Tensors) -> Tensors:
    """A copy of each tensor, detached."""
    copies = {k: torch.empty_like(t, requires_grad=False) for k, t in x.items()}
    if x:
        torch._foreach_copy_(list(copies.values()), [t.detach() for t in x.values()])
    return copies


def flat(x: Tensors) -> Tensor:
    """All entries as one vector."""
    return _flatten_dense_tensors(list(x.values()))


def unflat(vector: Tensor, like: Tensors) -> Tensors:
    """The inverse of `flat`, with the names and shapes of `like`."""
    return dict(zip(like, _unflatten_dense_tensors(vector, list(like.values())), strict=True))


def norm(x: Tensors) -> Tensor:
    """Euclidean norm over all tensors together."""
    return _length(flat(x))


def _length(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector)


def no_response(v: Tensors) -> Tensors:
    """The response where no step was taken."""
    return {}


@dataclass(frozen=True)
class SgdResponse:
    """The response of a plain SGD step, -lr v: the paper's literal Eq. 4, whatever optimiser takes the step."""

    lr: Tensor | float

    def __call__(self, v: Tensors) -> Tensors:
        return scaled(v, -self.lr)


@dataclass(frozen=True)
class Clipping:
    """Gradient clipping by the norm over all parameters: g -> scale g with scale = min(1, clip / (|g| + 1e-6))."""

    grads: Tensors
    bound: tuple[Tensor, Tensor, Tensor] | None
    """g as one vector, |g| and scale; None where there is no clipping."""

    @classmethod
    def of(cls, grads: Tensors, clip: float | None) -> Clipping:
        if not clip:
            return cls(grads, None)
        g = flat(grads)
        size = _length(g)
        return cls(grads, (g, size, (clip / (size + 1e-6)).clamp(max=1.0)))

    def clipped(self) -> Tensors:
        return scaled(self.grads, self.bound[2]) if self.bound else self.grads

    def jacobian(self, x: Tensors) -> Tensors:
        """C x, where C = scale (I - g g^T / (|g| (|g| + 1e-6))), or the identity where nothing is clipped."""
        if not self.bound:
            return x
        (g, size, scale), vector = self.bound, flat(x)
        along = (g * vector).sum() / (size * (size + 1e-6))
        return unflat(scale * (vector - g * torch.where(scale < 1, along, 0.0)), x)


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
        v = {k: v[k] for k in self.clipping.grads}
        if isinstance(self.optimizer, SGD):  # weight decay and earlier momentum do not depend on this gradient
            (group,) = self.optimizer.param_groups
            return self.clipping.jacobian(scaled(v, -group["lr"] * (1 + group["momentum"] * group["nesterov"])))
        return self.clipping.jacobian(unflat(self._diagonal_of_adam() * flat(v), v))

    def _diagonal_of_adam(self) -> Tensor:
        """The derivative of each new parameter by the entry of the gradient that Adam was handed."""
        (group,) = self.optimizer.param_groups
        (b1, b2), lr, eps, sign = group["betas"], group["lr"], group["eps"], _sign(self.optimizer)
        moments = {k: self.optimizer.state[self.params[k]] for k in self.handed}
        square = flat({k: m["exp_avg_sq"] for k, m in moments.items()})
        t = next(iter(moments.values()))["step"].to(square)  # all parameters have taken the same number of steps
        bc1, bc2 = (-torch.expm1(t * math.log(b)) if b else 1.0 for b in (b1, b2))  # 1 - b^t, exact in float32 too
        s = (square / bc2).sqrt()
        mean = flat({k: m["exp_avg"] for k, m in moments.items()}) / bc1
        h, g = flat(self.handed), flat(self.clipping.grads)
        d = -sign * lr * ((1 - b1) / (bc1 * (s + eps)) - mean * (1 - b2) * h / (bc2 * s * (s + eps) ** 2))
        # g is exactly 0 where a class is absent from the batch: the gradient is identically 0, so D is 0 there.
        # Where the square of g underflows, the formula would be 0/0.
        return torch.where((g == 0) | (s == 0), 0.0, d)


def take_step(optimizer: Optimizer, params: Tensors, clipping: Clipping) -> StepResponse:
    """Step along the gradients in `p.grad` and return the response of that step. SGD, or Adam."""
    (group,) = optimizer.param_groups
    handed = {}
    if isinstance(optimizer, SGD):
        assert not group["dampening"]
    else:
        assert isinstance(optimizer, Adam) and not group["amsgrad"]
        handed = {k: _grad_of(params[k]) for k in clipping.grads}
        if group["maximize"]:
            handed = scaled(handed, -1.0)
        if group["weight_decay"]:
            handed = add(handed, scaled({k: params[k] for k in handed}, group["weight_decay"]))
    optimizer.step()
    return StepResponse(optimizer, params, clipping, handed)


def _sign(optimizer: Optimizer) -> float:
    return -1.0 if optimizer.param_groups[0]["maximize"] else 1.0


def _grad_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad
