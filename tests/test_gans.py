"""GANs: published sizes, equations by independent computation, and what every GAN in the folder must hold."""

from __future__ import annotations

import gc
import math
import pkgutil
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jvp

import dasgm.gans
from dasgm.adversary import Adversary
from dasgm.bilevel import grad, mixed_vjp
from dasgm.gans import biggan
from dasgm.gans._base import Gan
from dasgm.gans._resnet import Discriminator, DiscriminatorBlock, GeneratorBlock, SpectralConv2d, edges
from dasgm.gans._searchable import Choice, Searchable, relax

KEYS = [m.name for m in pkgutil.iter_modules(dasgm.gans.__path__) if not m.name.startswith("_")]
SIZES = (16, 32, 64)
LINEAR = ("stylegan2ada",)  # no tanh: images go beyond [-1, 1]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def weights(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def one_hot(b):
    return tuple(F.one_hot(torch.tensor(0), len(w)).to(w) for w in b)


# Every GAN in the folder


def small(key: str, size: int = 16, searched: bool = True, classes: int = 3) -> Gan:
    return import_module(f"dasgm.gans.{key}").Config(channels=4).build(classes, size, searched)


def draw(gan: Gan, n: int = 6, size: int = 16):
    """z, labels, and real images of n."""
    return torch.randn(n, gan.z_dim), torch.arange(n) % gan.classes, torch.rand(n, 3, size, size) * 2 - 1


def losses(gan: Gan, b, size: int = 16, turn: int = 0):
    """(L of G, [L of E]) on a batch."""
    z, y, real = draw(gan, size=size)
    discriminate = lambda *a: gan.discriminator(b, *a)  # noqa: E731
    fake = gan.generator(z, y)
    of_e = [loss(discriminate, real, y, fake.detach(), y) for loss in gan.discriminator_losses(turn)]
    return gan.generator_loss(discriminate, fake, y), of_e


def flat(out) -> torch.Tensor:
    """All that a discriminator returns, in one row."""
    return torch.cat([t.flatten() for t in (out if isinstance(out, tuple) else (out,))])


def clones(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: t.detach().clone() for k, t in module.state_dict().items()}


def same(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> bool:
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_the_folder_has_the_paper_s_gan():
    assert "biggan" in KEYS


@pytest.mark.parametrize("key", KEYS)
def test_configuration_does_not_import_torch(key):
    code = f"import sys, dasgm.gans.{key} as m; m.Config(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("searched", (False, True))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_images_and_losses(key, size, searched):
    gan = small(key, size, searched)
    z, y, _ = draw(gan)
    images = gan.generator(z, y)
    assert images.shape == (6, 3, size, size) and images.abs().max() <= (9 if key in LINEAR else 1)
    assert images.std() > 1e-3
    assert not torch.allclose(images, gan.generator(z, y.roll(1)), atol=1e-4)
    assert bool(weights(gan.architecture)) == searched == bool(gan.architecture())
    of_g, of_e = losses(gan, gan.architecture(), size)
    assert all(loss.shape == () and loss.isfinite() for loss in (of_g, *of_e))
    assert all(p is not None for p in torch.autograd.grad(of_g, list(gan.generator.parameters()), allow_unused=True))


@pytest.mark.parametrize("key", KEYS)
def test_steps_of_its_own_optimisers(key):
    gan = small(key)
    optimizers = [gan.generator_optimizer(gan.generator.parameters())]
    optimizers.append(gan.discriminator_optimizer(gan.discriminator.parameters()))
    before = [clones(gan.generator), clones(gan.discriminator)]
    of_g, of_e = losses(gan, gan.architecture())
    of_g.backward()
    optimizers[0].step()
    for turn in range(2):
        for i in range(len(gan.discriminator_losses(turn))):
            optimizers[1].zero_grad()
            losses(gan, gan.architecture(), turn=turn)[1][i].backward()
            optimizers[1].step()
    for module, old in zip((gan.generator, gan.discriminator), before, strict=True):
        assert not same(clones(module), old) and all(p.isfinite().all() for p in module.parameters())
    extra = gan.regularise(dict(gan.generator.named_parameters())) if gan.regularise else {}
    assert all(extra[k].shape == p.shape for k, p in gan.generator.named_parameters() if extra)
    assert all(0 <= gan.average_decay(step) < 1 for step in (1, 10, 1000, 10**6))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_default_architecture_is_the_stock_discriminator_bit_by_bit(key, size):
    gan = small(key, size)
    _, y, x = draw(gan, size=size)

    def pure(b):
        return flat(functional_call(gan.discriminator, clones(gan.discriminator), (b, x, y)))

    stock, hot, soft = pure(()), pure(one_hot(gan.architecture())), pure(gan.architecture())
    assert torch.equal(stock, hot) and not torch.allclose(stock, soft)
    assert set(gan.architecture.chosen().values()) == {"default"}
    assert all(w[0] > 0.5 for w in gan.architecture()), "the default operation starts ahead"


@pytest.mark.parametrize("key", KEYS)
def test_alternatives_are_not_built_unless_searched(key):
    plain, searched = small(key, searched=False), small(key)
    assert weights(searched.discriminator) > weights(plain.discriminator)
    assert plain.architecture() == () and not list(plain.architecture.parameters())


@pytest.mark.parametrize("key", KEYS)
def test_second_derivative_reaches_b(key, float64):
    """d/dB <dL_G/dx, t>, what Eq. 7 asks of the discriminator, against a central difference in B."""
    gan = small(key)
    z, y, _ = draw(gan)
    x = gan.generator(z, y).detach().requires_grad_()
    t = torch.randn_like(x)

    def slope(*b):
        state = clones(gan.discriminator)
        loss = gan.generator_loss(lambda *a: functional_call(gan.discriminator, state, (b, *a)), x, y)
        return (torch.autograd.grad(loss, x, create_graph=True)[0] * t).sum()

    b = [w.detach().requires_grad_() for w in gan.architecture()]
    assert torch.autograd.gradcheck(slope, b, eps=1e-7, atol=1e-6)
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(slope(*b), b))


