"""GANs: published sizes, equations by independent computation, and what every GAN in the folder must hold."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from small_gans import (
    KEYS,
    LINEAR,
    SIZES,
    clones,
    draw,
    flat,
    losses,
    one_hot,
    same,
    seeded,  # noqa: F401 (fixtures)
    small,
    weights,
)
from torch import nn
from torch.func import functional_call, jvp

from dasgm.adversary import Adversary
from dasgm.bilevel import grad, mixed_vjp
from dasgm.gans import biggan


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
