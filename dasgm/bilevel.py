"""Multi-level optimisation with one unrolled step a level: it knows no architecture search and no GAN.

A `Player` is one level: a module, its optimiser, its clipping. `Player.step` takes the optimiser's real step and
returns the step's response, the transposed Jacobian of that very step, so no virtual copy of a network is made:

    response = W.step(*grad(L_train(W.live), W))
    gA, v = grad(L_valid(A, W), A, W)
    gA = add(gA, mixed_vjp(L_train, W0, A, response(v), radius))      # W0: the place W stood at before its step
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dasgm.distributed import average

Tensors = dict[str, Tensor]
Response = Callable[[Tensors], Tensors]
MOMENTS = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
"""What an optimiser's state holds of each parameter."""


class NotFinite(ArithmeticError):
    """A number that must be finite is not."""


def seed_of(*parts: object) -> int:
    """A 63-bit seed from (seed, rank, iteration, name of the stream): streams need no state, so a resume is exact."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def replay(*parts: object) -> Iterator[None]:
    """Draw from the stream named by `parts`; entered again, the same draws. Outside nothing is disturbed."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed_of(*parts))
        yield


def add(x: Tensors, y: Tensors) -> Tensors:
    """x + y, where a missing gradient is {}."""
    return {k: x[k] + y[k] for k in x} if x and y else x or y


def norm(x: Tensors) -> Tensor:
    """Euclidean norm over all tensors together."""
    return torch.stack([t.pow(2).sum() for t in x.values()]).sum().sqrt()


class Point:
    """A module at given tensors: a pure function of its arguments, at a place that does not move."""

    def __init__(self, slots: _Slots, params: Tensors, buffers: Tensors):
        self._slots, self.params, self.buffers = slots, params, buffers

    @property
    def trainable(self) -> Tensors:
        """What gradients are taken for; {} at a fixed place."""
        return {}

    def __call__(self, *args: Any) -> Any:
        """The module's output here. What its forward writes into buffers is dropped."""
        buffers = {k: b.clone() for k, b in self.buffers.items()}
        return self._slots.call(self.params, buffers, args)

    def moved(self, direction: Tensors, eps: float) -> Point:
        """The place params + eps * direction."""
        moved = {k: torch.add(t, direction[k], alpha=eps) if k in direction else t for k, t in self.params.items()}
        return Point(self._slots, moved, self.buffers)

    def state(self) -> Point:
        """This place."""
        return self


class _Slots:
    """Where a module keeps each parameter and buffer, found once (a walk over names costs more than a forward)."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.params = self._find(module.named_parameters(remove_duplicate=False), "_parameters")
        self.buffers = self._find(module.named_buffers(remove_duplicate=False), "_buffers")

    def _find(self, named: Any, where: str) -> dict[str, tuple[dict[str, Any], str]]:
        slots, seen = {}, set()
        for name, tensor in named:
            assert id(tensor) not in seen, f"{name} is shared by two modules: a pure call would swap one of them only"
            seen.add(id(tensor))
            owner, _, leaf = name.rpartition(".")
            slots[name] = (getattr(self.module.get_submodule(owner), where), leaf)
        return slots

    def call(self, params: Tensors, buffers: Tensors, args: tuple[Any, ...]) -> Any:
        """The module's forward with these tensors in place of its own, which come back whatever happens."""
        own = [(slot, leaf, slot[leaf]) for slot, leaf in (*self.params.values(), *self.buffers.values())]
        try:
            for (slot, leaf), tensor in zip(self.params.values(), params.values(), strict=True):
                slot[leaf] = tensor
            for (slot, leaf), tensor in zip(self.buffers.values(), buffers.values(), strict=True):
                slot[leaf] = tensor
            return self.module(*args)
        finally:
            for slot, leaf, tensor in own:
                slot[leaf] = tensor

    def read(self, slots: dict[str, tuple[dict[str, Any], str]]) -> Tensors:
        return {name: slot[leaf] for name, (slot, leaf) in slots.items()}


