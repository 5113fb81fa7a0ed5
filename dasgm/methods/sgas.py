"""SGAS (arXiv 1912.00195): edges are decided one after the other, so that the supernet becomes the network it derives.

From epoch `warmup` on, every `every` epochs, the edge of highest score in each type of cell gets its strongest
operation but `none`, with weight 1, for good. Once a node has as many edges as it keeps, its others are removed. The
weights of the edges that are open are the softmax, as in DARTS.

With w the softmax weights of an edge, S = 1 - w(none), q = w / S without `none`, and C = 1 - (entropy of q) / (its
largest value), the score is N(S) N(C) (criterion 1), or N(S) N(C) N(V) (criterion 2), where V is the mean, over the
last epochs, of the overlap of q then and now, sum min(q then, q now), and N scales the values of all edges of the cell
to [0, 1]. An edge keeps the weights that it was judged by last once it is decided or removed.

The supernet computes all operations of every edge throughout, so an iteration does not become cheaper. The authors let
the batch grow by 8 after each decision; here it stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from dasgm.methods import darts
from dasgm.methods._base import CellType, Memory, Operations, Stage, Times, View, Weights
from dasgm.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.spaces._base import SearchSpace

REMOVED = "none"


@dataclass(frozen=True)
class Config(darts.Config):
    """SGAS."""

    spaces = ("darts",)

    criterion: int = 1
    """Score by which edges are chosen: 1 (importance and certainty) or 2 (stability too) (SGAS: 1 and 2)."""
    warmup: int = 9
    """Epoch, counted from 0, after which the first edge of each cell is decided (SGAS: 9).
    A search of 50 epochs decides all 8; edges that are still open at its end are derived as in DARTS."""
    every: int = 5
    """Number of epochs from one decision to the next (SGAS: 5)."""
    history: int = 4
    """Number of past epochs over which criterion 2 measures stability (SGAS: 4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.criterion not in (1, 2):
            raise ValueError(f"method.criterion {self.criterion}: expected 1 or 2")
        self.ensure_at_least(warmup=0, every=1, history=1)

    def shortened(self, epochs: int) -> Self:
        share = epochs / self.epochs
        warmup, every = round(share * self.warmup), max(1, round(share * self.every))
        return replace(self, epochs=epochs, warmup=warmup, every=every)

    def too_short(self, space: SearchSpace, stage: Stage) -> str:
        decided = len(range(self.warmup, stage.epochs, self.every))
        edges = sum(min(number, space.kept or number) for number in space.inputs)
        if decided >= edges:
            return ""
        return (
            f"SGAS decides {decided} of the {edges} edges of a cell before the search ends; the others are derived as "
            f"in DARTS. Raise {option('method.epochs')}, or lower {option('method.warmup')} or "
            f"{option('method.every')}"
        )

    def times(self, space: SearchSpace, stage: Stage, epoch: int, memory: Mapping[str, Any]) -> Mapping[str, Any]:
        """Which edges are open, and the weights of those that are not."""
        found: dict[str, Any] = {}
        for name, operations in zip(space.cell_types, stage.operations, strict=True):
            choices = _choices(memory, name, operations)
            found[f"open {name}"] = [[float(choice is None)] for choice in choices]
            found[f"fixed {name}"] = [
                [float(candidate == choice) for candidate in names]
                for names, choice in zip(operations, choices, strict=True)
            ]
        return found

    def relaxed(self, cell: CellType, alphas: Tensor, times: Times) -> Tensor:
        return alphas.softmax(1).where(times[f"open {cell.name}"] > 0, times[f"fixed {cell.name}"])

    def after_epoch(self, view: View, memory: Memory) -> str:
        decides = view.epoch >= self.warmup and (view.epoch - self.warmup) % self.every == 0
        cells = zip(view.space.cell_types, view.stage.operations, view.relaxation.cells, strict=True)
        for name, operations, weights in cells:
            choices = _choices(memory, name, operations)
            past = memory.get(name, {}).get("weights", [])
            now = [
                row if choice is None else past[-1][edge]
                for edge, (row, choice) in enumerate(zip(weights, choices, strict=True))
            ]
            if decides and None in choices:
                kinds = scores(operations, now, past if self.criterion == 2 else None)
                choices = decided(operations, now, kinds, choices, view.space.inputs, view.space.kept)
            memory[name] = {"choices": choices, "weights": [*past, now][-self.history :]}
        return ""


def _choices(memory: Mapping[str, Any], name: str, operations: Operations) -> list[str | None]:
    """The operation of each edge of a type of cell, `none` where it is removed, None where it is open."""
    found: list[str | None] = memory.get(name, {}).get("choices", [None] * len(operations))
    return found


def scores(operations: Operations, weights: Weights, past: Sequence[Weights] | None = None) -> list[float]:
    """The score of each edge of a cell, by criterion 1, or where `past` is given by criterion 2.

    Args:
        weights: the softmax weights of all edges.
        past: the weights of epochs before.
    """
    edges = [judged(*edge) for edge in zip(operations, weights, strict=True)]
    parts = [[importance for importance, _ in edges], [certainty(q) for _, q in edges]]
    if past is not None:
        before = [[judged(*edge)[1] for edge in zip(operations, each, strict=True)] for each in past]
        parts.append([_overlap(q, [each[number] for each in before]) for number, (_, q) in enumerate(edges)])
    return [math.prod(values) for values in zip(*map(_scaled, parts), strict=True)]


def judged(names: Sequence[str], row: Sequence[float]) -> tuple[float, list[float]]:
    """S and q of an edge."""
    left = [weight for name, weight in zip(names, row, strict=True) if name != REMOVED]
    return sum(left), [weight / sum(left) for weight in left]


def certainty(q: Sequence[float]) -> float:
    """1 - entropy / largest entropy; 1 where there is a single operation."""
    if len(q) == 1:
        return 1.0
    return 1 + sum(p * math.log(p) for p in q if p > 0) / math.log(len(q))


def _overlap(q: Sequence[float], past: Sequence[Sequence[float]]) -> float:
    """The mean of sum min(q then, q now) over the past; 0 without one."""
    return sum(sum(map(min, q, before)) for before in past) / max(1, len(past))


def _scaled(values: Sequence[float]) -> list[float]:
    """The values from 0 (the least) to 1 (the largest); all 1 where they are equal and say nothing."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 1.0 for value in values]


def decided(
    operations: Operations,
    weights: Weights,
    scores: Sequence[float],
    choices: Sequence[str | None],
    inputs: Sequence[int],
    kept: int | None,
) -> list[str | None]:
    """The choices after one more: the open edge of highest score gets its strongest operation but `none`.

    Args:
        choices: the operation of each edge, `none` where it is removed, None where it is open.
        inputs: number of edges into each node.
        kept: number of edges that a node keeps; None: all.
    """
    found = list(choices)
    best = max((edge for edge, choice in enumerate(found) if choice is None), key=lambda edge: scores[edge])
    pairs = zip(weights[best], operations[best], strict=True)
    found[best] = max((pair for pair in pairs if pair[1] != REMOVED), key=lambda pair: pair[0])[1]
    first = 0
    for number in inputs:
        node = range(first, first + number)
        if sum(found[edge] not in (None, REMOVED) for edge in node) == kept:
            found[first : first + number] = [found[edge] or REMOVED for edge in node]
        first += number
    return found
