"""The hypergradient against brute force: autograd through the whole step of a smooth toy, in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from toys import (
    CLASSES,
    WIDTH,
    Alphas,
    Classifier,
    Discriminator,
    Generator,
    adam,
    differentiable_step,
    nesterov,
    orthogonal,
    sgd,
)

from dasgm.bilevel import Player, add, empty_player, grad, keeps_writes, mixed_vjp, norm, replay, seed_of
from dasgm.store.tensors import packed, unpacked

pytestmark = pytest.mark.usefixtures("float64")


def relative_error(found: dict[str, Tensor], truth: dict[str, Tensor]) -> float:
    difference = {k: found[k] - truth[k] for k in truth}
    return float(norm(difference) / norm(truth))


@pytest.mark.parametrize("iteration", [1, 5, 20])
@pytest.mark.parametrize("optimizer", [sgd, nesterov, adam])
def test_correction_of_A_is_autograd_through_the_classifiers_step(optimizer, iteration):
    torch.manual_seed(3)
    W, A = Player(Classifier(), optimizer, clip=0.05), Player(Alphas(), adam)
    for i in range(1, iteration + 1):
        x1, y1 = torch.randn(8, WIDTH), torch.randint(0, CLASSES - 1, (8,))  # the last class is always absent
        x3, y3 = torch.randn(8, WIDTH), torch.randint(0, CLASSES, (8,))

        def L1(W, A, x=x1, y=y1, i=i):
            with replay(0, i, "class"):
                return F.cross_entropy(W(x, A()), y)

        def L3(A, W, x=x3, y=y3, i=i):
            with replay(0, i, "dasgm"):
                return F.cross_entropy(W(x, A()), y)

        W0, momentum = W.state(), {k: dict(v) for k, v in W.optimizer.state.items()}
        assert momentum or i == 1
        # brute force: A reaches the loss through W' = step(grad_W L1(W, A))
        place = {k: p.detach().clone().requires_grad_() for k, p in W.params.items()}
        point = W0.moved({}, 0.0)
        point.params = place
        gW = dict(zip(place, torch.autograd.grad(L1(point, A), place.values(), create_graph=True), strict=True))
        assert float(norm({k: g.detach() for k, g in gW.items()})) > W.clip, "clipping must be active"
        after = W0.moved({}, 0.0)
        after.params = differentiable_step(W, place, gW)
        (truth,) = torch.autograd.grad(L3(A, after), [A.params["alphas"]])

        response = W.step(*grad(L1(W.live, A.fixed), W))
        for k, p in W.params.items():
            torch.testing.assert_close(p.detach(), after.params[k].detach(), rtol=1e-12, atol=1e-14)
        direct, v = grad(L3(A, W), A, W)
        correction = {"alphas": truth - direct["alphas"]}
        p = response(v)
        before = {k: t.clone() for k, t in (W.params | W.buffers).items()}
        exact = mixed_vjp(L1, W0, A, p, None)
        coarse, fine = (mixed_vjp(L1, W0, A, p, r) for r in (0.01, 0.005))
        for k, t in (W.params | W.buffers).items():
            assert torch.equal(t, before[k]), f"{k} moved"
        if i == iteration:
            assert relative_error(exact, correction) < 1e-8
            assert relative_error(coarse, correction) < 1e-3
            ratio = relative_error(coarse, correction) / relative_error(fine, correction)
            assert 3.5 < ratio < 4.5, "the error of a central difference falls fourfold when eps is halved"
        A.step(add(direct, exact))


@pytest.mark.parametrize("iteration", [1, 5, 20])
@pytest.mark.parametrize(("optimizer", "inner"), [(sgd, "taken"), (adam, "taken"), (adam, "sgd")])
def test_gradient_of_B_is_autograd_through_the_generators_step(optimizer, inner, iteration):
    torch.manual_seed(5)
    G = Player(Generator(), optimizer, clip=0.02, regularise=orthogonal, inner=inner)
    E, B = Player(Discriminator(), adam), Player(Alphas(), adam)
    judge = nn.Linear(WIDTH, CLASSES)
    for i in range(1, iteration + 1):
        z, yz = torch.randn(8, 4), torch.randint(0, CLASSES - 1, (8,))  # a label is absent
        z3, y3 = torch.randn(8, 4), torch.randint(0, CLASSES, (8,))
        G0, E0 = G.state(), E.state()

        def L_GAN(G, B, E0=E0, z=z, y=yz, i=i):
            with replay(0, i, "gan"):
                return -E0(B(), G(z, y), y).mean()

        def L3(G, z=z3, y=y3, i=i):
            with replay(0, i, "dasgm"):
                return F.cross_entropy(torch.tanh(judge(G(z, y))), y)

        place = {k: p.detach().clone().requires_grad_() for k, p in G.params.items()}
        point, after = G0.moved({}, 0.0), G0.moved({}, 0.0)
        point.params = place
        gG = dict(zip(place, torch.autograd.grad(L_GAN(point, B), place.values(), create_graph=True), strict=True))
        assert float(norm({k: g.detach() for k, g in gG.items()})) > G.clip, "clipping must be active"
        if inner == "sgd":  # the response of the paper's literal Eq. 4, though G moves by Adam
            taken = {k: p.detach() for k, p in differentiable_step(G, place, gG).items()}
            step = {k: taken[k] - G.lr * (gG[k] - gG[k].detach()) for k in place}
        else:
            step = differentiable_step(G, place, gG)
        with replay(0, i, "gan"):
            response = G.step(*grad(-E.live(B.fixed(), G.live(z, yz), yz).mean(), G))
        after.params, after.buffers = step, G.state().buffers
        (truth,) = torch.autograd.grad(L3(after), [B.params["alphas"]])

        (u,) = grad(L3(G), G)
        p = response(u)
        exact = mixed_vjp(L_GAN, G0, B, p, None)["alphas"]
        coarse, fine = (mixed_vjp(L_GAN, G0, B, p, r)["alphas"] for r in (0.01, 0.005))
        if i == iteration:
            scale = truth.norm()
            assert (exact - truth).norm() < 1e-8 * scale
            assert (coarse - truth).norm() < 1e-3 * scale
            assert 3.5 < (coarse - truth).norm() / (fine - truth).norm() < 4.5
        B.step({"alphas": -exact})


@pytest.mark.parametrize("maximize", [False, True])
def test_response_is_the_transposed_jacobian_of_the_step(maximize):
    """Against finite differences of the real optimiser, the whole Jacobian, clipping active."""

    def step(gradient: Tensor) -> tuple[Tensor, object]:
        torch.manual_seed(1)
        player = Player(
            nn.Linear(3, 2), lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.9), weight_decay=0.1, maximize=maximize), 0.7
        )
        for g in (torch.randn(8), torch.randn(8), gradient):
            response = player.step({"weight": g[:6].view(2, 3), "bias": g[6:]})
        return torch.cat([p.detach().flatten() for p in player.params.values()]), response

    g, v, h = torch.randn(8), torch.randn(8), 1e-6
    jacobian = torch.stack([(step(g + h * e)[0] - step(g - h * e)[0]) / (2 * h) for e in torch.eye(8)], 1)
    answer = step(g)[1]({"weight": v[:6].view(2, 3), "bias": v[6:]})
    torch.testing.assert_close(torch.cat([t.flatten() for t in answer.values()]), jacobian.T @ v, rtol=1e-6, atol=1e-9)


def test_nothing_to_answer_to_costs_nothing():
    W, A = Player(Classifier(), sgd), Player(Alphas(), adam)

    def never(W, A):
        raise AssertionError("no pass is made where the direction is 0")

    W.lr = 0.0
    x, y = torch.randn(8, WIDTH), torch.randint(0, CLASSES, (8,))
    response = W.step(*grad(F.cross_entropy(W(x, A()), y), W))
    p = response({k: torch.ones_like(t) for k, t in W.params.items()})
    assert all(not t.any() for t in p.values())
    assert mixed_vjp(never, W.state(), A, p, 0.01) == {}
    assert mixed_vjp(never, W.state(), A, {}, 0.01) == {}
    assert mixed_vjp(never, W.state(), empty_player(), {"x": torch.ones(1)}, 0.01) == {}
    assert empty_player().step({})({}) == {} and grad(torch.ones(()), empty_player()) == ({},)


def test_absent_class_answers_with_zero():
    player = Player(nn.Embedding(4, 2), adam)
    (g,) = grad(player(torch.tensor([0, 1, 1])).pow(2).sum(), player)
    response = player.step(g)
    d = response({"weight": torch.ones(4, 2)})["weight"]
    assert torch.isfinite(d).all() and not d[2:].any() and d[:2].all()


def test_pure_calls_leave_the_module_alone_and_repeat():
    W, A = Player(Classifier(), sgd), Player(Alphas(), adam)
    x = torch.randn(8, WIDTH)
    before = {k: b.clone() for k, b in W.buffers.items()}
    with replay(1, "a"):
        first = W(x, A())
    with replay(1, "a"):
        second = W(x, A())
    assert torch.equal(first, second)
    assert all(torch.equal(b, before[k]) for k, b in W.buffers.items())
    with pytest.raises(RuntimeError):
        W(x[:, :2], A())  # a failed call too
    assert all(torch.equal(p, W.module.get_parameter(k)) for k, p in W.params.items())
    W.live(x, A())
    assert not torch.equal(W.buffers["norm.running_mean"], before["norm.running_mean"])


def test_a_module_may_ask_whether_what_it_writes_into_buffers_stays():
    class Asks(nn.Module):
        def forward(self, inner=None):
            return keeps_writes(), inner and inner(), keeps_writes()

    asked = Player(Asks())
    assert asked.live() == (True, None, True) and asked() == asked.fixed() == asked.state()() == (False, None, False)
    assert asked.live(asked.live) == (True, (True, None, True), True)
    assert asked.live(asked) == (True, (False, None, False), True)
    with pytest.raises(TypeError):
        asked(1)
    assert keeps_writes(), "after a failed call too"


def test_frozen_player_never_moves():
    frozen = Player(Generator(), adam, frozen=True)
    assert frozen.trainable == {} and frozen.step({"x": torch.ones(1)})({"x": torch.ones(1)}) == {}


def test_moving_average():
    W = Player(nn.Linear(2, 1), sgd, average_decay=lambda step: 0.0 if step < 2 else 0.5)
    trace = []
    for _ in range(3):
        W.step({"weight": torch.ones(1, 2), "bias": torch.ones(1)})
        trace.append(W.params["weight"].detach().clone())
    expected = 0.5 * (0.5 * trace[0] + 0.5 * trace[1]) + 0.5 * trace[2]
    torch.testing.assert_close(W.averaged().params["weight"], expected)


def test_streams():
    assert seed_of(0, 1, "z") != seed_of(0, 1, "z3") and 0 <= seed_of("x") < 2**63
    state = torch.random.get_rng_state()
    with replay(7):
        torch.rand(3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_state_round_trip():
    torch.manual_seed(0)
    W = Player(Classifier(), adam, average_decay=lambda step: 0.9)
    A = Player(Alphas(), adam)
    x, y = torch.randn(8, WIDTH), torch.randint(0, CLASSES, (8,))

    def advance(player):
        with replay(player.steps):
            player.step(*grad(F.cross_entropy(player.live(x, A()), y), player))

    advance(W)
    saved = copy.deepcopy(W.state_dict())
    advance(W)
    other = Player(Classifier(), adam, average_decay=lambda step: 0.9)
    other.load_state_dict(saved)
    advance(other)
    for k, p in W.params.items():
        assert torch.equal(p, other.params[k]) and torch.equal(W.mean[k], other.mean[k])
    assert all(torch.equal(b, other.buffers[k]) for k, b in W.buffers.items())
    assert math.isclose(other.lr, 5e-3)


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_moments_lie_in_memory_as_their_parameters_after_a_round_trip(tmp_path, optimizer):
    """Else a resumed run with channels_last steps by other kernels."""

    def player() -> Player:
        return Player(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), optimizer)

    W, other = player(), player()
    W.step({name: torch.randn_like(p) for name, p in W.params.items()})
    (tmp_path / "x").write_bytes(packed(W.state_dict()))
    other.load_state_dict(unpacked(tmp_path / "x"))
    for mine, loaded in zip(W.optimizer.state.values(), other.optimizer.state.values(), strict=True):
        for name, t in mine.items():
            assert torch.equal(t, loaded[name]) and t.stride() == loaded[name].stride(), name


def test_a_rate_is_no_state():
    """What loads another's moments keeps its own learning rate: trials of a sweep share a warm-up."""
    W, other = Player(Classifier(), sgd), Player(Classifier(), sgd)
    W.lr, other.lr = 0.5, 0.25
    other.load_state_dict(copy.deepcopy(W.state_dict()))
    assert other.lr == 0.25


