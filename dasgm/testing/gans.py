"""What every GAN must hold: losses and steps (Eq. 4 and 5), and the derivatives that Eq. 6 and 7 take through it."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp

from dasgm.adversary import Adversary
from dasgm.bilevel import grad, mixed_vjp
from dasgm.gans._base import SIZES, Gan, GanConfig
from dasgm.testing._plugins import (
    Conformance,
    ensure_same_bits_after_resume,
    ensure_same_bits_with_draws_made_before,
    small_search,
)

CLASSES = 3
State = dict[str, Tensor]


def weights(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def draw(gan: Gan, n: int = 6, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """z, labels, and real images of n."""
    return torch.randn(n, gan.z_dim), torch.arange(n) % gan.classes, torch.rand(n, 3, size, size) * 2 - 1


def losses(gan: Gan, b: Any, size: int = 16, turn: int = 0) -> tuple[Tensor, list[Tensor]]:
    """(L of G, [L of E]) on a batch."""
    z, y, real = draw(gan, size=size)

    def discriminate(*args: Any) -> Any:
        return gan.discriminator(b, *args)

    fake = gan.generator(z, y)
    of_e = [loss(discriminate, real, y, fake.detach(), y) for loss in gan.discriminator_losses(turn)]
    return gan.generator_loss(discriminate, fake, y), of_e


def flat(out: Any) -> Tensor:
    """All that a discriminator returns, in one row."""
    return torch.cat([t.flatten() for t in (out if isinstance(out, tuple) else (out,))])


def clones(module: nn.Module) -> State:
    return {k: t.detach().clone() for k, t in module.state_dict().items()}


def same(x: State, y: State) -> bool:
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


class GanConformance(Conformance):
    """Subclass it with a fixture `config`: a `Config` of few channels."""

    part = "gan"

    @pytest.fixture
    def largest(self) -> float:
        """Largest absolute value of a pixel: 1 after a tanh. Override it for a generator without one."""
        return 1.0

    @pytest.fixture
    def float64(self) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(before)

    @pytest.mark.parametrize("searched", (False, True))
    @pytest.mark.parametrize("size", SIZES)
    def test_images_and_losses(self, config: GanConfig, size: int, searched: bool, largest: float) -> None:
        gan = config.build(CLASSES, size, searched)
        z, y, _ = draw(gan)
        images = gan.generator(z, y)
        assert images.shape == (6, 3, size, size) and images.abs().max() <= largest
        assert images.std() > 1e-3
        assert not torch.allclose(images, gan.generator(z, y.roll(1)), atol=1e-4), "images depend on the label"
        assert bool(weights(gan.architecture)) == searched == bool(gan.architecture())
        of_g, of_e = losses(gan, gan.architecture(), size)
        assert all(loss.shape == () and loss.isfinite() for loss in (of_g, *of_e))
        slopes = torch.autograd.grad(of_g, list(gan.generator.parameters()), allow_unused=True)
        assert all(slope is not None for slope in slopes), "the loss depends on every weight of G"

    def test_steps_of_its_own_optimisers(self, config: GanConfig) -> None:
        gan = config.build(CLASSES, 16, True)
        of_generator = gan.generator_optimizer(gan.generator.parameters())
        of_discriminator = gan.discriminator_optimizer(gan.discriminator.parameters())
        before = [clones(gan.generator), clones(gan.discriminator)]
        losses(gan, gan.architecture())[0].backward()
        of_generator.step()
        for turn in range(2):
            for i in range(len(gan.discriminator_losses(turn))):
                of_discriminator.zero_grad()
                losses(gan, gan.architecture(), turn=turn)[1][i].backward()
                of_discriminator.step()
        for module, old in zip((gan.generator, gan.discriminator), before, strict=True):
            assert not same(clones(module), old) and all(p.isfinite().all() for p in module.parameters())
        extra = gan.regularise(dict(gan.generator.named_parameters())) if gan.regularise else {}
        assert all(extra[k].shape == p.shape for k, p in gan.generator.named_parameters() if extra)
        assert all(0 <= gan.average_decay(step) < 1 for step in (1, 10, 1000, 10**6))

    @pytest.mark.parametrize("size", SIZES)
    def test_default_architecture_is_the_stock_discriminator_bit_by_bit(self, config: GanConfig, size: int) -> None:
        gan = config.build(CLASSES, size, True)
        _, y, x = draw(gan, size=size)

        def pure(b: Any) -> Tensor:
            return flat(functional_call(gan.discriminator, clones(gan.discriminator), (b, x, y)))

        one_hot = tuple(F.one_hot(torch.tensor(0), len(w)).to(w) for w in gan.architecture())
        stock, hot, soft = pure(()), pure(one_hot), pure(gan.architecture())
        assert torch.equal(stock, hot) and not torch.allclose(stock, soft)
        architecture: Any = gan.architecture
        assert set(architecture.chosen().values()) == {"default"}
        assert all(w[0] > 0.5 for w in gan.architecture()), "the default operation starts ahead"

    def test_alternatives_are_not_built_unless_searched(self, config: GanConfig) -> None:
        plain, searched = (config.build(CLASSES, 16, searched) for searched in (False, True))
        assert len(list(searched.discriminator.modules())) > len(list(plain.discriminator.modules()))
        assert plain.architecture() == () and not list(plain.architecture.parameters())

    def test_second_derivative_reaches_b(self, config: GanConfig, float64: None) -> None:
        """d/dB <dL_G/dx, t>, what Eq. 7 asks of the discriminator, against a central difference in B."""
        gan = config.build(CLASSES, 16, True)
        z, y, _ = draw(gan)
        x = gan.generator(z, y).detach().requires_grad_()
        t = torch.randn_like(x)

        def slope(*b: Tensor) -> Tensor:
            state = clones(gan.discriminator)
            loss = gan.generator_loss(lambda *a: functional_call(gan.discriminator, state, (b, *a)), x, y)
            return (torch.autograd.grad(loss, x, create_graph=True)[0] * t).sum()

        b = [w.detach().requires_grad_() for w in gan.architecture()]
        assert torch.autograd.gradcheck(slope, b, eps=1e-7, atol=1e-6)
        assert all(g.abs().max() > 0 for g in torch.autograd.grad(slope(*b), b))

    def test_forward_mode_through_the_generator(self, config: GanConfig, float64: None) -> None:
        """The derivative of the images along a direction of G's weights, which Eq. 7 needs."""
        gan = config.build(CLASSES, 16, True)
        z, y, _ = draw(gan)
        place = {k: p.detach() for k, p in gan.generator.named_parameters()}
        direction = {k: 1e-3 * torch.randn_like(p) for k, p in place.items()}

        def images(params: State) -> Tensor:
            torch.manual_seed(2)  # noise in the layers
            buffers = {k: b.clone() for k, b in gan.generator.named_buffers()}
            return functional_call(gan.generator, {**params, **buffers}, (z, y))

        tangent = jvp(images, (place,), (direction,))[1]
        e = 1e-4
        up, down = (images({k: p + s * direction[k] for k, p in place.items()}) for s in (e, -e))
        assert (tangent - (up - down) / (2 * e)).norm() < 1e-4 * tangent.norm()

    def test_pure_calls_leave_buffers_alone_and_repeat(self, config: GanConfig) -> None:
        gan = config.build(CLASSES, 16, True)
        z, y, x = draw(gan)
        for module, args in ((gan.generator, (z, y)), (gan.discriminator, (gan.architecture(), x, y))):
            before = clones(module)
            first, second = (flat(functional_call(module, clones(module), args)) for _ in range(2))
            assert torch.equal(first, second) and same(clones(module), before)

    def test_state_round_trip(self, config: GanConfig) -> None:
        old, new = (config.build(CLASSES, 16, True) for _ in range(2))
        losses(old, old.architecture())  # moves the buffers
        names = ("generator", "discriminator", "architecture")
        assert not same(clones(old.generator), clones(new.generator))
        for source, target in ((getattr(old, name), getattr(new, name)) for name in names):
            target.load_state_dict(clones(source))
            assert same(clones(source), clones(target))
        results = []
        for gan in (old, new):
            torch.manual_seed(2)
            of_g, of_e = losses(gan, gan.architecture())
            results.append([of_g, *of_e])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_iterations_leave_no_tensors_behind(self, config: GanConfig) -> None:
        """Of Eq. 4, 5 and 7: as many numbers are held after six iterations as after three."""
        adversary = Adversary(config.build(CLASSES, 16, True))
        held = []
        for i in range(6):
            self._iterate(adversary, i)
            if i in (2, 5):  # seconds each, in a process with Ray
                gc.collect()
                held.append(sum(t.numel() for t in gc.get_objects() if type(t) in (Tensor, nn.Parameter)))
        assert held[0] == held[1] > weights(adversary.players[0].module, adversary.players[1].module), held

    @staticmethod
    def _iterate(adversary: Adversary, i: int) -> None:
        """A step of G and of E, then one of B along a derivative through G's."""
        G, E, B = adversary.players
        _, y, real = draw(adversary.gan)
        z, y_fake = adversary.draw(6, i)
        G0, E0 = G.state(), E.state()

        def L_GAN(G: Any, B: Any) -> Tensor:
            return adversary.generator_pass(G, E0, B, z, y_fake, i)[0]

        fake, response, _ = adversary.generator_step(z, y_fake, i)
        adversary.discriminator_step(real, y, fake, y_fake, i)
        (u,) = grad(G(z, y_fake).square().mean(), G)
        B.step(mixed_vjp(L_GAN, G0, B, response(u), 0.1))

    def test_a_resumed_search_has_the_same_bits(self, config: GanConfig) -> None:
        """All state is in the modules' parameters and buffers, so that a checkpoint has it."""
        config = replace(config, warmup=0)
        ensure_same_bits_after_resume(*(small_search(gan=config, batch_size=4) for _ in range(2)))

    def test_draws_can_be_made_before_an_iteration(self, config: GanConfig) -> None:
        """What a GPU needs in order not to be waited for; a GAN whose `phase` is None does without."""
        if config.build(CLASSES, 16, True).phase(0) is not None:
            one, other = (small_search(gan=replace(config, warmup=0), batch_size=4) for _ in range(2))
            ensure_same_bits_with_draws_made_before(one, other)

    @pytest.mark.parametrize("size", (0, 24, 128))
    def test_sizes_without_a_generator_are_refused(self, config: GanConfig, size: int) -> None:
        with pytest.raises(ValueError, match=rf"^[^\n]*{size}[^\n]*16, 32 or 64[^\n]*$"):
            config.build(CLASSES, size, True)

    @pytest.mark.parametrize(
        "field, value",
        [("channels", 0), ("generator_lr", -1.0), ("discriminator_lr", math.nan), ("warmup", -1)],
    )
    def test_wrong_settings_are_refused_by_name(self, config: GanConfig, field: str, value: float) -> None:
        wrong: dict[str, Any] = {field: value}
        with pytest.raises(ValueError, match=rf"^gan\.{field} {value}[^\n]*expected[^\n]*$"):
            replace(config, **wrong)
