"""A GAN as three players G, E and B, and their steps (Eq. 4 and 5), which the search and pre-training share."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dasgm.bilevel import Player, Point, Response, Stream, draw, empty_player, grad, no_response, replay

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.gans._base import Gan, GanConfig


def networks(config: GanConfig, data: Data, relaxed: bool) -> Gan:
    """Builds a GAN for the images of `data`, on their device.

    Args:
        relaxed: whether its discriminator is the one whose architecture B a search can change.
    """
    gan = config.build(len(data.classes), data.image_size, relaxed)
    for module in (gan.generator, gan.discriminator, gan.architecture):
        module.to(data.images.device)
    return gan


class Adversary:
    """Generator G, discriminator E and the discriminator's architecture B, stepped by the GAN's own losses and
    optimisers.

    Args:
        gan: networks, losses and settings of the optimisers.
        inner: "taken" or "sgd", see `Player`.
        arch_lr: learning rate of B (Adam, ascending; eta_b of the paper).
        steps: number of discriminator steps per generator step, all taken after it. The first uses the images of the
            generator's step; each later one uses new images of the updated generator.
        frozen: whether G, E and B stay as they are, bit for bit.
    """

    def __init__(self, gan: Gan, inner: str = "taken", arch_lr: float = 3e-4, steps: int = 1, frozen: bool = False):
        self.gan, self.steps_of_E = gan, steps
        self.G = Player(
            gan.generator,
            gan.generator_optimizer,
            regularise=gan.regularise,
            average_decay=gan.average_decay,
            inner=inner,
            frozen=frozen,
        )
        self.E = Player(gan.discriminator, gan.discriminator_optimizer, frozen=frozen)
        # no weight decay: B's gradient is smaller than a decay of 1e-3 (docs/explanation/algorithm.md has the scale)
        self.B = Player(
            gan.architecture,
            lambda p: torch.optim.Adam(p, arch_lr, (0.5, 0.999), maximize=True),
            frozen=frozen,
        )

    @property
    def players(self) -> tuple[Player, Player, Player]:
        return self.G, self.E, self.B

    @property
    def phase(self) -> tuple[Hashable, ...] | None:
        """What the next iteration takes, besides its numbers: equal for iterations that take the same losses."""
        first = self.G.steps * self.steps_of_E
        phases = [self.gan.phase(turn) for turn in range(first, first + self.steps_of_E)]
        return None if None in phases else tuple(phases)

    @property
    def device(self) -> torch.device:
        return next(self.gan.generator.parameters()).device

    def draw(self, n: int, seed: object) -> tuple[Tensor, Tensor]:
        """Draws n latent vectors [n, z_dim] and n uniform labels [n].

        They are drawn on the CPU, so that every device gets the same ones.
        """
        z_dim, classes = self.gan.z_dim, self.gan.classes
        with replay(seed):
            z = draw(lambda: torch.randn(n, z_dim), self.device)
            return z, draw(lambda: torch.randint(classes, (n,)), self.device)

    def generator_pass(self, G: Any, E: Any, B: Any, z: Tensor, y: Tensor, seed: object) -> tuple[Tensor, Tensor]:
        """L_GAN as G descends it (Eq. 4 of the paper with the sign changed), and the generated images.

        A seed repeats the draws.
        """
        with replay(seed):
            x = G(z, y)
            return self.gan.generator_loss(lambda *a: E(B(), *a), x, y), x

    def generator_step(self, z: Tensor, y: Tensor, seed: object) -> tuple[Tensor | None, Response, Tensor | None]:
        """Takes the generator's step (Eq. 4), with the gradient at the current B, G and E.

        Returns:
            The images (detached), the response of the step and the loss (detached). A frozen GAN gives None for images
            and loss.
        """
        G, E, B = self.players
        if not G.trainable:
            return None, no_response, None
        loss, x = self.generator_pass(G.live, E.fixed, B.fixed, z, y, seed)
        return x.detach(), G.step(*grad(loss, G)), loss.detach()

    def discriminator_step(self, real: Tensor, y: Tensor, fake: Tensor | None, y_fake: Tensor, seed: object) -> Any:
        """Takes the discriminator's steps (Eq. 5): the first one on the images of the generator's step, each further
        one on new images of the new G.

        Args:
            real, y: real images and their labels: as many as `fake`, which every step uses, or that many for each step.
            fake, y_fake: the images of the generator's step and their labels.
            seed: of all draws.

        Returns:
            The loss of the first step (detached), or None for a frozen GAN.
        """
        G, E, B = self.players
        if fake is None:
            return None
        total = None
        batches = list(zip(real.split(len(fake)), y.split(len(fake)), strict=True))
        for turn in range(self.steps_of_E):
            real, y = batches[turn % len(batches)]
            if turn:
                z, y_fake = self.draw(len(fake), Stream((seed, "z", turn)))
                with replay(seed, "G", turn), torch.no_grad():
                    fake = G.fixed(z, y_fake)
            for i, loss_of in enumerate(self.gan.discriminator_losses((G.steps - 1) * self.steps_of_E + turn)):
                with replay(seed, turn, i):
                    loss = loss_of(lambda *a: E.live(B.fixed(), *a), real, y, fake, y_fake)
                E.step(*grad(loss, E))
                total = loss.detach() if total is None else total
        return total


class NoGan:
    """Stands in where there is no GAN: its players have no parameters.

    Without a GAN, all of J_3 is real (`SearchConfig.real_portion` is 1): the search is the plain method on J_2.
    """

    gan = None
    phase: tuple[Hashable, ...] | None = ()

    def __init__(self) -> None:
        self.G, self.E, self.B = empty_player(), empty_player(), empty_player()

    @property
    def players(self) -> tuple[Player, Player, Player]:
        return self.G, self.E, self.B

    def draw(self, n: int, seed: object) -> tuple[None, None]:
        return None, None

    def generator_pass(self, *_: Any) -> Any:
        raise AssertionError("nothing asks for the loss of a GAN that is not there")

    def generator_step(self, *_: Any) -> tuple[None, Response, None]:
        return None, no_response, None

    def discriminator_step(self, *_: Any) -> None:
        return None


def by_name(gan: Adversary | NoGan) -> dict[str, Player]:
    """The players, by the letters under which a checkpoint keeps them."""
    return dict(zip("GEB", gan.players, strict=True))


def sample(gan: Adversary, G: Point | Player, labels: Tensor, seed: int) -> Tensor:
    """Generates images of G for `labels`, clipped to [-1, 1] as all images that are shown.

    The same seed gives the same z.
    """
    with replay(seed), torch.no_grad():
        z = torch.randn(len(labels), gan.gan.z_dim).to(gan.device)
        return G(z, labels.to(gan.device)).clamp(-1, 1)