def test_equal_players_have_equal_states_whatever_their_rates():
    """A rate follows from the epoch: in a checkpoint it would differ between a run that was stopped and one that was
    not."""
    states = []
    for after in (0.5, 0.25):
        torch.manual_seed(0)
        W = Player(Classifier(), adam)
        W.step({name: torch.ones_like(p) for name, p in W.params.items()})
        W.lr = after
        states.append(packed(W.state_dict()))
    assert states[0] == states[1]


def test_moments_of_no_step_replace_those_that_are_there():
    W, fresh = Player(Classifier(), adam), Player(Classifier(), adam)
    W.step({name: torch.ones_like(p) for name, p in W.params.items()})
    W.load_state_dict(copy.deepcopy(fresh.state_dict()))
    assert not W.optimizer.state and W.steps == 0


@pytest.mark.parametrize("wrong", ["surplus", "missing", "of SGD", "as an optimiser gives them"])
def test_moments_of_something_else_are_refused(wrong):
    W = Player(Classifier(), adam)
    W.step({name: torch.ones_like(p) for name, p in W.params.items()})
    state = copy.deepcopy(W.state_dict())
    moments = state["optimizer"]
    changed = {
        "surplus": moments | {len(moments): moments[0]},
        "missing": moments | {0: {"step": moments[0]["step"]}},
        "of SGD": {i: {"momentum_buffer": entry["exp_avg"]} for i, entry in moments.items()},
        "as an optimiser gives them": W.optimizer.state_dict(),
    }
    with pytest.raises(ValueError, match="moments"):
        W.load_state_dict(state | {"optimizer": changed[wrong]})
    del state["optimizer"]
    with pytest.raises(KeyError):
        W.load_state_dict(state)


def test_shared_parameters_are_refused():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    with pytest.raises(AssertionError, match="shared by two modules"):
        Player(module)
