"""The losses of an epoch, and which of them is the first that is not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dasgm.bilevel import Tensors
from dasgm.distributed import average
from dasgm.search import SearchFailed

LOSSES = ("classifier", "generator", "discriminator", "architecture")  # in the order of Algorithm 1


class Means:
    """The losses of an epoch, iteration by iteration. They stay on the device until the epoch ends."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {}

    def add(self, losses: Tensors) -> None:
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value)

    @property
    def iterations(self) -> int:
        return max(map(len, self.values.values()), default=0)

    def exact(self) -> dict[str, Tensor]:
        """The losses, as float64 on the CPU."""
        return {name: _on_cpu(values) for name, values in self.values.items()}

    def state_dict(self) -> dict[str, Any]:
        """The losses for a checkpoint within an epoch: how many each has, and all of them as one tensor."""
        exact = self.exact()
        values = torch.cat([torch.empty(0, dtype=torch.float64), *exact.values()])
        return {"lengths": {name: len(some) for name, some in exact.items()}, "values": values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, bit for bit. RuntimeError: it is none of these."""
        parts = state["values"].double().split(list(state["lengths"].values()))
        self.values = {str(name): part.tolist() for name, part in zip(state["lengths"], parts, strict=True)}

    def close(self, epoch: int) -> dict[str, float]:
        """The metrics of the epoch: each loss averaged over iterations and workers.

        Raises:
            SearchFailed: a loss is not finite. The message names the first one.
        """
        exact = self.exact()
        average(list(exact.values()))
        bad = {
            name: int((~values.isfinite()).nonzero()[0])
            for name, values in exact.items()
            if not values.isfinite().all()
        }
        stages = [name for name in LOSSES if name in bad]
        if stages:
            first = min(stages, key=lambda name: bad[name])
            value = exact[first][bad[first]].item()
            raise SearchFailed(f"epoch {epoch}, stage {LOSSES.index(first) + 1} ({first}): the loss is {value}")
        return {name if "/" in name else f"loss/{name}": values.mean().item() for name, values in exact.items()}


def _on_cpu(values: list[Any]) -> Tensor:
    """Numbers that a checkpoint held, then losses on the device, as float64. The device is read once."""
    numbers = [v for v in values if not isinstance(v, Tensor)]
    losses = values[len(numbers) :]
    read = [torch.stack(losses).cpu().double()] if losses else []  # an Apple GPU has no float64
    return torch.cat([torch.tensor(numbers, dtype=torch.float64), *read])
