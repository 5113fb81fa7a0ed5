"""ContraGAN: published sizes, the 2C loss and attention by independent computation, Eq. 7 by autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from toys import differentiable_step

from dasgm.adversary import Adversary
from dasgm.bilevel import Player, grad, mixed_vjp, norm
from dasgm.gans import biggan, contragan
from dasgm.gans._contrastive import contrast
from dasgm.gans._resnet import Attention, Spectral

pytestmark = pytest.mark.usefixtures("seeded")


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(size: int = 16, searched: bool = False, classes: int = 4, **settings):
    return contragan.Config(channels=2, shared_dim=6, contrast_dim=5, **settings).build(classes, size, searched)


# Networks


# 10 classes: counted of StudioGAN's; 90 classes more are 90 rows of 128 in G and of 512 in D
@pytest.mark.parametrize(
    "classes, of_g, of_d", [(10, 9_416_196, 2_517_186), (100, 9_416_196 + 90 * 128, 2_517_186 + 90 * 512)]
)
def test_published_numbers_of_weights(classes, of_g, of_d):
    gan = contragan.Config().build(classes, 32, searched=False)
    assert (count(gan.generator), count(gan.discriminator), gan.z_dim) == (of_g, of_d, 80)


@pytest.mark.parametrize("size, z_dim, blocks", [(16, 78, 2), (32, 80, 3), (64, 80, 4)])
def test_attention_where_the_map_is_half_as_large_as_the_image(size, z_dim, blocks):
    gan, maps = small(size), []
    for module in (gan.generator, gan.discriminator.stock):
        assert sum(isinstance(m, Attention) for m in module.modules()) == 1
        module.attention.register_forward_hook(lambda m, args, out: maps.append(out.shape[2:]))
    x = gan.generator(torch.randn(2, gan.z_dim), torch.arange(2))
    gan.discriminator((), x, torch.arange(2))
    assert maps == [(size // 2, size // 2)] * 2
    assert (gan.z_dim, len(gan.generator.blocks), len(gan.discriminator.stock.blocks)) == (z_dim, blocks, blocks + 1)


def test_attention_against_its_formula(float64):
    attention, x = Attention(16).eval().requires_grad_(False), torch.randn(2, 16, 4, 4)
    assert torch.equal(attention(x), x), "it begins as the identity"
    attention.sigma.fill_(0.7)
    matrix = {name: getattr(attention, name).normalised().flatten(1) for name in ("theta", "phi", "value", "output")}
    assert [tuple(m.shape) for m in matrix.values()] == [(2, 16), (2, 16), (8, 16), (16, 8)]
    out = attention(x)
    for image, found in zip(x, out, strict=True):
        places = image.flatten(1)
        coarse = [[4 * r + c for r in (i, i + 1) for c in (j, j + 1)] for i in (0, 2) for j in (0, 2)]
        keys, values = (
            torch.stack([(matrix[name] @ places)[:, four].amax(1) for four in coarse], 1) for name in ("phi", "value")
        )
        for place in range(16):
            query = matrix["theta"] @ places[:, place]
            shares = [math.exp(query @ keys[:, k]) for k in range(4)]
            gathered = sum(s / sum(shares) * values[:, k] for k, s in enumerate(shares))
            expected = places[:, place] + 0.7 * matrix["output"] @ gathered
            assert torch.allclose(found.flatten(1)[:, place], expected, atol=1e-12)


def test_orthogonal_start_of_every_layer_the_alternatives_too():
    gan = small(searched=True)
    layers = [m for net in (gan.generator, gan.discriminator) for m in net.modules() if isinstance(m, Spectral)]
    assert len(layers) > 50
    for layer in layers:
        w = layer.weight.detach().flatten(1)
        torch.testing.assert_close(torch.linalg.svdvals(w), torch.ones(min(w.shape)), atol=1e-4, rtol=0)
        torch.testing.assert_close(layer.normalised().detach().flatten(1), w, atol=1e-4, rtol=0)


def test_the_logit_does_not_see_the_label_and_the_rest_is_of_length_one():
    gan = small()
    x, y = torch.rand(5, 3, 16, 16) * 2 - 1, torch.tensor([0, 1, 2, 3, 1])
    gan.discriminator.eval()  # for the same spectral vectors
    of_y, of_others = gan.discriminator((), x, y), gan.discriminator((), x, y.roll(1))
    assert [tuple(t.shape) for t in of_y] == [(5,), (5, 5), (5, 5)]
    assert torch.equal(of_y[0], of_others[0]) and torch.equal(of_y[1], of_others[1])
    assert torch.allclose(of_y[2].roll(1, 0), of_others[2]) and not torch.allclose(of_y[2], of_others[2])
    assert all(torch.allclose(t.norm(dim=1), torch.ones(5)) for t in of_y[1:])


def test_recipe():
    gan = small()
    for make in (gan.generator_optimizer, gan.discriminator_optimizer):
        (group,) = make(list(gan.generator.parameters())).param_groups
        assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (2e-4, (0.5, 0.999), 1e-6, 0)
    assert [gan.average_decay(step) for step in (1, 999, 1000)] == [0.0, 0.0, 0.9999] and gan.regularise is None
    norms = [m for m in gan.generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 5 and {m.eps for m in norms} == {1e-4}
    lengths = contragan.Config(channels=2).build(100, 16, False).generator.shared.weight.norm(dim=1)
    assert lengths.mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "field, value",
    [("contrast_dim", 0), ("conditional_strength", -1.0), ("temperature", 0.0), ("temperature", math.nan)],
)
def test_wrong_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^gan\.{field} {value}: expected[^\n]*$"):
        contragan.Config(**{field: value})


# Losses


def two_c(images, proxies, y, temperature, positives) -> float:
    """Eq. 8 of the paper, letter by letter; without the sum in the numerator where `positives` is off."""
    total, n = 0.0, len(y)
    for i in range(n):
        own = math.exp(float(images[i] @ proxies[i]) / temperature)
        numerator = denominator = own
        for k in range(n):
            if k != i:
                term = math.exp(float(images[i] @ images[k]) / temperature)
                denominator += term
                if positives and y[k] == y[i]:
                    numerator += term
        total -= math.log(numerator / denominator)
    return total / n


@pytest.mark.parametrize("positives", (False, True))
@pytest.mark.parametrize("temperature", (1.0, 0.3))
def test_2c_is_its_formula(float64, positives, temperature):
    y = torch.tensor([2, 0, 2, 1, 2, 0])  # class 1 appears once
    images, table = F.normalize(torch.randn(6, 7)), F.normalize(torch.randn(3, 7))
    found = contrast(images, table[y], y, temperature, positives)
    assert found.item() == pytest.approx(two_c(images, table[y], y.tolist(), temperature, positives), rel=1e-12)
    arguments = (images.requires_grad_(), table[y].requires_grad_())
    assert torch.autograd.gradgradcheck(lambda *a: contrast(*a, y, temperature, positives), arguments)


def test_2c_of_one_image_or_of_alike_ones():
    x = F.normalize(torch.randn(4, 3))
    assert contrast(x[:1], x[1:2], torch.tensor([0]), 1.0, False).item() == 0
    assert contrast(x, x.roll(1, 0), torch.zeros(4), 1.0, True).abs().item() < 1e-6


@pytest.mark.parametrize("positives", (False, True))
def test_hinge_and_2c_of_the_real_images_for_E_of_the_generated_ones_for_G(float64, positives):
    gan = small(conditional_strength=0.5, temperature=0.8, positives_in_numerator=positives)
    points, table = F.normalize(torch.randn(5, 3)), F.normalize(torch.randn(4, 3))
    logits = torch.tensor([0.5, 2.0, -1.0, -2.0, 0.25])
    y, y_fake = torch.tensor([0, 1, 0]), torch.tensor([3, 3])

    def discriminate(x, labels):
        assert torch.equal(labels, torch.cat([y, y_fake]) if len(x) == 5 else y_fake)
        return logits[x], points[x], table[labels]

    (loss,) = gan.discriminator_losses(0)
    found = loss(discriminate, torch.arange(3), y, torch.arange(3, 5), y_fake).item()
    of_real = two_c(points[:3], table[y], y.tolist(), 0.8, positives)
    assert found == pytest.approx((0.5 + 0 + 2) / 3 + (0 + 1.25) / 2 + 0.5 * of_real)
    of_fake = two_c(points[3:], table[y_fake], y_fake.tolist(), 0.8, positives)
    found = gan.generator_loss(discriminate, torch.arange(3, 5), y_fake).item()
    assert found == pytest.approx(1.75 / 2 + 0.5 * of_fake)


# Eq. 7


@pytest.fixture
def smooth(float64, monkeypatch):
    """No kinks: softplus for ReLU, a soft maximum for the maximum."""
    monkeypatch.setattr(torch.Tensor, "relu", lambda x: F.softplus(x))
    monkeypatch.setattr(F, "max_pool2d", lambda x, size, *_, **__: F.avg_pool2d(x.exp(), size).log())


@pytest.mark.parametrize("key", ("contragan", "contragan with positives", "biggan"))
def test_gradient_of_B_is_autograd_through_the_generators_step(smooth, key):
    """Of the real networks, attention or orthogonal regularisation at work, through Adam's third step, a label
    absent."""
    if key == "biggan":
        config = biggan.Config(channels=2, shared_dim=6, orthogonal=1e-2, generator_lr=1e-3)
        gan = config.build(4, 16, searched=True)
    else:
        gan = small(searched=True, positives_in_numerator="positives" in key, generator_lr=1e-3)
        with torch.no_grad():
            for attention in (gan.generator.attention, gan.discriminator.stock.attention):
                attention.sigma.fill_(0.5)
    adversary = Adversary(gan)
    G, E, B = adversary.players
    direction = torch.randn(3, 16, 16)
    for i in range(3):
        z, y = torch.randn(6, gan.z_dim), torch.tensor([0, 1, 2, 0, 1, 0])
        z3, y3 = torch.randn(4, gan.z_dim), torch.arange(4)
        G0, E0 = G.state(), E.state()

        def L_GAN(G, B, E0=E0, z=z, y=y, i=i):
            return adversary.generator_pass(G, E0, B, z, y, i)[0]

        def L3(G, z=z3, y=y3):
            return ((G(z, y) - direction).sin().sum((1, 2, 3)) * (1 + y)).mean()

        place = {k: p.detach().clone().requires_grad_() for k, p in G.params.items()}
        point, after = G0.moved({}, 0.0), G0.moved({}, 0.0)
        point.params = place
        gG = dict(zip(place, torch.autograd.grad(L_GAN(point, B), place.values(), create_graph=True), strict=True))
        after.params = differentiable_step(G, place, gG)
        fake, response, _ = adversary.generator_step(z, y, i)
        after.buffers = G.state().buffers
        truth = dict(zip(B.params, torch.autograd.grad(L3(after), list(B.params.values())), strict=True))
        (u,) = grad(L3(G), G)
        p = response(u)
        exact = mixed_vjp(L_GAN, G0, B, p, None)
        coarse, fine = (mixed_vjp(L_GAN, G0, B, p, r) for r in (0.005, 0.0025))
        adversary.discriminator_step(torch.rand(6, 3, 16, 16) * 2 - 1, y, fake, y, i)

    def error(found) -> float:
        return float(norm({k: found[k] - truth[k] for k in truth}) / norm(truth))

    assert all(t.abs().max() > 0 for t in truth.values()) and isinstance(G, Player)
    assert error(exact) < 1e-8
    assert error(coarse) < 1e-3
    assert 3.5 < error(coarse) / error(fine) < 4.5