@pytest.mark.parametrize("key", KEYS)
def test_forward_mode_through_the_generator(key, float64):
    gan = small(key)
    z, y, _ = draw(gan)
    place = {k: p.detach() for k, p in gan.generator.named_parameters()}
    direction = {k: 1e-3 * torch.randn_like(p) for k, p in place.items()}

    def images(params):
        torch.manual_seed(2)  # noise in the layers
        buffers = {k: b.clone() for k, b in gan.generator.named_buffers()}
        return functional_call(gan.generator, {**params, **buffers}, (z, y))

    tangent = jvp(images, (place,), (direction,))[1]
    e = 1e-4
    up, down = (images({k: p + s * direction[k] for k, p in place.items()}) for s in (e, -e))
    assert (tangent - (up - down) / (2 * e)).norm() < 1e-4 * tangent.norm()


@pytest.mark.parametrize("key", KEYS)
def test_pure_calls_leave_buffers_alone_and_repeat(key):
    gan = small(key)
    z, y, x = draw(gan)
    for module, args in ((gan.generator, (z, y)), (gan.discriminator, (gan.architecture(), x, y))):
        before = clones(module)
        first, second = (flat(functional_call(module, clones(module), args)) for _ in range(2))
        assert torch.equal(first, second) and same(clones(module), before)


@pytest.mark.parametrize("key", KEYS)
def test_state_round_trip(key):
    old, new = small(key), small(key)
    losses(old, old.architecture())  # moves the buffers
    modules = [(getattr(old, name), getattr(new, name)) for name in ("generator", "discriminator", "architecture")]
    assert not same(clones(old.generator), clones(new.generator))
    for source, target in modules:
        target.load_state_dict(clones(source))
        assert same(clones(source), clones(target))
    results = []
    for gan in (old, new):
        torch.manual_seed(2)
        of_g, of_e = losses(gan, gan.architecture())
        results.append([of_g, *of_e])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("key", KEYS)
def test_iterations_leave_no_tensors_behind(key):
    """Of Eq. 4, 5 and 7: as many numbers are held after six iterations as after three."""
    adversary = Adversary(small(key))
    G, E, B = adversary.players
    _, y, real = draw(adversary.gan)
    held = []
    for i in range(6):
        z, y_fake = adversary.draw(6, i)
        G0, E0 = G.state(), E.state()
        L_GAN = lambda G, B, a=(z, y_fake, i), E0=E0: adversary.generator_pass(G, E0, B, *a)[0]  # noqa: E731
        fake, response, _ = adversary.generator_step(z, y_fake, i)
        adversary.discriminator_step(real, y, fake, y_fake, i)
        (u,) = grad(G(z, y_fake).square().mean(), G)
        B.step(mixed_vjp(L_GAN, G0, B, response(u), 0.1))
        del L_GAN, G0, E0, fake, response, u, z, y_fake
        gc.collect()
        held.append(sum(t.numel() for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter)))
    assert held[-1] == held[2] > weights(G.module, E.module), held


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", (0, 24, 128))
def test_sizes_without_a_generator_are_refused(key, size):
    with pytest.raises(ValueError, match=rf"^[^\n]*{size}[^\n]*16, 32 or 64[^\n]*$"):
        small(key, size)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "field, value",
    [("channels", 0), ("generator_lr", -1.0), ("discriminator_lr", math.nan), ("warmup", -1)],
)
def test_wrong_settings_are_refused_by_name(key, field, value):
    with pytest.raises(ValueError, match=rf"^gan\.{field} {value}[^\n]*expected[^\n]*$"):
        import_module(f"dasgm.gans.{key}").Config(**{field: value})


