"""`Search.step` against differentiation through the iteration, and its invariants (docs/explanation/algorithm.md)."""

from __future__ import annotations

import copy
import math
import struct
from functools import partial
from typing import Any

import pytest
import textbook_steps
import torch
from smooth import (
    BATCH,
    SIZE,
    batches,
    brute_force,
    images,
    make,
    relative,
    spy,
)
from torch import Tensor
from transplants import as_textbook, ensure_same_iterations

from dasgm.adversary import Adversary
from dasgm.bilevel import norm, replay, seed_of
from dasgm.config import SearchConfig
from dasgm.data._base import DataConfig
from dasgm.gans.biggan import Config as BigGan
from dasgm.jobs.means import Means
from dasgm.methods.darts import Config as Darts
from dasgm.search import Search, SearchFailed
from dasgm.store.tensors import packed, unpacked
from dasgm.testing._plugins import small_search

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("iteration", [1, 5, 20])
def test_step_is_differentiation_through_the_whole_iteration(iteration):
    errors = {}
    for radius in (None, 0.01, 0.005):
        search = make(hypergradient="exact")
        A, B = spy(search.A), spy(search.gan.B)
        for i in range(iteration):
            batch = batches(search)
            if i == iteration - 1:
                truth_A, direct, truth_B = brute_force(search, batch)
                search.radius_W = search.radius_G = radius
            search.step(*batch, True)
        correction = A[-1]["alphas"] - direct
        errors[radius] = relative(correction, truth_A - direct), relative(B[-1]["alphas"], truth_B)
    assert max(errors[None]) < 1e-8
    assert max(errors[0.01]) < 1e-3
    for coarse, fine in zip(errors[0.01], errors[0.005], strict=True):
        assert 3.5 < coarse / fine < 4.5


@pytest.mark.parametrize("order", ["first", "second"])
def test_search_without_a_gan_is_the_textbooks(order):
    """Two iterations, the second with momentum: the gradient of A, and the step of W. Here W's step comes first, which
    the first order notices (the second's virtual step is that step, where no clip binds).
    """
    method = Darts(cells=3, channels=4)
    config = SearchConfig(
        method=method, gan=None, data=DataConfig(image_size=SIZE), order=order, batch_size=4, classifier_clip=0.0
    )
    search = Search(config, images())
    search.schedule()
    theirs = textbook_steps.Darts(search.stage, len(search.data.classes), order, clip=1e9)
    ensure_same_iterations(search, theirs, as_textbook)


def test_B_ascends_and_both_gradients_are_of_one_evaluation():
    """A step of B along its gradient raises the loss that A lowers: the max-min of Eq. 1."""
    search = make(hypergradient="exact")
    for _ in range(3):
        search.step(*batches(search), True)
    batch = batches(search)
    B, before = spy(search.gan.B), search.gan.B.params["alphas"].detach().clone()
    search.step(*batch, True)
    moved = search.gan.B.params["alphas"].detach() - before
    assert float(moved @ B[-1]["alphas"]) > 0


def test_first_order_drops_the_mixed_term_and_rate_zero_makes_second_order_first():
    gradients = {}
    for order, lr in (("first", 0.1), ("second", 0.1), ("first", 0.0), ("second", 0.0)):
        search = make(order=order, classifier_lr=lr, classifier_lr_min=0.0)
        handed = spy(search.A)
        search.step(*batches(search), True)
        gradients[order, lr] = handed[0]["alphas"]
    assert torch.equal(gradients["first", 0.0], gradients["second", 0.0])
    assert not torch.equal(gradients["first", 0.1], gradients["second", 0.1])


def test_all_real_images_use_no_generated_one_and_leave_B():
    search = make(val_portion=1.0)
    B = {k: p.clone() for k, p in search.gan.B.params.items()}
    handed = spy(search.A)

    def never(*_: Any) -> Any:
        raise AssertionError("no synthetic image is used")

    batch = batches(search)
    z, y = search.gan.draw(BATCH, 0)
    images, labels = search.compose(never, z, y, batch[2], batch[3])
    assert torch.equal(labels, batch[3]) and len(images) == BATCH
    search.step(*batch, True)
    assert all(torch.equal(p, B[k]) for k, p in search.gan.B.params.items())
    # J_3 is then J_2, so A's gradient is that of the search without a GAN
    plain = make(gan=None)
    plain_handed = spy(plain.A)
    plain.step(*batch, True)
    assert torch.equal(handed[0]["alphas"], plain_handed[0]["alphas"])


