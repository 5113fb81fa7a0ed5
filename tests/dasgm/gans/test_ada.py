"""Adaptive augmentation: exact geometry, colours against formulas, the paper's distributions, and the control of p."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dasgm.bilevel import replay
from dasgm.gans import _ada
from dasgm.gans._ada import Augmentation, colour, coloured, geometry, interpolation, moved

pytestmark = pytest.mark.usefixtures("seeded", "float64")


def augmentation(size: int = 16, start: float = 0.0, interval: int = 4, horizon: float = 5e5) -> Augmentation:
    return Augmentation(size, start, 0.6, interval, horizon)


@pytest.fixture
def fires(monkeypatch):
    """fires(name=value, ...): the draws of geometry or colour, 0 where not named."""

    def script(*names, **values):
        draws = iter(names)
        monkeypatch.setattr(_ada, "_fires", lambda n, p, v: torch.as_tensor(values.get(next(draws), 0.0)) + 0.0 * v)

    return script


GEOMETRY = ("flip", "turn", "shift", "scale", "stretch", "before", "after", "drift")
COLOUR = ("bright", "contrast", "invert", "hue", "saturation")


@pytest.mark.parametrize(
    "draws, expected",
    [
        ({"flip": 1.0}, lambda x: x[..., ::-1]),
        ({"turn": 1.0}, lambda x: np.rot90(x, 1, (2, 3))),
        ({"turn": 2.0}, lambda x: np.rot90(x, 2, (2, 3))),
        ({"turn": 3.0}, lambda x: np.rot90(x, 3, (2, 3))),
        (
            {"shift": [[2.0], [-1.0]]},  # to the right and up
            lambda x: np.pad(x, ((0, 0), (0, 0), (0, 1), (2, 0)), "reflect")[:, :, 1:, :-2],
        ),
        (
            {"flip": 1.0, "turn": 1.0, "shift": [[1.0], [0.0]]},  # in this order
            lambda x: np.pad(np.rot90(x[..., ::-1], 1, (2, 3)), ((0, 0), (0, 0), (0, 0), (1, 0)), "reflect")[..., :-1],
        ),
    ],
    ids=["flip", "quarter", "half", "three quarters", "shift", "in order"],
)
def test_whole_pixels_are_moved_exactly(fires, draws, expected):
    x = torch.randn(2, 3, 16, 16)
    fires(*GEOMETRY, **draws)
    found = moved(x, geometry(2, 16, torch.tensor(1.0)), interpolation(16))
    assert np.array_equal(found.numpy(), expected(x.numpy()))


def test_between_pixels(fires):
    x = torch.randn(1, 3, 16, 16)
    for drift, taps in ((0.5, (-1 / 16, 9 / 16, 9 / 16, -1 / 16)), (0.25, (-1 / 32, 9 / 32, 25 / 32, -1 / 32))):
        fires(*GEOMETRY, drift=[[drift], [0.0]])
        found = moved(x, geometry(1, 16, torch.tensor(1.0)), interpolation(16))
        # to the right: a pixel comes from the left of where it is
        expected = sum(t * x[..., i : 13 + i] for i, t in enumerate(taps))
        assert torch.allclose(found[..., 2:15], expected)


def test_any_geometry_on_a_ramp(fires):
    """Interpolation reproduces linear images, so out(G p) = in(p), where the border is far."""
    at = torch.arange(32) - 15.5
    ramp = 0.3 * at[None, :] - 0.7 * at[:, None]
    fires(*GEOMETRY, scale=0.4, stretch=-0.3, before=0.5, after=-1.1, drift=[[1.3], [-0.4]])
    G = geometry(1, 32, torch.tensor(1.0))
    turn = lambda a: np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])  # noqa: E731
    linear = turn(1.1) @ np.diag([2**-0.3, 2**0.3]) @ turn(-0.5) * 2**0.4
    assert np.allclose(G[0, :2, :2], linear) and np.allclose(G[0, :2, 2], [1.3, -0.4])
    found = moved(ramp.expand(1, 3, -1, -1), G, interpolation(32))
    for r, c in ((15, 16), (10, 20), (21, 12)):
        x, y = np.linalg.solve(linear, np.array([c - 15.5 - 1.3, r - 15.5 + 0.4]))
        assert found[0, 1, r, c].item() == pytest.approx(0.3 * x - 0.7 * y)


def test_colours_against_their_formulas(fires):
    x = torch.rand(2, 3, 5, 5) * 2 - 1
    grey = x.mean(1, keepdim=True).expand_as(x)

    def changed(**draws):
        fires(*COLOUR, **draws)
        return coloured(x, colour(2, torch.tensor(1.0)))

    assert torch.equal(changed(), x)
    assert torch.allclose(changed(bright=0.3), x + 0.3)
    assert torch.allclose(changed(contrast=0.5), x * math.sqrt(2))
    assert torch.allclose(changed(bright=0.3, contrast=1.0), 2 * (x + 0.3)), "brightness first"
    assert torch.allclose(changed(invert=1.0), x - 2 * grey)
    assert torch.allclose(changed(saturation=1.0), grey + 2 * (x - grey))
    assert torch.allclose(changed(hue=2 * math.pi / 3), x.roll(1, 1)), "a third of a turn: red becomes green"
    assert torch.allclose(changed(hue=1.0).square().sum(1), x.square().sum(1))


@pytest.mark.parametrize("p", [1.0, 0.3])
def test_draws_have_the_paper_s_distributions(p):
    n = 40_000
    G, C = geometry(n, 32, torch.tensor(p)), colour(n, torch.tensor(p))
    linear = G[:, :2, :2]
    scale = linear.det().abs().log2() / 2
    hit = scale.abs() > 1e-9
    assert hit.double().mean().item() == pytest.approx(p, abs=0.01)
    assert scale[hit].std().item() == pytest.approx(0.2, rel=0.03)
    assert (linear.det() < 0).double().mean().item() == pytest.approx(p / 2, abs=0.01)
    aligned = ((linear[:, 0, 0] * linear[:, 0, 1]).abs() < 1e-9) & ((linear[:, 1, 0] * linear[:, 1, 1]).abs() < 1e-9)
    assert (~aligned).double().mean().item() == pytest.approx(p, abs=0.01), "either rotation, together"
    still = (G[:, :2, 2].abs() < 1e-9).all(1)  # neither shift (one of 81 is by nothing) nor drift
    assert still.double().mean().item() == pytest.approx((1 - p) * (1 - p * (1 - 1 / 64)), abs=0.01)
    grey = torch.ones(3) / math.sqrt(3)
    luma = torch.einsum("i,nij,j->n", grey, C[:, :3, :3], grey)
    contrast = luma.abs().log2()
    assert contrast[contrast.abs() > 1e-9].std().item() == pytest.approx(0.5, rel=0.03)
    assert (luma < 0).double().mean().item() == pytest.approx(p / 2, abs=0.01)
    bright = C[:, :3, 3].mean(1) / luma
    assert bright[bright != 0].std().item() == pytest.approx(0.2, rel=0.03)
    saturation = (C[:, :3, :3].det().abs().log2() - 3 * contrast) / 2
    hit = saturation.abs() > 1e-9
    assert saturation[hit].std().item() == pytest.approx(1.0, rel=0.03)
    assert hit.double().mean().item() == pytest.approx(p, abs=0.01)


def test_augmentation_at_zero_is_the_image_itself():
    x = torch.randn(2, 3, 16, 16)
    assert augmentation()(x) is x
    before = torch.get_rng_state()
    augmentation()(x)
    assert torch.equal(before, torch.get_rng_state())
    strong = augmentation(start=1.0)
    with replay(1):
        first = strong(x)
    with replay(1):
        assert torch.equal(strong(x), first) and not torch.equal(first, x)


def test_augmentation_is_differentiable_twice_in_the_image():
    augment, x = augmentation(size=4, start=0.9), torch.randn(1, 3, 4, 4, requires_grad=True)

    def bent(x):
        with replay(3):
            return augment(x.sin()).square()

    assert torch.autograd.gradcheck(bent, x)
    assert torch.autograd.gradgradcheck(bent, x)


def test_strength_follows_the_sign_of_real_logits():
    step = 4 * 64 / 500_000  # the published 5.12e-4
    control = augmentation()
    up, down = torch.ones(64), torch.cat([torch.ones(51), -torch.ones(13)])  # r_t = 1 and 0.59
    for i in range(8):
        control.observe(up)
        assert control.p.item() == pytest.approx(step * ((i + 1) // 4))
    for _ in range(4):
        control.observe(down)
    assert control.p.item() == pytest.approx(step)
    for _ in range(12):
        control.observe(down)
    assert control.p.item() == 0
    control = augmentation(start=0.999, interval=1, horizon=64 / 0.01)
    control.observe(up)
    assert control.p.item() == 1
    control.eval().observe(down)
    assert control.p.item() == 1
