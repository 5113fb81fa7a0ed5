"""What each candidate operation costs in the network that a search derives (`Costs`): counted, or measured here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from dasgm.bilevel import full_precision, replay
from dasgm.config import SearchConfig
from dasgm.measures.counts import layer_costs, summed
from dasgm.methods._cost import Costs
from dasgm.networks.operations import fast_layout
from dasgm.plugins import key_of
from dasgm.recipes import recipe

if TYPE_CHECKING:
    from dasgm.genotype import Genotype

Price = Callable[[str, int, int, int], float]
"""(operation, channels, stride, side of the map that it reads, in pixels) -> its cost."""
RUNS, SECONDS = 25, 2e-3
"""An operation's latency is the median of so many times, each over as many passes as take so long."""


def derived_size(config: SearchConfig) -> tuple[int, int]:
    """Numbers of cells and channels of the network whose costs a search looks at, by default those that `dasgm
    evaluate` trains.
    """
    usual = config.space.recipes
    trained = recipe(usual.get(key_of(config.data), usual[""])).config
    cells, channels = (trained.cells, trained.channels) if trained.form == "cifar" else config.space.usual("cifar")
    return config.cost.cells or cells, config.cost.channels or channels


def costs_of(
    config: SearchConfig, image_size: int, device: torch.device, latencies: Mapping[str, float] | None = None
) -> Costs | None:
    """The costs that a search is asked to look at; None: none.

    Args:
        image_size: of the search's images, in pixels.
        device: the one whose latency counts.
        latencies: what `measured` returned before. None measures anew.

    Raises:
        ValueError: a network cannot have that size, the space does not say where its operations are, or `latencies` are
            of another network.
    """
    asked = config.cost
    if asked.kind == "none":
        return None
    if asked.kind == "latency":
        known = measured(config, image_size, device) if latencies is None else latencies
        table = _table(config, image_size, _looked_up(known))
    else:
        table = _table(config, image_size, _counted(config, asked.kind))
    return Costs(asked.kind, asked.weight, config.space, table, config.method.first(config.space))


def _table(config: SearchConfig, image_size: int, price: Price) -> list[list[dict[str, float]]]:
    """[types of cells][edges]: operation -> its cost, summed over the cells of the derived network."""
    (cells, channels), space = derived_size(config), config.space
    try:
        with torch.device("meta"):
            space.random(0).build(channels, cells, 2)
    except ValueError as error:
        raise ValueError(f"cost.cells {cells}, cost.channels {channels}: {error}") from None
    table: list[list[dict[str, float]]] = [[defaultdict(float) for _ in range(space.edges)] for _ in space.cell_types]
    for place in space.places(cells, channels):
        costs = table[place.kind][place.edge]
        for name in space.operations:
            at = name, place.channels, place.stride, image_size // place.shrinks
            costs[name] += 0 if name == "none" else price(*at)
    return table


def _counted(config: SearchConfig, what: str) -> Price:
    """Counts `what` of an operation, a field of `counts.Cost`."""

    @cache
    def price(name: str, channels: int, stride: int, side: int) -> float:
        with torch.device("meta"):
            operation: Any = config.space.operation(name, channels, stride)
            costs = layer_costs(operation, torch.empty(1, channels, side, side))
        return int(getattr(summed(costs.values()), what))

    return price


def measured(config: SearchConfig, image_size: int, device: torch.device) -> dict[str, float]:
    """The latency of each operation at each place of the derived network, for one image, in milliseconds.

    They are measured one by one, in eval mode and float32, on the device and with the threads that the search has. What
    a whole network takes besides, and what it may save by fusing layers, is not in them.
    """
    found: dict[str, float] = {}

    def price(*place: Any) -> float:
        key = _key(*place)
        if key not in found:
            found[key] = _latency(config.space.operation(*place[:3]), place[1], place[3], device)
        return found[key]

    with replay("never drawn from"):
        _table(config, image_size, price)
    return found


def _looked_up(latencies: Mapping[str, float]) -> Price:
    def price(*place: Any) -> float:
        if (found := latencies.get(_key(*place))) is None or not isinstance(found, int | float):
            raise ValueError(f"latency.json has no time of {_key(*place)}; remove the file, and it is measured anew")
        return found

    return price


def ensure_costs(config: SearchConfig, image_size: int) -> None:
    """ValueError where the costs that a search is asked to look at cannot be known."""
    if config.cost.kind != "none":
        _table(config, image_size, lambda *place: 0.0)


def _key(name: str, channels: int, stride: int, side: int) -> str:
    return f"{name} {channels}x{side}x{side}, stride {stride}"


def whole_latency(genotype: Genotype, size: Mapping[str, Any], image_size: int, device: torch.device) -> float:
    """The latency of a genotype's network for one image, in milliseconds, in eval mode and float32.

    Args:
        size: channels, cells and classes.
    """
    with replay("never drawn from"):
        return _latency(genotype.build(**size), 3, image_size, device)


@torch.no_grad()
@full_precision()
def _latency(operation: torch.nn.Module, channels: int, side: int, device: torch.device) -> float:
    operation = operation.to(device).eval()
    x = fast_layout(torch.randn(1, channels, side, side).to(device))

    def seconds(passes: int) -> float:
        begun = time.perf_counter()
        for _ in range(passes):
            operation(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begun) / passes

    seconds(3)
    passes = max(1, min(1000, round(SECONDS / max(1e-9, seconds(3)))))
    return 1000 * median(seconds(passes) for _ in range(RUNS))