@pytest.mark.parametrize(
    "settings",
    [{"z_dim": 2}, {"shared_dim": 0}, {"embedding_std": -0.1}, {"orthogonal": -1.0}, {"average_decay": 1.0}],
    ids=str,
)
def test_wrong_settings_of_biggan_are_refused_by_name(settings):
    with pytest.raises(ValueError, match=rf"^gan\.{next(iter(settings))} [^\n]*expected[^\n]*$"):
        biggan.Config(**settings).build(3, 16, searched=False)


# The searchable discriminator


def convolutions(in_channels: int, out_channels: int) -> Choice:
    block = DiscriminatorBlock(in_channels, out_channels, down=False, first=False)
    relax(block, edges(block), searched=True, init=0.0)
    return block.conv1


@pytest.mark.parametrize("channels, count", [((4, 4), 6), ((3, 4), 5)])
def test_folded_convolution_is_the_weighted_sum_of_its_operations(float64, channels, count):
    choice = convolutions(*channels).eval()
    x, cotangent = torch.randn(2, channels[0], 7, 7), torch.randn(2, 4, 7, 7)
    logits = torch.randn(count, requires_grad=True)

    def folded(logits):
        choice.weights = logits.softmax(0)
        return choice(x)

    def naive(logits):
        return sum(w * operation(x) for w, operation in zip(logits.softmax(0), choice.operations.values(), strict=True))

    assert choice.folds and len(choice.operations) == count
    assert (folded(logits) - naive(logits)).abs().max() < 1e-10
    gradients = [torch.autograd.grad((f(logits) * cotangent).sum(), logits)[0] for f in (folded, naive)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-10


def test_the_operations_are_what_their_names_say(float64):
    operations = convolutions(4, 4).eval().operations
    x = torch.randn(2, 4, 7, 7)
    assert list(operations) == ["default", "none", "skip", "sn_conv_1x1", "sn_conv_5x5", "sn_dil_conv_3x3"]
    assert operations["none"](x).abs().max() == 0 and torch.equal(operations["skip"](x), x)
    for name, (size, dilation) in {
        "default": (3, 1),
        "sn_conv_1x1": (1, 1),
        "sn_conv_5x5": (5, 1),
        "sn_dil_conv_3x3": (3, 2),
    }.items():
        operation, reach = operations[name], dilation * (size - 1) // 2
        w, padded = operation.normalised(), F.pad(x, [reach] * 4)
        terms = (
            torch.einsum("oi,nihw->nohw", w[:, :, i, j], padded[:, :, i * dilation :, j * dilation :][:, :, :7, :7])
            for i in range(size)
            for j in range(size)
        )
        assert torch.allclose(operation(x), sum(terms) + operation.bias[:, None, None], atol=1e-10)


def test_pooling_is_a_choice_where_the_map_is_halved():
    stock = Discriminator(10, 32, 4)
    names = {f"blocks.{i}.conv{j}" for i in range(4) for j in (1, 2)} | {"blocks.0.pool", "blocks.1.pool"}
    assert set(edges(stock)) == names
    discriminator, architecture = relax(stock, edges(stock), searched=True, init=2.0)
    assert architecture.operations["blocks.1.pool"] == ["default", "max"]
    assert [len(w) for w in architecture()] == [5, 6, 2, 6, 6, 2, 6, 6, 6, 6]
    share = architecture()[1][0].item()
    assert share == pytest.approx(math.exp(2) / (math.exp(2) + 5), abs=2e-3)


def test_weights_are_cleared_even_after_an_exception():
    gan = small("biggan")
    _, y, x = draw(gan)
    choices = [m for m in gan.discriminator.modules() if isinstance(m, Choice)]
    gan.discriminator(gan.architecture(), x, y)
    assert isinstance(gan.discriminator, Searchable) and all(c.weights is None for c in choices) and choices
    with pytest.raises(RuntimeError):
        gan.discriminator(gan.architecture(), x[:, :1], y)
    assert all(c.weights is None for c in choices)


# BigGAN


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