class Player(Point):
    """One level: a module, the optimiser that steps it, and the clipping before.

    Args:
        module: its parameters are the level's variables; always in training mode.
        optimizer: builds the optimiser from a list of parameters (SGD without Nesterov, or Adam).
        clip: bound on the norm of the gradient over all parameters together, or None.
        regularise: params -> an extra gradient, added after clipping (orthogonal regularisation).
        average_decay: step count -> decay of the moving average of the parameters (0 copies); None keeps none.
        inner: "taken" answers with the step really taken, "sgd" with -lr * v (the paper's literal Eq. 4).
        frozen: nothing is trainable and nothing moves.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] | None = None,
        clip: float | None = None,
        regularise: Callable[[Tensors], Tensors] | None = None,
        average_decay: Callable[[int], float] | None = None,
        inner: str = "taken",
        frozen: bool = False,
    ):
        self._slots = _Slots(module.train())
        self.module, self.clip, self.regularise, self.average_decay = module, clip, regularise, average_decay
        self.inner, self.frozen, self.steps = inner, frozen, 0
        self.params = self._slots.read(self._slots.params)
        for p in self.params.values():
            p.requires_grad_(not frozen)
        self.optimizer = optimizer(list(self.params.values())) if optimizer and self.params and not frozen else None
        self.mean = {k: p.detach().clone() for k, p in self.params.items()} if average_decay else None

    @property
    def buffers(self) -> Tensors:  # type: ignore[override]
        """The module's buffers as they stand now (a forward may replace them)."""
        return self._slots.read(self._slots.buffers)

    @property
    def trainable(self) -> Tensors:
        """Its parameters; {} when it is frozen or has none."""
        return {} if self.frozen else self.params

    def live(self, *args: Any) -> Any:
        """The same call, keeping what forward writes into buffers: only for the player's own loss."""
        return self._slots.module(*args)

    @property
    def fixed(self) -> Point:
        """The same place, with no gradient; it follows the player."""
        return _Fixed(self)

    def state(self) -> Point:
        """A copy of the place it stands at: parameters and buffers."""
        params = {k: p.detach().clone() for k, p in self.params.items()}
        return Point(self._slots, params, {k: b.clone() for k, b in self.buffers.items()})

    def averaged(self) -> Point:
        """The place of the moving average of the parameters (its own buffers)."""
        return Point(self._slots, self.mean, self.buffers) if self.mean else self.state()

    @property
    def lr(self) -> float:
        """Learning rate; written from outside, every epoch."""
        return self.optimizer.param_groups[0]["lr"] if self.optimizer else 0.0

    @lr.setter
    def lr(self, value: float) -> None:
        if self.optimizer:
            for group in self.optimizer.param_groups:
                group["lr"] = value

    @torch.no_grad()
    def step(self, grads: Tensors) -> Response:
        """Take the optimiser's real step along the raw gradients; return its response, valid until the next step.

        response(v) = (d new parameters / d grads)^T v = C (D v): D the diagonal of the optimiser, C of the clipping.
        """
        if not grads or self.optimizer is None:
            return lambda v: {}
        total = norm(grads)
        scale = min(1.0, self.clip / (float(total) + 1e-6)) if self.clip else 1.0
        clipped = {k: g * scale for k, g in grads.items()} if scale < 1.0 else grads
        handed = add(clipped, self.regularise(self.params)) if self.regularise else clipped
        for name, p in self.params.items():
            p.grad = handed[name].clone() if name in handed else None
        diagonal = _take(self.optimizer, self.params, grads)
        for p in self.params.values():
            p.grad = None
        self.steps += 1
        self._agree()

        @torch.no_grad()
        def response(v: Tensors) -> Tensors:
            if not v:
                return {}
            if self.inner == "sgd":
                return {k: -self.lr * t for k, t in v.items()}
            Dv = {k: d * v[k] for k, d in diagonal().items()}
            if scale == 1.0:
                return Dv
            along = torch.stack([(grads[k] * t).sum() for k, t in Dv.items()]).sum()
            shrink = along / (total * (total + 1e-6))
            return {k: scale * (t - grads[k] * shrink) for k, t in Dv.items()}

        return response

    def _agree(self) -> None:
        """The moving average, and floating buffers averaged over the workers so that rank 0's state is the truth."""
        average([b for b in self.buffers.values() if b.is_floating_point()])
        if self.mean and self.average_decay:
            decay = self.average_decay(self.steps)
            for k, p in self.params.items():
                self.mean[k].lerp_(p.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors: module, optimiser, step count, moving average."""
        optimizer = self.optimizer.state_dict() if self.optimizer else None
        return {"module": self.module.state_dict(), "optimizer": optimizer, "steps": self.steps, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken; the learning rate, which is no state, stays as it is."""
        self.module.load_state_dict(state["module"])
        if self.optimizer and state["optimizer"]:
            _ensure_moments(moments := state["optimizer"]["state"], self.optimizer, list(self.params.values()))
            groups = self.optimizer.state_dict()["param_groups"]  # settings are the configuration's, not the state's
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.steps = int(state["steps"])
        if self.mean is not None and state["mean"] is not None:
            for k, t in state["mean"].items():
                self.mean[k].copy_(t)


def _ensure_moments(moments: dict[int, dict[str, Any]], optimizer: Optimizer, params: list[Tensor]) -> None:
    """ValueError where they are not this optimiser's, of these parameters: it would take whatever it is given."""
    wanted = MOMENTS[type(optimizer).__name__]
    for i, entry in moments.items():
        if entry and set(entry) != wanted:
            raise ValueError(f"moments {sorted(entry)} of another optimiser")
        for name, t in entry.items():
            if t is not None and tuple(t.shape) != (() if name == "step" else tuple(params[i].shape)):
                raise ValueError(f"{name} of shape {list(t.shape)} for a parameter of {list(params[i].shape)}")


class _Fixed(Point):
    """A player seen as a constant."""

    def __init__(self, player: Player):
        self._player, self._slots = player, player._slots

    @property
    def params(self) -> Tensors:  # type: ignore[override]
        return {k: p.detach() for k, p in self._player.params.items()}

    @property
    def buffers(self) -> Tensors:  # type: ignore[override]
        return self._player.buffers

    def state(self) -> Point:
        return self  # no gradient passes through the player's step, so nobody comes back to where it stood


def nobody() -> Player:
    """A player without parameters: costs nothing, moves nothing."""
    return Player(nn.Module())


def _take(optimizer: torch.optim.Optimizer, params: Tensors, grads: Tensors) -> Callable[[], Tensors]:
    """Take the step; return what computes d new parameter / d what the optimiser was handed, entry by entry."""
    (group,) = optimizer.param_groups
    lr = group["lr"]
    if isinstance(optimizer, torch.optim.SGD):
        # momentum and weight decay add to the step what does not depend on this gradient
        assert not group["nesterov"] and not group["dampening"]
        optimizer.step()
        return lambda: {k: torch.full_like(g, -lr) for k, g in grads.items()}
    assert isinstance(optimizer, torch.optim.Adam) and not group["amsgrad"]
    (b1, b2), eps, decay = group["betas"], group["eps"], group["weight_decay"]
    sign = -1.0 if group["maximize"] else 1.0
    handed = {k: sign * _grad_of(params[k]) + decay * params[k] for k in grads}
    optimizer.step()

    def adam() -> Tensors:
        diagonal = {}
        for k, h in handed.items():
            moments = optimizer.state[params[k]]
            t = int(moments["step"])
            bc1, bc2 = 1 - b1**t, 1 - b2**t
            s, mean = (moments["exp_avg_sq"] / bc2).sqrt(), moments["exp_avg"] / bc1
            d = -sign * lr * ((1 - b1) / (bc1 * (s + eps)) - mean * (1 - b2) * h / (bc2 * s * (s + eps) ** 2))
            # where g is 0 (classes absent from the batch) the gradient is identically 0: nothing to answer to;
            # where its square underflows the formula is 0/0
            diagonal[k] = torch.where((grads[k] == 0) | (s == 0), 0.0, d)
        return diagonal

    return adam


def _grad_of(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def grad(loss: Tensor, *points: Point) -> tuple[Tensors, ...]:
    """d loss / d each point's trainable tensors, averaged over the workers: the only averaging of gradients.

    One dictionary a point; {} for what has nothing trainable.
    """
    found = _grad(loss, [p.trainable for p in points])
    average([g for tensors in found for g in tensors.values()])
    return found


def _grad(loss: Tensor, wanted: list[Tensors], create_graph: bool = False) -> tuple[Tensors, ...]:
    flat = [t for tensors in wanted for t in tensors.values()]
    if not flat:
        return tuple({} for _ in wanted)
    grads = iter(torch.autograd.grad(loss, flat, create_graph=create_graph, allow_unused=True))
    return tuple({k: torch.zeros_like(t) if (g := next(grads)) is None else g for k, t in ts.items()} for ts in wanted)


def mixed_vjp(f: Callable[[Any, Any], Tensor], x: Point, y: Player, p: Tensors, radius: float | None) -> Tensors:
    """d/dy <d f(x, y)/dx, p> at the place x: the mixed second derivative of f in direction p, as a gradient for y.

    Args:
        f: (x, y) -> scalar; called with x moved or not, it must draw the same random numbers each time.
        x: the place (a `Point`) whose parameters `p` is a direction of.
        y: the player that gets the gradient.
        p: direction; {} or all zeros gives {} with no pass made.
        radius: the central difference moves x by +-radius in Euclidean norm, in full float32; None: automatic
            differentiation instead (exact, but blind to what happens at kinks; design choice in `SearchConfig`).
    """
    if not p or not y.trainable:
        return {}
    size = float(norm(p))
    if size == 0.0:
        return {}
    if not math.isfinite(size):
        raise NotFinite("the direction of a mixed derivative is not finite")
    if radius is None:
        return _exact_mixed_vjp(f, x, y, p)
    eps = radius / size
    with full_precision():
        up, down = (_grad(f(x.moved(p, e), y), [y.trainable])[0] for e in (eps, -eps))
    mixed = {k: (up[k] - down[k]) / (2 * eps) for k in up}
    average(list(mixed.values()))
    return mixed


def _exact_mixed_vjp(f: Callable[[Any, Any], Tensor], x: Point, y: Player, p: Tensors) -> Tensors:
    """Double backward at a copy of x: the graph of x's own step did not survive that step.

    For B this passes through G too: the same value as the JVP of G and a double backward of E alone, at more cost.
    """
    copy = {k: t.detach().clone().requires_grad_(k in p) for k, t in x.params.items()}
    wanted = {k: copy[k] for k in p}
    (gx,) = _grad(f(Point(x._slots, copy, x.buffers), y), [wanted], create_graph=True)
    inner = torch.stack([(gx[k] * p[k]).sum() for k in p if gx[k].requires_grad]).sum()
    (mixed,) = _grad(inner, [y.trainable])
    average(list(mixed.values()))
    return mixed


def dominant_eigenvalue(f: Callable[[], Tensor], x: Player, iterations: int = 20, tolerance: float = 1e-3) -> float:
    """Eigenvalue of largest modulus of the Hessian of f over x's parameters, averaged over the workers.

    Power iteration from a random start until the Rayleigh quotient changes by less than `tolerance` of itself.
    """
    (g,) = _grad(f(), [x.trainable], create_graph=True)
    v = {k: torch.randn(t.shape, dtype=t.dtype).to(t.device) for k, t in g.items()}
    value = 0.0
    for _ in range(iterations):
        size = norm(v)
        v = {k: t / size for k, t in v.items()}
        inner = torch.stack([(g[k] * v[k]).sum() for k in g]).sum()
        flat = torch.autograd.grad(inner, list(x.trainable.values()), retain_graph=True)
        Hv = dict(zip(x.trainable, flat, strict=True))
        average(list(Hv.values()))
        before, value = value, float(torch.stack([(Hv[k] * v[k]).sum() for k in v]).sum())
        if abs(value - before) <= tolerance * abs(value):
            break
        v = Hv
    return value


@contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 and no autocast: the difference of two gradients is below their rounding."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
