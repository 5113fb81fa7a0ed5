"""StyleGAN2-ADA: published sizes, each layer against an explicit formula, losses, the search space, and Eq. 7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d, correlate2d
from torch import nn
from toys import differentiable_step

from dasgm.adversary import Adversary, sample
from dasgm.bilevel import grad, mixed_vjp, norm, replay
from dasgm.gans import _stylegan2
from dasgm.gans._searchable import relax
from dasgm.gans._stylegan2 import (
    Blur,
    Discriminator,
    DiscriminatorBlock,
    EqualConv2d,
    EqualLinear,
    Mapping,
    ModulatedConv2d,
    SynthesisLayer,
    edges,
    with_deviation,
)
from dasgm.gans.stylegan2ada import Config

pytestmark = pytest.mark.usefixtures("seeded", "float64")

FIR = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def small(searched: bool = False, **settings):
    return Config(**{"channels": 4, "z_dim": 6, "w_dim": 5} | settings).build(3, 16, searched)


# Networks


@pytest.mark.parametrize("classes, of_g, of_d", [(10, 20_215_315, 23_089_664), (100, 20_261_395, 23_135_744)])
def test_published_numbers_of_weights(classes, of_g, of_d):
    """CIFAR-10's are measured on the authors' networks; a class more is one more row of 512 in each embedding."""
    with torch.device("meta"):
        gan = Config().build(classes, 32, searched=False)
    assert (count(gan.generator), count(gan.discriminator)) == (of_g, of_d)
    assert (gan.z_dim, gan.classes) == (512, classes)
    if classes == 10:
        assert (count(gan.generator.mapping), count(gan.discriminator.stock.mapping)) == (793_088, 2_106_880)


@pytest.mark.parametrize("size, blocks", [(16, 2), (32, 3), (64, 4)])
def test_a_block_a_doubling_of_one_width(size, blocks):
    gan = Config(channels=8).build(3, size, searched=False)
    assert len(gan.generator.blocks) == len(gan.discriminator.stock.blocks) == blocks
    assert {c.weight.shape[:2] for c in gan.discriminator.modules() if isinstance(c, EqualConv2d)} == {
        (8, 3),
        (8, 8),
        (8, 9),
    }


def test_equalised_learning_rate():
    layer = EqualLinear(400, 300, rate=0.01)
    conv = EqualConv2d(20, 30, 5)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.02)
    assert conv.weight.std().item() == pytest.approx(1, rel=0.02)
    layer.bias.data.normal_()
    x, image = torch.randn(2, 400), torch.randn(2, 20, 7, 7)
    assert torch.allclose(layer(x), x @ layer.weight.T * 0.01 / 20 + 0.01 * layer.bias)
    assert torch.allclose(conv(image), F.conv2d(image, conv.weight, padding=2) / math.sqrt(20 * 25))
    assert EqualLinear(3, 2, bias=1.0)(torch.zeros(1, 3)).tolist() == [[1.0, 1.0]]


def test_mapping_normalises_noise_and_label():
    mapping = Mapping(3, 6, 5, layers=2)
    z, y = torch.randn(4, 6), torch.tensor([0, 2, 2, 1])
    embedded = mapping.embedding.weight.T[y] / math.sqrt(3)
    parts = [v / v.square().mean(1, keepdim=True).sqrt() for v in (z, embedded)]
    x = torch.cat(parts, 1)
    for layer in mapping.layers:
        x = layer(x)
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    assert torch.allclose(mapping(y, z), x, atol=1e-6)  # the second moment has 1e-8 added
    assert torch.allclose(mapping(y, 7 * z), mapping(y, z), atol=1e-6)
    assert mapping(y, z).shape == (4, 5) and len(Mapping(3, 0, 5, layers=8).layers) == 8


def stuffed(x: np.ndarray) -> np.ndarray:
    """Zeros between the pixels and after the last."""
    out = np.zeros([2 * s for s in x.shape])
    out[::2, ::2] = x
    return out


def test_doubling_convolution_is_zeros_then_two_filters():
    conv, x = ModulatedConv2d(2, 3, 3, w_dim=5, demodulate=False, up=True), torch.randn(1, 2, 5, 5)
    nn.init.zeros_(conv.affine.weight)  # the style is 1
    weight = (conv.weight / math.sqrt(18)).detach().numpy()
    found = conv(x, torch.randn(1, 5))[0]
    for o in range(3):
        up = sum(convolve2d(stuffed(x[0, i].numpy())[:-1, :-1], weight[o, i]) for i in range(2))
        expected = convolve2d(up, 4 * FIR)[2:-2, 2:-2]
        assert np.allclose(found[o].detach(), expected) and expected.shape == (10, 10)


def test_doubled_image_is_zeros_then_a_filter():
    x = torch.randn(1, 3, 5, 5)
    found = Blur(padding=1).upsampled(x)
    for c in range(3):
        expected = correlate2d(np.pad(stuffed(x[0, c].numpy()), ((2, 1), (2, 1))), 4 * FIR, "valid")
        assert np.allclose(found[0, c], expected) and expected.shape == (10, 10)


def test_halving_convolution_is_a_filter_then_every_other_place(monkeypatch):
    monkeypatch.setattr(_stylegan2, "activate", lambda x: x)
    block, x = DiscriminatorBlock(3), torch.randn(1, 3, 8, 8)
    block.conv0 = nn.Identity()
    weight = (block.conv1.weight / math.sqrt(27)).detach().numpy()
    for o in range(3):
        blurred = [correlate2d(np.pad(x[0, i].numpy(), 2), FIR, "valid") for i in range(3)]
        expected = sum(correlate2d(blurred[i], weight[o, i], "valid") for i in range(3))[::2, ::2]
        assert np.allclose(block(x)[0, o].detach(), expected) and expected.shape == (4, 4)


def test_modulated_convolution_is_a_kernel_for_each_sample():
    conv, x, w = ModulatedConv2d(4, 6, 3, w_dim=5), torch.randn(3, 4, 7, 7), torch.randn(3, 5)
    style = w @ conv.affine.weight.T / math.sqrt(5) + 1
    weight = conv.weight[None] / 6 * style[:, None, :, None, None]
    weight = weight / (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
    expected = torch.cat([F.conv2d(a[None], b, padding=1) for a, b in zip(x, weight, strict=True)])
    assert torch.allclose(conv(x, w), expected, atol=1e-12)


def test_noise_is_one_for_all_channels_and_starts_at_none():
    layer, x, w = SynthesisLayer(4, 5), torch.randn(3, 4, 8, 8), torch.randn(3, 5)
    assert torch.equal(layer(x, w), layer(x, w))
    layer.strength.data.fill_(0.5)
    with replay(1):
        found = layer(x, w)
    with replay(1):
        noise = torch.randn(3, 1, 8, 8)
    h = layer.conv(x, w) + 0.5 * noise
    assert torch.allclose(found, torch.where(h > 0, h, 0.2 * h) * math.sqrt(2))


@pytest.mark.parametrize("n, size", [(6, 6), (64, 32), (48, 24), (1, 1)])
def test_minibatch_deviation(n, size):
    x = torch.randn(n, 2, 4, 4)
    out, groups = with_deviation(x), n // size
    assert torch.equal(out[:, :2], x) and out.shape == (n, 3, 4, 4)
    for i in range(n):
        members = x[i % groups :: groups].numpy()
        assert len(members) == size
        assert np.allclose(out[i, 2], np.sqrt(members.var(0) + 1e-8).mean())


def test_projection_and_the_order_of_the_discriminator():
    stock = Discriminator(3, 16, 4, None)
    x, y = torch.randn(2, 3, 16, 16), torch.tensor([0, 2])

    def leaky(h):
        return torch.where(h > 0, h, 0.2 * h) * math.sqrt(2)

    h = leaky(stock.rgb(x))
    for block in stock.blocks:
        h = block(h)
    h = leaky(stock.conv(with_deviation(h))).flatten(1)
    h = stock.output(leaky(stock.linear(h)))
    assert torch.allclose(stock(x, y), (h * stock.mapping(y)).sum(1) / 2)


# Losses and optimisers


def test_logistic_loss_and_r1():
    gan = small(r1_gamma=0.3, r1_interval=5)
    real, fake, slope = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.randn(3, 2, 2)
    y, y_fake = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 2, 0])
    calls = []

    def discriminate(x, labels, seen_real=False):
        calls.append((len(labels), seen_real))
        return (slope * x.square()).sum((1, 2, 3)) + labels

    def logit(x, labels):
        return (slope * x.square()).sum((1, 2, 3)).numpy() + labels.numpy()

    loss, penalty = gan.discriminator_losses(0)
    expected = np.log1p(np.exp(logit(fake, y_fake))).mean() + np.log1p(np.exp(-logit(real, y))).mean()
    assert loss(discriminate, real, y, fake, y_fake).item() == pytest.approx(expected)
    assert calls == [(4, False), (4, True)], "only real images guide the augmentation"
    expected = 5 * 0.3 / 2 * (2 * slope * real).square().sum((1, 2, 3)).mean().item()
    assert penalty(discriminate, real, y, fake, y_fake).item() == pytest.approx(expected)
    assert calls[2] == (4, False), "and once each"
    expected = np.log1p(np.exp(-logit(fake, y_fake))).mean()
    assert gan.generator_loss(discriminate, fake, y_fake).item() == pytest.approx(expected)
    assert [len(gan.discriminator_losses(turn)) for turn in range(11)] == [2, 1, 1, 1, 1, 2, 1, 1, 1, 1, 2]
    assert len(small(r1_gamma=0.0).discriminator_losses(0)) == 1


def test_r1_s_gradient_is_that_of_a_finite_difference():
    """d R1 / d weights of the real discriminator, augmented, against a central difference along a direction."""
    gan = small(augment_start=0.5)
    real, y = torch.rand(3, 3, 16, 16) * 2 - 1, torch.tensor([0, 1, 2])
    weight = gan.discriminator.stock.blocks[0].conv0.weight

    def penalty():
        with replay(1):
            return gan.discriminator_losses(0)[1](lambda *a: gan.discriminator((), *a), real, y, real, y)

    direction, e = torch.randn_like(weight), 1e-6
    (found,) = torch.autograd.grad(penalty(), weight)
    sides = []
    for s in (e, -e):
        weight.data.add_(s * direction)
        sides.append(penalty().item())
        weight.data.sub_(s * direction)
    assert (found * direction).sum().item() == pytest.approx((sides[0] - sides[1]) / (2 * e), rel=1e-4)


def test_recipe():
    gan = small()
    (of_g,) = gan.generator_optimizer(list(gan.generator.parameters())).param_groups
    (of_e,) = gan.discriminator_optimizer(list(gan.discriminator.parameters())).param_groups
    assert (of_g["lr"], of_g["betas"], of_g["eps"]) == (
        pytest.approx(0.0020),
        (0.0, pytest.approx(0.99199, abs=1e-5)),
        1e-8,
    )
    assert of_e["lr"] == pytest.approx(0.0023529, abs=1e-7) and of_e["betas"] == (
        0.0,
        pytest.approx(0.990585, abs=1e-6),
    )
    assert math.prod([gan.average_decay(1000)] * 50) == pytest.approx(0.5), "half-life: 5 % of the steps so far"
    assert gan.average_decay(10**7) == pytest.approx(0.5 ** (64 / 500_000)) and gan.average_decay(1) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [{"z_dim": 0}, {"w_dim": 0}, {"r1_gamma": -1.0}, {"r1_interval": 0}, {"augment_start": 1.5}]
    + [{"augment_target": 2.0}, {"augment_interval": 0}, {"augment_kimg": 0.0}, {"average_rampup": math.nan}],
    ids=str,
)
def test_wrong_settings_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=rf"^gan\.{next(iter(settings))} [^\n]*expected[^\n]*$"):
        Config(**settings)


# The augmentation's state


def test_only_live_steps_on_real_images_are_counted():
    gan = small(augment_start=0.5, augment_kimg=1.0)
    adversary, control = Adversary(gan), gan.discriminator.stock.augmentation
    real, y = torch.rand(6, 3, 16, 16) * 2 - 1, torch.arange(6) % 3
    for i in range(4):
        assert (int(control.batches), int(control.images)) == (i, 6 * i), "R1, at step 0, does not count"
        assert control.p.item() == 0.5
        z, y_fake = adversary.draw(6, i)
        fake, _, _ = adversary.generator_step(z, y_fake, i)
        adversary.E(adversary.B(), real, y, True)  # a pure call
        adversary.discriminator_step(real, y, fake, y_fake, i)
    assert abs(control.p.item() - 0.5) == pytest.approx(24 / 1000) and int(control.batches) == 0


def test_strength_survives_a_state_dict():
    old, new = (small(augment_kimg=0.1).discriminator for _ in range(2))
    x, y = torch.randn(6, 3, 16, 16), torch.arange(6) % 3
    old.stock.augmentation.p = torch.tensor(0.25)
    for _ in range(3):
        old((), x, y, True)
    new.load_state_dict(old.state_dict())
    for name in ("p", "signs", "images", "batches"):
        assert torch.equal(getattr(old.stock.augmentation, name), getattr(new.stock.augmentation, name))
    results = []
    for discriminator in (old, new):
        with replay(1):
            results.append([discriminator((), x, y, True), discriminator.stock.augmentation.p])
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1] != 0.25


def test_shown_images_are_cut_off():
    gan = small()
    gan.generator.rgb.bias.data.fill_(3.0)
    images = sample(Adversary(gan), Adversary(gan).G, torch.arange(6) % 3, seed=0)
    assert images.max() == 1 and images.min() >= -1


# The searchable discriminator


def test_the_folded_halving_convolution_is_the_weighted_sum_of_its_operations():
    block = DiscriminatorBlock(4)
    stock = nn.Module()
    stock.blocks = nn.ModuleList([block])
    space = edges(stock)
    assert list(space) == ["blocks.0.conv0", "blocks.0.blur", "blocks.0.conv1"]
    _, architecture = relax(stock, space, searched=True, init=0.0)
    assert architecture.operations["blocks.0.blur"] == ["default", "average", "max"]
    operations = block.conv1.operations
    assert list(operations) == ["default", "none", "skip", "conv_1x1", "conv_5x5", "dil_conv_3x3"]
    for operation in operations.values():
        if isinstance(operation, EqualConv2d):
            operation.bias.data.normal_()
    x, weights = torch.randn(2, 4, 8, 8), torch.randn(6).softmax(0)
    block.conv1.weights = weights
    found = block(x)
    block.conv1.weights = None
    blurred = block.blur(_stylegan2.activate(block.conv0(x)))
    # an operation's places are those of the 3x3 convolution: every other one, from the second
    terms = (
        w * operation(blurred)[:, :, 1::2, 1::2] for w, operation in zip(weights, operations.values(), strict=True)
    )
    assert torch.allclose(found, _stylegan2.activate(sum(terms)), atol=1e-12)


def test_other_filters_have_the_place_of_the_blur():
    """Each halves like the blur: its output lies between the four pixels around it."""
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4, 4] = 1
    filters = {"blur": Blur(padding=2), **_stylegan2._filters()}
    for name, found in ((name, f(x)) for name, f in filters.items()):
        assert found.shape == (1, 1, 9, 9), name
        weights = found[0, 0] / found.sum()
        centre = [(weights.sum(1 - axis) * torch.arange(9)).sum().item() for axis in (0, 1)]
        assert centre == pytest.approx([4.5, 4.5]), name
    assert filters["average"](x)[0, 0, 4:6, 4:6].tolist() == [[0.25, 0.25], [0.25, 0.25]]


# Eq. 7


def test_gradient_of_B_is_autograd_through_the_generators_step(monkeypatch):
    """With layer noise, augmentation and clipping; smooth: a leaky ReLU rounded at 0, no maximum among the filters."""
    monkeypatch.setattr(_stylegan2, "activate", lambda x: math.sqrt(2) * (0.6 * x + 0.4 * (x.square() + 0.1).sqrt()))
    monkeypatch.setattr(_stylegan2, "_filters", lambda: {"average": nn.AvgPool2d(2, 1, 1)})
    gan = small(searched=True, augment_start=0.5, augment_interval=1, augment_kimg=0.1)  # it moves at every step
    adversary = Adversary(gan)
    G, E, B = adversary.players
    G.clip = 0.02
    for name, p in G.params.items():
        if name.endswith("strength"):
            p.data.fill_(0.3)
    judge = nn.Linear(48, 3)
    real, y_real = torch.rand(6, 3, 16, 16) * 2 - 1, torch.arange(6) % 3
    for i in range(3):
        (z, y), (z3, y3) = adversary.draw(6, i), adversary.draw(6, 100 + i)
        y = y % 2  # a label is absent
        G0, E0 = G.state(), E.state()

        def L_GAN(G, B, E0=E0, z=z, y=y, i=i):
            return adversary.generator_pass(G, E0, B, z, y, i)[0]

        def L3(G, z=z3, y=y3, i=i):
            with replay("dasgm", i):
                return F.cross_entropy(torch.tanh(judge(F.avg_pool2d(G(z, y), 4).flatten(1))), y)

        place = {k: p.detach().clone().requires_grad_() for k, p in G.params.items()}
        point, after = G0.moved({}, 0.0), G0.moved({}, 0.0)
        point.params = place
        gG = dict(zip(place, torch.autograd.grad(L_GAN(point, B), place.values(), create_graph=True), strict=True))
        assert float(norm({k: g.detach() for k, g in gG.items()})) > G.clip, "clipping must be active"
        after.params = differentiable_step(G, place, gG)
        truth = torch.cat(torch.autograd.grad(L3(after), list(B.params.values())))

        fake, response, _ = adversary.generator_step(z, y, i)
        adversary.discriminator_step(real, y_real, fake, y, i)
        (u,) = grad(L3(G), G)
        p = response(u)

    def error(radius):
        return ((torch.cat(list(mixed_vjp(L_GAN, G0, B, p, radius).values())) - truth).norm() / truth.norm()).item()

    assert error(None) < 1e-8 and error(0.01) < 1e-3
    assert 3.5 < error(0.01) / error(0.005) < 4.5, "the error of a central difference falls fourfold"
