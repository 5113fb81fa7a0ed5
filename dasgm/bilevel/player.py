"""A level of the optimisation: a module with its optimiser, gradient clipping and moving average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dasgm.bilevel.draws import changing, draw
from dasgm.bilevel.point import Point, Slots
from dasgm.bilevel.response import Clipping, Response, SgdResponse, Tensors, add, copied, no_response, take_step
from dasgm.distributed import average

MOMENTS = {"SGD": {"momentum_buffer"}, "Adam": {"step", "exp_avg", "exp_avg_sq"}}
"""Names of what an optimiser keeps for each parameter."""


class Player(Point):
    """One level: a module, the optimiser that steps it, and the gradient clipping before the step.

    Args:
        module: its parameters are the variables of this level. It is put into training mode.
        optimizer: builds the optimiser from a list of parameters (SGD or Adam). None: the
            player takes no steps.
        clip: bound of the norm of the gradient over all parameters together, or None.
        regularise: parameters -> an extra gradient, added after clipping (orthogonal regularisation).
        average_decay: number of the step -> decay of the moving average of the parameters (0 copies them). None: no
            average is kept.
        inner: "taken": the response is that of the step really taken. "sgd": it is -lr * v (the paper's literal Eq. 4).
        frozen: nothing is trainable and nothing changes.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Callable[[list[Tensor]], Optimizer] | None = None,
        clip: float | None = None,
        regularise: Callable[[Tensors], Tensors] | None = None,
        average_decay: Callable[[int], float] | None = None,
        inner: str = "taken",
        frozen: bool = False,
    ):
        self._slots = Slots(module.train())
        self.module, self.clip, self.regularise, self.average_decay = module, clip, regularise, average_decay
        self.inner, self.frozen, self.steps = inner, frozen, 0
        self.params = self._slots.read(self._slots.params)
        for p in self.params.values():
            p.requires_grad_(not frozen)
        steps = self.params and not frozen
        self.optimizer = _fast(optimizer(list(self.params.values()))) if optimizer and steps else None
        self._lr: float = self.optimizer.param_groups[0]["lr"] if self.optimizer else 0.0
        self.mean = {k: p.detach().clone() for k, p in self.params.items()} if average_decay else None

    @property
    def buffers(self) -> Tensors:  # type: ignore[override]
        """The module's buffers as they are now; a forward pass may replace them."""
        return self._slots.read(self._slots.buffers)

    @property
    def buffer_slots(self) -> list[tuple[dict[str, Any], str]]:
        """The dictionaries that hold the module's buffers, each with the key there."""
        return list(self._slots.buffers.values())

    @property
    def trainable(self) -> Tensors:
        """The module's parameters; {} where the player is frozen or has none."""
        return {} if self.frozen else self.params

    def live(self, *args: Any) -> Any:
        """The module's output, keeping what its forward writes into buffers. Only the player's own loss calls this."""
        return self._slots.module(*args)

    @property
    def fixed(self) -> Point:
        """The player as a constant: it follows the player's steps, and no gradient passes into it."""
        return _Fixed(self)

    def state(self) -> Point:
        """A copy of the parameters and buffers as they are now."""
        return Point(self._slots, copied(self.params), copied(self.buffers))

    def averaged(self) -> Point:
        """The module at the moving average of its parameters, with its own buffers; without an average, `state()`."""
        return self.at(self.mean) if self.mean else self.state()

    @property
    def lr(self) -> float:
        """Learning rate of the next step, 0 without an optimiser. The search sets it every epoch."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        if self.optimizer:
            self._lr = value

    @torch.no_grad()
    def step(self, grads: Tensors) -> Response:
        """Take the optimiser's real step.

        Args:
            grads: gradient of each parameter, averaged over the workers and not clipped. {} takes no step.

        Returns:
            The response of this step, v -> (d new parameters / d grads)^T v. It is valid until the next step.
        """
        if not grads or self.optimizer is None:
            return no_response
        clipping = Clipping.of(grads, self.clip)
        clipped = clipping.clipped()
        handed = add(clipped, self.regularise(self.params)) if self.regularise else clipped
        for name, p in self.params.items():
            p.grad = _laid_out(handed.get(name), p)  # the optimiser does not write into it
        (group,) = self.optimizer.param_groups
        group["lr"] = lr = changing(lambda: self._lr)
        response = take_step(self.optimizer, self.params, clipping)
        for p in self.params.values():
            p.grad = None
        self._keep()
        self.steps += 1
        if self.lr == 0:
            return no_response
        return SgdResponse(lr) if self.inner == "sgd" else response

    def _keep(self) -> None:
        """Average what a forward keeps for the next one over the workers, and update the moving average."""
        self._average_buffers(statistics=False)
        if self.mean and self.average_decay:
            means, params = list(self.mean.values()), [p.detach() for p in self.params.values()]
            old, new = draw(self._shares, means[0].device)
            torch._foreach_mul_(means, old)
            torch._foreach_add_(means, torch._foreach_mul(params, new))

    def _shares(self) -> Tensor:
        """What the moving average keeps of itself in the next step, and what it takes of the parameters."""
        assert self.mean and self.average_decay
        decay = self.average_decay(self.steps + 1)
        return torch.tensor([decay, 1 - decay], dtype=next(iter(self.mean.values())).dtype)

    def agree(self) -> None:
        """Average the running statistics over the workers. All call it, before one measures or saves the module.

        They are linear in what each batch adds: their mean is the same as after every step. Steps use the statistics of
        their batches. An offset of a method (`MethodConfig.offset`) may read the running ones within an epoch: those of
        its own worker.
        """
        self._average_buffers(statistics=True)

    def _average_buffers(self, statistics: bool) -> None:
        """Average the running statistics over the workers, or all other floating-point buffers."""
        known = self._slots.statistics
        average([b for k, b in self.buffers.items() if b.is_floating_point() and (k in known) == statistics])

    def state_dict(self) -> dict[str, Any]:
        """Module, the optimiser's moments, number of steps and moving average, as plain data and tensors."""
        optimizer = self.optimizer.state_dict()["state"] if self.optimizer else None
        return {"module": self.module.state_dict(), "optimizer": optimizer, "steps": self.steps, "mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned. The optimiser's settings, such as the learning rate, stay as they are.

        Raises:
            ValueError: the optimiser's state is that of another optimiser, or of parameters of other shapes.
        """
        self.module.load_state_dict(state["module"])
        if self.optimizer and state["optimizer"] is not None:
            moments = _as_moments(state["optimizer"], self.optimizer, list(self.params.values()))
            groups = self.optimizer.state_dict()["param_groups"]  # settings come from the configuration
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.steps = int(state["steps"])
        if self.mean is not None and state["mean"] is not None:
            for k, t in state["mean"].items():
                self.mean[k].copy_(t)


def _fast(optimizer: Optimizer) -> Optimizer:
    """The optimiser, which steps all parameters in one kernel that a CUDA graph can hold."""
    for group in optimizer.param_groups:
        device = group["params"][0].device.type
        group["fused"] = device in ("cpu", "cuda", "mps")
        group["foreach"] = not group["fused"]
        if "capturable" in group:
            group["capturable"] = device == "cuda"
    return optimizer


def _as_moments(
    moments: dict[int, dict[str, Any]], optimizer: Optimizer, params: list[Tensor]
) -> dict[int, dict[str, Any]]:
    """The moments, each with its parameter's layout in memory (a file does not keep channels_last).

    Raises:
        ValueError: they belong to another optimiser or to other parameters. PyTorch would load them unchecked.
    """
    wanted = MOMENTS[type(optimizer).__name__]
    if surplus := [i for i in moments if i not in range(len(params))]:
        raise ValueError(f"moments of parameter {surplus[0]!r}, there are {len(params)}")
    for i, entry in moments.items():
        if entry and set(entry) != wanted:
            raise ValueError(f"moments {sorted(entry)} of another optimiser")
        for name, t in entry.items():
            if t is not None and tuple(t.shape) != (() if name == "step" else tuple(params[i].shape)):
                raise ValueError(f"{name} of shape {list(t.shape)} for a parameter of {list(params[i].shape)}")

    return {i: {name: _laid_out(t, params[i]) for name, t in entry.items()} for i, entry in moments.items()}


def _laid_out(t: Tensor | None, p: Tensor) -> Tensor | None:
    """`t` with the layout in memory that p has, if it has p's shape. A fused optimiser steps over memory as it lies."""
    if t is None or t.shape != p.shape or t.stride() == p.stride():
        return t
    return torch.empty_like(p, dtype=t.dtype, device=t.device).copy_(t)


class _Fixed(Point):
    """A player as a constant. Its state is itself: no gradient passes through the player's step, so its value before
    that step is never asked for."""

    def __init__(self, player: Player):
        self._player, self._slots = player, player._slots

    @property
    def params(self) -> Tensors:  # type: ignore[override]
        return {k: p.detach() for k, p in self._player.params.items()}

    @property
    def buffers(self) -> Tensors:  # type: ignore[override]
        return self._player.buffers


def empty_player() -> Player:
    """A player without parameters: its steps cost nothing and change nothing."""
    return Player(nn.Module())
