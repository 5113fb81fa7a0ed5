"""Gradients through a step: the mixed second derivatives of Eq. 6 and 7, and the largest eigenvalue of a Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dasgm.bilevel.derivatives import ShortDerivatives
from dasgm.bilevel.player import Player
from dasgm.bilevel.point import Point
from dasgm.bilevel.response import Tensors, add, flat, norm, scaled
from dasgm.distributed import average


def grad(loss: Tensor, *points: Point) -> tuple[Tensors, ...]:
    """d loss / d the trainable tensors of each point, averaged over the workers.

    Returns:
        One dictionary per point; {} where nothing is trainable, or where the loss does not depend on the point.
    """
    found = _grad(loss, [p.trainable for p in points])
    average([g for tensors in found for g in tensors.values()])
    return found


def _grad(
    loss: Tensor | list[Tensor], wanted: list[Tensors], create_graph: bool = False, along: list[Tensor] | None = None
) -> tuple[Tensors, ...]:
    """The same of any tensors, on this worker alone. One tensor that the loss does not depend on has gradient 0.

    Args:
        along: of several tensors in place of a loss: each one's direction. The loss is their inner product.
    """
    tensors = [t for ts in wanted for t in ts.values()]
    if not tensors:
        return tuple({} for _ in wanted)
    found = iter(torch.autograd.grad(loss, tensors, along, create_graph=create_graph, allow_unused=True))
    grads = [{k: next(found) for k in ts} for ts in wanted]
    return tuple(_whole(some, ts) for some, ts in zip(grads, wanted, strict=True))


def _whole(grads: Mapping[str, Tensor | None], like: Tensors) -> Tensors:
    if all(g is None for g in grads.values()):
        return {}
    return {k: torch.zeros_like(like[k]) if g is None else g for k, g in grads.items()}


def mixed_vjp(f: Callable[[Any, Any], Tensor], x: Point, y: Player, p: Tensors, radius: float | None) -> Tensors:
    """d/dy <d f(x, y)/dx, p>: the mixed second derivative of f in direction p, as a gradient for y.

    Args:
        f: (x, y) -> scalar. It must make the same random draws in every call.
        x: the point at which the derivative is taken.
        y: the player that gets the gradient.
        p: a direction for the parameters of x. {} gives {}, without a pass. A direction that is not finite gives a
            gradient that is not finite.
        radius: distance (Euclidean norm) by which the central difference moves x to either side, in full float32.
            None takes automatic differentiation instead, which is exact but ignores kinks such as ReLU's.
    """
    if not p or not y.trainable:
        return {}
    if radius is None:
        return _exact_mixed_vjp(f, x, y, p)
    size = norm(p)
    eps = radius / torch.where(size == 0, 1.0, size)
    return _difference(lambda moved: _grad(f(moved, y), [y.trainable])[0], x, p, eps)


def _difference(gradient: Callable[[Point], Tensors], x: Point, p: Tensors, eps: Tensor | float) -> Tensors:
    """(gradient(x + eps p) - gradient(x - eps p)) / (2 eps), averaged over the workers."""
    with full_precision():
        up, down = (gradient(x.moved(p, e)) for e in (eps, -eps))
    found = scaled(add(up, scaled(down, -1.0)), 1 / (2 * eps))
    average(list(found.values()))
    return found


def _exact_mixed_vjp(f: Callable[[Any, Any], Tensor], x: Point, y: Player, p: Tensors) -> Tensors:
    """Double backward at a copy of x, because the graph of the step of x does not survive that step.

    For B this differentiates G too. The value is that of the JVP of G followed by a double backward of E alone, at a
    higher cost.
    """
    copy = {k: t.detach().clone().requires_grad_(k in p) for k, t in x.params.items()}
    with ShortDerivatives():
        loss = f(x.at(copy), y)
    (gx,) = _grad(loss, [{k: copy[k] for k in p}], create_graph=True)
    dependent = [k for k in p if gx[k].requires_grad]
    (mixed,) = _grad([gx[k] for k in dependent], [y.trainable], along=[p[k] for k in dependent])
    average(list(mixed.values()))
    return mixed


def dominant_eigenvalue(
    f: Callable[[Any], Tensor], x: Player, radius: float, iterations: int = 20, tolerance: float = 1e-3
) -> float:
    """The eigenvalue of largest modulus of the Hessian of f over the parameters of x, averaged over the workers.

    Power iteration from a random start. It ends when the Rayleigh quotient changes by less than `tolerance` of itself.
    The product of the Hessian and a direction is a central difference of two gradients.

    Args:
        f: x -> scalar. It must make the same random draws in every call.
        radius: distance by which the difference moves x to either side, in full float32.
    """
    place = x.state()
    v = {k: torch.randn(t.shape, dtype=t.dtype).to(t.device) for k, t in x.trainable.items()}
    value = 0.0
    for _ in range(iterations):
        size = norm(v)
        v = {k: t / size for k, t in v.items()}
        Hv = _difference(lambda moved: _gradient_at(moved, f), place, v, radius)
        before, value = value, float(torch.stack([(Hv[k] * v[k]).sum() for k in v]).sum())
        if abs(value - before) <= tolerance * abs(value):
            break
        v = Hv
    return value


def largest_eigenvalue(f: Callable[[Any], Tensor], x: Player, radius: float, products: int = 20) -> float:
    """The algebraically largest eigenvalue of the same Hessian, by Lanczos's method from a random start: the largest
    within the space that the start and its products with the Hessian span.

    Args:
        products: number of products of the Hessian and a direction, each of them two gradients.

    Returns:
        The eigenvalue, or NaN where a gradient is not finite.
    """
    place, shapes = x.state(), {k: t.shape for k, t in x.trainable.items()}
    sizes = [shape.numel() for shape in shapes.values()]
    v = torch.cat([torch.randn(t.numel(), dtype=t.dtype).to(t.device) for t in x.trainable.values()])
    basis, images = v.new_empty(0, len(v)), v.new_empty(0, len(v))
    for _ in range(min(products, len(v))):
        v = v / v.norm()
        for _ in range(2):  # the first leaves what rounding makes of it
            v = v - basis.t() @ (basis @ v)
            v = v / v.norm()
        if not v.isfinite().all():  # the space is complete
            break
        basis = torch.cat([basis, v[None]])
        direction = {k: part.view(shape) for part, (k, shape) in zip(v.split(sizes), shapes.items(), strict=True)}
        v = flat(_difference(lambda moved: _gradient_at(moved, f), place, direction, radius))
        images = torch.cat([images, v[None]])
    projected = (basis @ images.t()).cpu()
    if not projected.isfinite().all():
        return math.nan
    return float(torch.linalg.eigvalsh((projected + projected.t()) / 2)[-1])


def _gradient_at(x: Point, f: Callable[[Any], Tensor]) -> Tensors:
    leaves = {k: t.detach().requires_grad_() for k, t in x.params.items()}
    return _grad(f(x.at(leaves)), [leaves])[0]


@contextmanager
def full_precision() -> Iterator[None]:
    """Disables TF32 and autocast: the difference of two gradients is smaller than their rounding errors."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
