"""Draws that are made before an iteration: the same numbers as those that are made within it."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dasgm.bilevel import Draws, Player, Stream, draw, replay
from dasgm.bilevel.draws import dropout

CPU = torch.device("cpu")
SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=1e-3)
Adam = partial(torch.optim.Adam, lr=0.5, betas=(0.5, 0.999), weight_decay=1e-3)


class Counter:
    iteration = 0

    def __str__(self) -> str:
        return str(self.iteration)


def drawn(counter: Counter) -> list[Tensor]:
    """What an iteration draws: of three streams, one of which two passes share."""
    found = [draw(lambda: torch.tensor(float(counter.iteration)), CPU)]
    noise, other = Stream((1, counter, "noise")), Stream((1, counter, "other"))
    for _ in range(2):
        with replay(noise):
            found += [draw(lambda: torch.randn(3, 2), CPU), draw(lambda: torch.randint(9, (5,)), CPU)]
            with replay(other, "within"):
                found.append(draw(lambda: torch.rand(2, dtype=torch.float64), CPU))
            found.append(
                dropout(
                    torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last), lambda: (counter.iteration % 3) / 10
                )
            )
    counter.iteration += 1
    return found


def test_draws_made_before_are_those_made_within():
    plain, ahead, draws = Counter(), Counter(), Draws(CPU)
    seen = []
    for _ in range(4):
        expected = drawn(plain)
        with draws.of_iteration():
            found = drawn(ahead)
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(found, expected, strict=True))
        assert all(torch.equal(x, y) for x, y in zip(found[1:5], found[5:], strict=True))
        seen.append([t.data_ptr() for t in found[:4]])
    assert draws.known and seen[1] == seen[2] == seen[3], "at the same addresses in every iteration"
    assert not draws.foreign and plain.iteration == ahead.iteration == 4


@pytest.mark.parametrize("make", [SGD, Adam])
@pytest.mark.parametrize("inner", ["taken", "sgd"])
def test_a_learning_rate_that_changes_is_the_one_of_its_iteration(make, inner):
    plain, ahead = (Player(nn.Linear(3, 2).double(), make, inner=inner) for _ in range(2))
    draws = Draws(CPU)
    ahead.load_state_dict(plain.state_dict())
    for lr in (0.1, 0.03, 0.7):
        v, g = ({k: torch.randn_like(p) for k, p in plain.params.items()} for _ in range(2))
        found = []
        for player, within in ((plain, nullcontext()), (ahead, draws.of_iteration())):
            player.lr = lr
            with within:
                found.append([*player.step(g)(v).values(), *player.params.values()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert isinstance(ahead.optimizer.param_groups[0]["lr"], Tensor) and ahead.lr == 0.7


@pytest.mark.parametrize("within", [True, False])
def test_numbers_that_are_drawn_otherwise_are_found(within):
    draws = Draws(CPU)

    def iteration() -> Tensor:
        with replay(1, "a"):
            x = draw(lambda: torch.rand(2), CPU)
            x = x + torch.rand(2) if within else x
        return x if within else x + torch.rand(2)

    for _ in range(2):
        with draws.of_iteration():
            iteration()
        assert draws.foreign and not draws.known
    with replay(1, "a"):
        expected = torch.rand(2) + torch.rand(2)
    with draws.of_iteration():
        assert not within or torch.equal(iteration(), expected)


def test_numbers_that_a_later_iteration_draws_otherwise_are_found():
    draws = Draws(CPU)
    for i in range(4):
        with draws.of_iteration():
            draw(lambda: torch.tensor(1.0), CPU)
            if i == 2:
                torch.rand(2)
        assert (draws.foreign, draws.known) == ((False, True) if i < 2 else (True, False))


def test_the_generator_is_left_as_it_was():
    draws, counter = Draws(CPU), Counter()
    before = torch.get_rng_state()
    for _ in range(3):
        with draws.of_iteration():
            drawn(counter)
        assert torch.equal(before, torch.get_rng_state())
