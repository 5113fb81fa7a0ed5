"""BigGAN: published sizes, its blocks, losses and spectral norm by independent computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dasgm.gans import biggan
from dasgm.gans._resnet import DiscriminatorBlock, GeneratorBlock, Spectral, SpectralConv2d
from dasgm.testing.gans import weights

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("classes, of_g, of_d", [(10, 4_373_251, 4_207_361), (100, 4_384_771, 4_230_401)])
def test_published_numbers_of_weights(classes, of_g, of_d):
    gan = biggan.Config().build(classes, 32, searched=False)
    assert (weights(gan.generator), weights(gan.discriminator), gan.z_dim) == (of_g, of_d, 128)


@pytest.mark.parametrize("size, z_dim, blocks", [(16, 126, 2), (32, 128, 3), (64, 125, 4)])
def test_one_block_and_one_chunk_of_z_a_doubling(size, z_dim, blocks):
    gan = biggan.Config(channels=2).build(10, size, searched=False)
    assert (gan.z_dim, len(gan.generator.blocks), len(gan.discriminator.stock.blocks)) == (z_dim, blocks, blocks + 1)


def test_hinge():
    real, fake = torch.tensor([0.5, 2.0, -1.0]), torch.tensor([-2.0, 0.25])
    y, y_fake = torch.tensor([0, 1, 2]), torch.tensor([3, 4])

    def discriminate(x, labels):
        assert torch.equal(labels, torch.cat([y, y_fake]) if len(x) == 5 else y_fake)
        return x

    gan = biggan.Config(channels=2).build(5, 16, searched=False)
    (loss,) = gan.discriminator_losses(0)
    assert loss(discriminate, real, y, fake, y_fake).item() == pytest.approx((0.5 + 0 + 2) / 3 + (0 + 1.25) / 2)
    assert gan.generator_loss(discriminate, fake, y_fake).item() == pytest.approx(1.75 / 2)


def test_orthogonal_regularisation_is_half_the_gradient_of_its_penalty(float64):
    gan = biggan.Config(channels=2, orthogonal=1e-2).build(4, 16, searched=False)
    params = dict(gan.generator.named_parameters())
    extra = gan.regularise(params)
    for name, p in params.items():
        penalty = 0 * p.sum()
        if p.dim() > 1 and name != "shared.weight":
            gram = p.flatten(1) @ p.flatten(1).T
            penalty = (gram - gram.diagonal().diag()).square().sum() / 2
        assert torch.allclose(extra[name], 1e-2 * torch.autograd.grad(penalty, p)[0], atol=1e-12)
    assert biggan.Config(channels=2, orthogonal=0.0).build(4, 16, searched=False).regularise is None


def test_recipe():
    gan = biggan.Config(channels=2).build(4, 16, searched=False)
    for make in (gan.generator_optimizer, gan.discriminator_optimizer):
        (group,) = make(list(gan.generator.parameters())).param_groups
        assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (2e-4, (0.0, 0.999), 1e-8, 0)
    assert [gan.average_decay(step) for step in (1, 999, 1000, 5000)] == [0.0, 0.0, 0.9999, 0.9999]
    weight = biggan.Config(channels=16).build(4, 16, searched=False).generator.blocks[0].conv1.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_spectral_norm_uses_then_iterates(float64):
    conv, x = SpectralConv2d(5, 7, 3), torch.randn(2, 5, 6, 6)
    u, w = conv.u.clone(), conv.weight.detach().flatten(1)
    used = conv.normalised().flatten(1)
    assert torch.allclose(used, w / (u @ w).norm()) and not torch.equal(conv.u, u)
    for _ in range(500):
        conv(x)
    largest = np.linalg.svd(conv.normalised().detach().flatten(1).numpy(), compute_uv=False)[0]
    assert largest == pytest.approx(1.0, abs=1e-9)
    conv.eval()
    frozen = conv.u.clone()
    conv(x)
    assert torch.equal(conv.u, frozen)


@pytest.mark.parametrize("searched", [False, True])
def test_a_pass_iterates_the_norm_of_each_layer_that_it_uses(float64, searched):
    """Layers of one shape are computed together: each must still have its own weight, vector and mode."""
    gan = biggan.Config(channels=2).build(4, 16, searched=True)
    z, y = torch.randn(3, gan.z_dim), torch.arange(3)
    for name, network, args in (
        ("G", gan.generator, (z, y)),
        ("E", gan.discriminator, (gan.architecture() if searched else (), torch.randn(3, 3, 16, 16), y)),
    ):
        layers = {k: m for k, m in network.named_modules() if isinstance(m, Spectral)}
        for layer in layers.values():
            torch.nn.init.normal_(layer.weight)
        still = next(iter(layers))
        layers[still].eval()
        before = {k: m.u.clone() for k, m in layers.items()}
        network(*args)
        for k, layer in layers.items():
            w = layer.weight.detach().flatten(1)
            used = name == "G" or searched or ".operations." not in k or ".default" in k
            iterated = F.normalize(w @ w.T @ before[k], dim=0) if used and k != still else before[k]
            assert torch.allclose(layer.u, iterated, atol=1e-12), k
        with pytest.raises(RuntimeError):
            network(*args[:-1], y[:2])
        assert all(layer.place is None for layer in layers.values()), "cleared even after an exception"


def test_gradient_of_the_spectral_norm_is_the_outer_product(float64):
    conv = SpectralConv2d(3, 4, 3).eval()
    w, u, cotangent = conv.weight.detach().flatten(1), conv.u, torch.randn(4, 3, 3, 3)
    v = F.normalize(w.T @ u, dim=0)
    sigma = u @ w @ v
    (gradient,) = torch.autograd.grad((conv.normalised() * cotangent).sum(), conv.weight)
    c = cotangent.flatten(1)
    assert torch.allclose(gradient.flatten(1), c / sigma - (c * w).sum() / sigma**2 * torch.outer(u, v))


@pytest.mark.parametrize("down, first", [(True, True), (True, False), (False, False)])
def test_discriminator_block_against_the_published_order(float64, down, first):
    """First block: pool, then 1x1; others: activation first, 1x1, then pool; identity where nothing changes."""
    block = DiscriminatorBlock(3 if first else 4, 4, down, first).eval()
    x = torch.randn(2, 3 if first else 4, 8, 8)

    def convolve(name, x):
        layer = getattr(block, name)
        return F.conv2d(x, layer.normalised(), layer.bias, padding=layer.weight.shape[-1] // 2)

    out = block(x)
    h = convolve("conv2", F.relu(convolve("conv1", x if first else F.relu(x))))
    if down:
        h = F.avg_pool2d(h, 2)
        x = convolve("shortcut", F.avg_pool2d(x, 2)) if first else F.avg_pool2d(convolve("shortcut", x), 2)
    assert torch.allclose(out, h + x)


def test_generator_block_against_the_published_order(float64):
    block, x, condition = GeneratorBlock(4, 5), torch.randn(3, 4, 4, 4), torch.randn(3, 5)
    for module in block.modules():
        if hasattr(module, "u"):
            module.training = False

    def normalise(norm, x):
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        gain, bias = (layer.normalised() @ condition.T for layer in (norm.gain, norm.bias))
        return (x - mean) / (var + 1e-5).sqrt() * (1 + gain.T[..., None, None]) + bias.T[..., None, None]

    def double(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    h = block.conv1(double(normalise(block.norm1, x).relu()))
    h = block.conv2(normalise(block.norm2, h).relu())
    assert torch.allclose(block(x, condition), h + block.shortcut(double(x)))