def test_only_stage_one_and_two_move_buffers_and_weights():
    """With stages 3 and 4 and without, one iteration leaves the same W, G, E and buffers, bit for bit."""
    states = []
    for architecture in (True, False):
        search = make()
        search.step(*batches(search), architecture)
        states.append([search.W.module.state_dict(), *(p.module.state_dict() for p in search.gan.players[:2])])
    for with_, without in zip(*states, strict=True):
        assert all(torch.equal(with_[k], without[k]) for k in without)


def test_frozen_gan_does_not_change_by_one_bit():
    search = make()
    search.gan = Adversary(search.gan.gan, frozen=True)
    search.unrolled = (search.W, search.gan.G.fixed, search.gan.E.fixed)
    before = [{k: v.clone() for k, v in p.module.state_dict().items()} for p in search.gan.players]
    for _ in range(3):
        losses = search.step(*batches(search), True)
    assert "architecture" in losses and "generator" not in losses
    for player, old in zip(search.gan.players, before, strict=True):
        assert all(torch.equal(v, old[k]) for k, v in player.module.state_dict().items())


def test_the_real_networks_move_by_stage_one_and_two_alone():
    """The supernet and BigGAN with spectral vectors, float32: with stages 3 and 4 and without, the same bits."""
    torch.set_default_dtype(torch.float32)
    gan = BigGan(channels=2, shared_dim=4, z_dim=12)
    config = SearchConfig(
        method=Darts(epochs=3, cells=3, channels=2), gan=gan, data=DataConfig(image_size=SIZE), batch_size=8
    )
    states = []
    for architecture in (True, False):
        search = Search(config, images())
        for _ in range(2):
            search.left = 3
            data, i = search.data, search.iteration
            i1, i2 = search.batch(data.J1, "J1", i), search.batch(data.J2, "J2", i)
            with replay(i):
                x1 = data.augment(data.to_classifier(data.raw(i1)), True)
            before = copy.deepcopy([p.module.state_dict() for p in (search.W, *search.gan.players[:2])])
            search.step(x1, data.labels[i1], data.raw(i2), data.labels[i2], architecture and i == 1)
        states.append([p.module.state_dict() for p in (search.W, *search.gan.players[:2])])
        assert any(not torch.equal(v, before[2][k]) for k, v in states[-1][2].items() if "weight" not in k)
    for with_, without in zip(*states, strict=True):
        assert all(torch.equal(with_[k], without[k]) for k in without)


def test_architecture_waits_for_its_epoch():
    search = make(method=Darts(epochs=3, cells=3, channels=4, arch_start_epoch=2))
    before = search.A.params["alphas"].clone()
    assert search.epoch == 0
    raw = search.data.raw
    search.data.raw = lambda i: raw(i).double()  # the toys are float64
    losses = search.iterate()
    assert "architecture" not in losses and torch.equal(before, search.A.params["alphas"])
    search.left = 1
    assert "architecture" in search.iterate()


def test_portion_is_rounded_and_real_images_come_first():
    search = make(val_portion=0.3)
    x1, y1, x2, y2 = batches(search)
    z, y = search.gan.draw(BATCH, 0)
    asked: list[int] = []

    def G(z: Tensor, y: Tensor) -> Tensor:
        asked.append(len(z))
        return torch.zeros(len(z), 3, SIZE, SIZE)

    _, labels = search.compose(G, z, y, x2, y2)
    assert asked == [6]  # round(0.3 * 8) = 2 are real
    assert torch.equal(labels, torch.cat([y2[:2], y[:6]]))


def test_batches_are_disjoint_within_a_pass_and_permuted_between():
    search = make()
    J, n = search.data.J1, search.batches
    first = torch.cat([search.batch(J, "J1", i) for i in range(n)])
    second = torch.cat([search.batch(J, "J1", n + i) for i in range(n)])
    assert len(first.unique()) == len(first) == n * BATCH and set(first.tolist()) <= set(J.tolist())
    assert not torch.equal(first, second)
    assert not set(search.data.J1.tolist()) & set(search.data.J2.tolist())


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.025), (1, 0.024976321), (25, 0.013), (49, 0.001023679)])
def test_learning_rate_anchors(epoch, lr):
    """The original's logged rates (facts on DARTS: epoch 49 lr 1.023679e-03)."""
    config = SearchConfig(method=Darts(), gan=None, data=DataConfig())
    assert config.learning_rate(epoch, 50) == pytest.approx(lr, abs=5e-9)


