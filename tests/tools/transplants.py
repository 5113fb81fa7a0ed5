"""The package's weights as the textbook's, which has a module of its own where the package has several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import textbook
import torch
from smooth import batches, relative, spy
from textbook_steps import Darts
from torch import Tensor

from dasgm.bilevel import replay, seed_of
from dasgm.methods._base import Stage
from dasgm.networks.network import drop_paths
from dasgm.networks.regularisation import Regularisation
from dasgm.search import Search

Tensors = dict[str, Tensor]


def as_textbook(stage: Stage, tensors: Tensors) -> Tensors:
    """What belongs to a supernet (weights, gradients or running statistics, by name), by the textbook's names."""
    found = {name: t for name, t in tensors.items() if name.startswith(("stem.", "head."))}
    for index in range(stage.cells):
        cell = f"cells.{index}."
        for place in (0, 1):
            old = f"{cell}preprocess.{place}."
            new = f"{cell}preprocess{place}."
            found |= {new + name.removeprefix(old): t for name, t in tensors.items() if name.startswith(old)}
        operations = stage.operations[index in textbook.halves(stage.cells)]
        for edge, names in enumerate(operations):
            for name in names:
                found |= _of_edge(cell, operations, edge, name, tensors)
    return found


def drop_paths_alike(ours: Any, cells: Sequence[Any], edges: Sequence[tuple[int, int]], images: int) -> None:
    """Sets drop path in a supernet, and what it draws from seed 0 in a textbook's cells. It draws for one cell after
    another, by the state that an edge leaves, then by its node.
    """
    ours.regularisation = Regularisation(drop_path=0.4)
    torch.manual_seed(0)
    factors = drop_paths(len(cells) * len(edges), images, 0.4).view(len(cells), len(edges), images)
    order = sorted(range(len(edges)), key=edges.__getitem__)
    for cell, drawn in zip(cells, factors, strict=True):
        cell.factors = torch.empty_like(drawn).index_copy(0, torch.tensor(order), drawn)
    torch.manual_seed(0)


def ensure_same_iterations(search: Search, theirs: Darts, as_theirs: Callable[[Stage, Tensors], Tensors]) -> None:
    """Two iterations of a search without a GAN, in float64, are the textbook's of its order, which begins with the
    search's weights: the gradient that A is handed, and the weights after it.
    """
    handed = spy(search.A)
    theirs.network.load_state_dict(as_theirs(search.stage, dict(search.supernet.state_dict())), strict=False)
    for _ in range(2):
        with torch.no_grad():
            for a, p in zip(theirs.architecture, search.A.params.values(), strict=True):
                a.copy_(p)
        x1, y1, x2, y2 = batches(search)
        with replay(seed_of(0, 0, search.iteration, "dasgm")):
            x3, y3 = search.compose(None, None, None, x2, y2)
        expected = theirs.second_order(x1, y1, x3, y3) if theirs.order == "second" else []
        theirs.weight_step(x1, y1)
        expected = expected or theirs.first_order(x3, y3)
        search.step(x1, y1, x2, y2, True)
        for a, b in zip(handed[-1].values(), expected, strict=True):
            assert relative(a, b) < 1e-9
        ours = as_theirs(search.stage, search.W.params)
        for name, w in theirs.network.named_parameters():
            assert relative(ours[name].detach(), w.detach()) < 1e-12


def _of_edge(cell: str, operations: tuple[tuple[str, ...], ...], edge: int, name: str, tensors: Tensors) -> Tensors:
    state, _ = textbook.EDGES[edge]
    having = [e for e, (s, _) in enumerate(textbook.EDGES) if s == state and name in operations[e]]
    fan, own = f"{cell}fans.{state}.", f"{cell}edges.{edge}.operations.{name}."
    pool = f"{fan}pools.{name}.1."  # computed once for all edges
    found = {f"{own}1.{key.removeprefix(pool)}": t for key, t in tensors.items() if key.startswith(pool)}
    wide = f"{fan}convolutions.{name}."
    for key, t in tensors.items():
        if key.startswith(wide):
            found[own + _narrow(key.removeprefix(wide))] = t.chunk(len(having))[having.index(edge)]
    return found


def _narrow(key: str) -> str:
    """`norms.1.running_mean` -> `7.running_mean`: ReLU, depthwise, pointwise, norm, and once more."""
    kind, _, rest = key.partition(".")
    if kind not in ("depthwise", "pointwise", "norms"):
        return key
    turn, _, leaf = rest.partition(".")
    return f"{4 * int(turn) + 1 + ('depthwise', 'pointwise', 'norms').index(kind)}.{leaf}"
