"""Multi-level optimisation with one unrolled step per level. It knows neither architecture search nor GANs.

A `Player` is one level: a module, its optimiser and its gradient clipping. `Player.step` takes the optimiser's real
step and returns the response of that step (its transposed Jacobian), so that no virtual copy of a network is made:

    response = W.step(*grad(L_train(W.live), W))
    gA, v = grad(L_valid(A, W), A, W)
    gA = add(gA, mixed_vjp(L_train, W0, A, response(v), radius))      # W0: the place of W before its step
"""

from dasgm.bilevel.draws import Draws, InProgress, Stream, draw, replay, seed_of
from dasgm.bilevel.hypergradient import (
    dominant_eigenvalue,
    full_precision,
    grad,
    largest_eigenvalue,
    mixed_vjp,
)
from dasgm.bilevel.iterations import Iterations, ensure_graph
from dasgm.bilevel.player import Player, empty_player
from dasgm.bilevel.point import Point, keeps_writes
from dasgm.bilevel.response import Response, Tensors, add, no_response, norm

__all__ = [
    "Draws",
    "InProgress",
    "Iterations",
    "Player",
    "Point",
    "Response",
    "Stream",
    "Tensors",
    "add",
    "draw",
    "dominant_eigenvalue",
    "ensure_graph",
    "full_precision",
    "grad",
    "keeps_writes",
    "largest_eigenvalue",
    "mixed_vjp",
    "no_response",
    "empty_player",
    "norm",
    "replay",
    "seed_of",
]