def test_first_loss_that_is_not_finite_is_named():
    means = Means()
    good, bad = torch.tensor(1.0), torch.tensor(float("nan"))
    means.add({"classifier": good, "generator": good})
    means.add({"classifier": good, "generator": bad})
    means.add({"classifier": bad, "generator": bad})
    with pytest.raises(SearchFailed, match=r"epoch 3, stage 2 \(generator\): the loss is nan"):
        means.close(3)


def test_losses_of_an_epoch_in_progress_come_back_bit_for_bit(tmp_path):
    """As one tensor, whatever they are and however many each stage has."""
    taken = {"classifier": [0.1, math.nan, 1e-45], "architecture": [math.inf, -0.0], "grad/B": []}
    means, again = Means(), Means()
    means.values = {name: [torch.tensor(value) for value in values] for name, values in taken.items()}
    (tmp_path / "x").write_bytes(packed(means.state_dict()))
    state = unpacked(tmp_path / "x")
    assert state["values"].dtype == torch.float64 and list(state["values"].shape) == [5]
    again.load_state_dict(state)
    assert again.iterations == 3 and list(again.values) == list(taken)
    for name, values in taken.items():
        exact = [struct.pack("d", torch.tensor(value).item()) for value in values]  # of what float32 holds
        assert [struct.pack("d", value) for value in again.values[name]] == exact
    assert list(Means().state_dict()["values"].shape) == [0]
    for wrong in ({"lengths": {"a": 6}}, {"lengths": {"a": 4}}, {"lengths": {"a": -1, "b": 6}}):
        with pytest.raises(RuntimeError):
            again.load_state_dict(state | wrong)


@pytest.mark.parametrize(("poisoned", "named"), [("G", "generator"), ("W", "classifier")])
def test_the_stage_where_a_loss_is_lost_is_named_though_the_step_does_not_end(poisoned, named):
    search, means = make(), Means()
    player = search.W if poisoned == "W" else search.gan.G
    with torch.no_grad():
        next(iter(player.params.values())).fill_(float("nan"))
    means.add(search.step(*batches(search), True))
    with pytest.raises(SearchFailed, match=named):
        means.close(1)


def test_how_far_the_central_difference_of_B_moves_the_images():
    """Against the images of G moved by hand by the radius along the response that Eq. 7 takes."""
    search = make()
    G, batch = search.gan.G, batches(search)
    search.step(*batch, True)
    place, stream = G.state(), partial(seed_of, search.config.seed, 0, search.iteration)
    asked, step = [], G.step

    def recording(grads):
        response = step(grads)
        return lambda v: asked.append(response(v)) or asked[-1]

    G.step = recording
    found = search.step(*batch, True)["grad/rms_images"]
    z, y = search.gan.draw(BATCH, stream("z"))
    images, (p,) = [], asked
    for eps in (0.0, 0.1 / float(norm(p)), -0.1 / float(norm(p))):
        moved = {k: t + eps * p[k] for k, t in place.params.items()}
        with replay(stream("gan")):
            images.append(torch.func.functional_call(G.module, {**moved, **place.state().buffers}, (z, y)))
    squares = [(x - images[0]).square().mean() for x in images[1:]]
    torch.testing.assert_close(found, (sum(squares) / 2).sqrt())
    assert 0 < found < 1 and "grad/rms_images" not in make(hypergradient="exact").step(*batch, True)


def test_no_response_of_the_generator_leaves_B_without_a_gradient():
    search = make()
    search.gan.G.lr = 0.0
    search.gan.G.inner = "sgd"
    handed = spy(search.gan.B)
    search.step(*batches(search), True)
    assert handed == [{}]


def test_state_round_trip_is_exact():
    search, other = make(), make()
    for _ in range(2):
        search.step(*batches(search), True)
    for player, twin in zip(
        (search.W, search.A, *search.gan.players), (other.W, other.A, *other.gan.players), strict=True
    ):
        twin.load_state_dict(copy.deepcopy(player.state_dict()))
    other.iteration = search.iteration
    for s in (search, other):
        s.step(*batches(s), True)
    for player, twin in zip(
        (search.W, search.A, *search.gan.players), (other.W, other.A, *other.gan.players), strict=True
    ):
        assert all(torch.equal(p, twin.params[k]) for k, p in player.params.items())


def test_the_first_beta_of_the_architectures_adam_is_a_setting() -> None:
    for changes, beta in (({}, 0.5), ({"arch_beta1": 0.9}, 0.9)):
        (group,) = small_search(**changes).A.optimizer.param_groups
        assert group["betas"] == (beta, 0.999)
    with pytest.raises(ValueError, match=r"^arch-beta1 1\.0: expected a number from 0 to below 1$"):
        small_search(arch_beta1=1.0)
