"""The search: `Search.step` is Algorithm 1 of the paper, `search` the epochs over a method's stages."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dasgm.adversary import Adversary, NoGan, networks
from dasgm.bilevel import Player, Tensors, add, dominant_eigenvalue, grad, mixed_vjp, norm, replay, seed_of
from dasgm.config import SearchConfig
from dasgm.distributed import SynchronisedNorm, average, rank, world_size
from dasgm.genotype import EDGES, PRIMITIVES, SKIP, derive
from dasgm.methods._base import Relaxation, Stage
from dasgm.networks.supernet import Architecture, Supernet

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.genotype import Genotype
    from dasgm.pretrained import Pretrained

RADIUS_W, RADIUS_G = 0.01, 0.1  # of the central differences: design/algorithm, measured against macroscopic slopes
LOSSES = ("classifier", "generator", "discriminator", "architecture")  # in the order of Algorithm 1


class SearchFailed(Exception):
    """The search cannot go on: one line that names the epoch and what is wrong (a loss that is not finite, by its stage
    of Algorithm 1; a generator that has collapsed)."""


class Search:
    """A supernet W with its architecture A, and a GAN: what a checkpoint holds and a step moves.

    Args:
        config: everything that changes the mathematics.
        data: images on the device that computes.
        pretrained: the GAN to begin with, or to stay with where it is frozen; None: a fresh one.
    """

    def __init__(self, config: SearchConfig, data: Data, pretrained: Pretrained | None = None):
        self.config, self.data, self.device = config, data, data.images.device
        self.iteration = 0
        with replay(config.seed, "gan"):
            self.gan: Any = self._adversary(pretrained)
        exact = config.hypergradient == "exact"
        self.radius_W: float | None = None if exact else RADIUS_W
        self.radius_G: float | None = None if exact else RADIUS_G
        self.enter(config.method.first())

    def _adversary(self, pretrained: Pretrained | None) -> Adversary | NoGan:
        config = self.config
        if config.gan is None:
            return NoGan()
        gan = networks(config.gan, self.data, pretrained.relaxed if pretrained else config.searches_discriminator)
        found = Adversary(
            gan, config.inner, config.discriminator_arch_lr, config.discriminator_steps, config.freeze_gan
        )
        if pretrained:
            pretrained.into(found)
        return found

    def enter(self, stage: Stage) -> None:
        """A fresh W and A for `stage`; the GAN goes on."""
        config, self.stage, self.left = self.config, stage, stage.epochs
        with replay(config.seed, "stage", stage.index):
            self.supernet, architecture = Supernet(stage, len(self.data.classes)), Architecture(stage)
        self.W = Player(
            self.supernet.to(self.device),
            lambda p: torch.optim.SGD(
                p, config.classifier_lr, config.classifier_momentum, weight_decay=config.classifier_weight_decay
            ),
            clip=config.classifier_clip,
        )
        self.A = Player(
            architecture.to(self.device),
            lambda p: torch.optim.Adam(p, config.arch_lr, (0.5, 0.999), weight_decay=config.arch_weight_decay),
            clip=config.arch_clip,
        )
        # a player is seen as fixed where no gradient passes through its step
        second, (G, E, B) = config.order == "second", self.gan.players
        self.unrolled: tuple[Any, Any, Any] = (
            self.W if second else self.W.fixed,
            *((G, E) if B.trainable else (G.fixed, E.fixed)),
        )

    def step(self, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, search_architecture: bool) -> Tensors:
        """One iteration of Algorithm 1.

        Args:
            x1, y1: batch of J_1, normalised and augmented [b, 3, S, S], and its labels [b].
            x2, y2: batch of J_2 as the GAN sees it, in [-1, 1].
            search_architecture: whether stages 3 and 4 are taken.

        Returns:
            The losses of the stages that were taken, the norm of B's gradient, and the rms over pixels by which its
            central difference moved the images (on [-1, 1]).
        """
        W, A, B, gan = self.W, self.A, self.gan.B, self.gan
        W1, G1, E1 = self.unrolled
        W0, G0, E0 = W1.state(), G1.state(), E1.state()  # what the iteration begins with is constant
        stream = partial(seed_of, self.config.seed, rank(), self.iteration)
        self.iteration += 1
        (z, yz), (z3, y3) = gan.draw(len(x2), stream("z")), gan.draw(len(x2), stream("z3"))

        def L_class(W: Any, A: Any) -> Tensor:
            with replay(stream("class")):
                return F.cross_entropy(W(x1, A()), y1)

        def L_GAN(G: Any, B: Any) -> Tensor:
            loss, images = gan.generator_pass(G, E0, B, z, yz, stream("gan"))
            moved.append((images.detach() - x).square().mean())
            return loss

        def L_DASGM(A: Any, W: Any, G: Any) -> Tensor:
            with replay(stream("dasgm")):
                x3, labels = self.compose(G, z3, y3, x2, y2)
                return F.cross_entropy(W(x3, A()), labels)

        moved: list[Tensor] = []  # mean square, of each pass of Eq. 7, from what G made at stage 2 of the same z
        taken: dict[str, Tensor | None] = {}
        self.taken = taken  # seen from outside where the iteration does not come to its end
        taken["classifier"] = loss = L_class(W.live, A.fixed)
        response_W = W.step(*grad(loss, W))  # Eq. 3
        x, response_G, taken["generator"] = gan.generator_step(z, yz, stream("gan"))  # Eq. 4
        taken["discriminator"] = gan.discriminator_step(x2, y2, x, yz, stream("discriminator"))  # Eq. 5
        if search_architecture:
            taken["architecture"] = loss = L_DASGM(A, W1, G1)
            gA, v, u = grad(loss, A, W1, G1)
            gA = add(gA, mixed_vjp(L_class, W0, A, response_W(v), self.radius_W))  # Eq. 6
            gB = mixed_vjp(L_GAN, G0, B, response_G(u), self.radius_G)  # Eq. 7
            A.step(gA)
            B.step(gB)
            taken["grad/B"] = norm(gB) if gB else None
            taken["grad/rms_images"] = torch.stack(moved).mean().sqrt() if moved and self.radius_G else None
        return self.losses()

    def losses(self) -> Tensors:
        """Of the stages that the last iteration took."""
        return {name: value.detach() for name, value in self.taken.items() if value is not None}

    def compose(self, G: Any, z: Tensor | None, y: Tensor | None, x2: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """J_3: round(val_portion * b) real images, the rest of the b generated; augmented alike, never cut out."""
        real = round(self.config.real_portion * len(x2))
        x, labels = x2[:real], y2[:real]
        if real < len(x2):
            assert z is not None and y is not None
            generated = len(x2) - real
            x, labels = torch.cat([x, G(z[:generated], y[:generated])]), torch.cat([labels, y[:generated]])
        return self.data.augment(self.data.to_classifier(x), cutout=False), labels

    # batches

    @property
    def batches(self) -> int:
        """Iterations of an epoch: whole global batches of J_1."""
        return max(1, len(self.data.J1) // (self.config.batch_size * world_size()))

    def batch(self, J: Tensor, name: str, iteration: int, size: int | None = None) -> Tensor:
        """This worker's indices of J at a global iteration."""
        return batch(J, size or self.config.batch_size, iteration, self.config.seed, name)

    def iterate(self) -> Tensors:
        """Draw the iteration's batches and take the step."""
        data, i = self.data, self.iteration
        i1, i2 = self.batch(data.J1, "J1", i), self.batch(data.J2, "J2", i)
        with replay(self.config.seed, rank(), i, "augment"):
            x1 = data.augment(data.to_classifier(data.raw(i1)), cutout=True)
            x2 = data.flip_raw(data.raw(i2))
        with SynchronisedNorm() if self.config.sync_batch_norm else nullcontext():
            return self.step(x1, data.labels[i1], x2, data.labels[i2], self.epoch >= self.stage.arch_start_epoch)

    # epochs

    @property
    def epoch(self) -> int:
        """Of this stage, from 0."""
        return self.stage.epochs - self.left

    @property
    def size(self) -> int:
        """Weights of this stage's supernet."""
        return sum(p.numel() for p in self.W.params.values())

    def schedule(self) -> None:
        """Write what depends on the epoch: a pure function of it, so nothing is to be restored."""
        config = self.config
        self.W.lr = config.learning_rate(self.epoch, self.stage.epochs)
        self.supernet.skip_dropout_rate = config.method.skip_dropout(self.stage, self.epoch)

    def relaxation(self) -> Relaxation:
        """The architecture's weights as plain numbers."""
        with torch.no_grad():
            mixture = self.A()
        plain = [[w.tolist() for w in cell] for cell in (mixture.normal, mixture.reduce)]
        edges = [None if e is None else e.tolist() for e in (mixture.normal_edges, mixture.reduce_edges)]
        return Relaxation(plain[0], plain[1], edges[0], edges[1])

    def genotype(self) -> Genotype:
        """What the architecture stands for now."""
        return self.config.method.genotype(self.stage, self.relaxation())

    @torch.no_grad()
    def accuracy(self, J: Tensor) -> float:
        """The supernet's, on images of the training set it does not learn from; running statistics."""
        A, data = self.A.fixed(), self.data
        right, seen = torch.zeros((), dtype=torch.int64, device=self.device), 0
        self.W.module.eval()
        for i in J[rank() :: world_size()].split(max(self.config.batch_size, 256)):
            logits = self.W.module(data.to_classifier(data.raw(i)), A)
            right, seen = right + (logits.argmax(1) == data.labels[i]).sum(), seen + len(i)
        self.W.module.train()
        counts = torch.tensor([right.item(), seen], dtype=torch.float64)
        average([counts])
        return (counts[0] / counts[1]).item()

    def hessian(self) -> float:
        """Dominant eigenvalue of A's Hessian on a batch of J_2 a worker: above some value the derived network is bad
        though the supernet is good (Zela et al. 2020, arXiv 1909.09656). Batch statistics; nothing is moved."""
        data, A, W = self.data, self.A, self.W.fixed
        i = self.batch(data.J2, "hessian", self.iteration)
        x, y = data.to_classifier(data.raw(i)), data.labels[i]
        with replay(self.config.seed, "hessian", self.iteration):
            return dominant_eigenvalue(lambda: F.cross_entropy(W(x, A()), y), A)

    def collapsed(self, metrics: dict[str, float]) -> str:
        """Why the stage ends here, '' where it goes on: what `architecture_metrics` gave, against the bounds."""
        config, skips, entropy = self.config, metrics["arch/skips_normal"], metrics["arch/entropy_normal"]
        if self.epoch < self.stage.arch_start_epoch:
            return ""
        if config.stop_skips and skips >= config.stop_skips:
            return f"the normal cell has {skips} skip connections (stop-skips {config.stop_skips})"
        if entropy < config.stop_entropy:
            return f"the normal edges' mean entropy is {entropy:.3f} (stop-entropy {config.stop_entropy})"
        return ""

    # checkpoint

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors: where the search stands."""
        G, E, B = self.gan.players
        players = {"W": self.W, "A": self.A, "G": G, "E": E, "B": B}
        stage = {"stage": asdict(self.stage), "left": self.left, "iteration": self.iteration}
        return stage | {name: player.state_dict() for name, player in players.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken; the stage's length is the configuration's (more epochs go on)."""
        stage = Stage(**{k: _tuples(v) for k, v in state["stage"].items()})
        self._expect(stage)
        self.enter(stage)
        epochs = self.config.method.outline()[stage.index].epochs
        self.stage = replace(stage, epochs=epochs)
        self.left, self.iteration = int(state["left"]) + epochs - stage.epochs, int(state["iteration"])
        G, E, B = self.gan.players
        for name, player in {"W": self.W, "A": self.A, "G": G, "E": E, "B": B}.items():
            player.load_state_dict(state[name])

    def _expect(self, stage: Stage) -> None:
        """ValueError where it is no stage of this search; which operations its edges have left, nobody knows."""
        known = {one.index: one for one in self.config.method.outline()}
        free = ("epochs", "normal_operations", "reduce_operations")
        expected = replace(known[stage.index], **{name: getattr(stage, name) for name in free})
        operations = (*stage.normal_operations, *stage.reduce_operations)
        if stage != expected or len(operations) != 2 * EDGES or not all(set(o) <= set(PRIMITIVES) for o in operations):
            raise ValueError("another stage")


def batch(J: Tensor, size: int, iteration: int, *stream: object) -> Tensor:
    """This worker's indices of J at a global iteration: J is permuted anew each pass, no image twice in a pass."""
    n = size * world_size()
    turn, place = divmod(iteration, max(1, len(J) // n))
    generator = torch.Generator().manual_seed(seed_of(*stream, turn))
    start = place * n + rank() * size
    return J[torch.randperm(len(J), generator=generator)[start : start + size]]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def architecture_metrics(stage: Stage, relaxation: Relaxation) -> dict[str, float]:
    """Mean entropy over edges (nats) and number of skip connections that the weights choose, of each cell: what a
    method caps (P-DARTS) is counted whole, or the cap would hide the collapse."""
    cells = {
        "normal": (stage.normal_operations, relaxation.normal, relaxation.normal_edges),
        "reduce": (stage.reduce_operations, relaxation.reduce, relaxation.reduce_edges),
    }
    found: dict[str, float] = {}
    for name, (operations, weights, edges) in cells.items():
        entropy = -sum(w * math.log(max(w, 1e-12)) for row in weights for w in row) / len(weights)
        skips = sum(chosen == SKIP for chosen, _ in derive(operations, weights, edges))
        found |= {f"arch/entropy_{name}": entropy, f"arch/skips_{name}": skips}
    return found


class Means:
    """Each loss of an epoch, iteration by iteration, kept on the device until the epoch ends."""

    def __init__(self, values: dict[str, list[float]] | None = None):
        self.values: dict[str, list[Any]] = {str(name): list(map(float, some)) for name, some in (values or {}).items()}

    def add(self, losses: Tensors) -> None:
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value)

    @property
    def iterations(self) -> int:
        return max(map(len, self.values.values()), default=0)

    def plain(self) -> dict[str, list[float]]:
        """For the checkpoint of an epoch cut short; exact."""
        return {name: torch.as_tensor(values).cpu().double().tolist() for name, values in self.values.items()}

    def close(self, epoch: int) -> dict[str, float]:
        """The epoch's row, averaged over the workers. SearchFailed where a loss is not finite: the first is named."""
        plain = {name: torch.tensor(values, dtype=torch.float64) for name, values in self.plain().items()}
        average(list(plain.values()))
        bad = {
            name: int((~values.isfinite()).nonzero()[0])
            for name, values in plain.items()
            if not values.isfinite().all()
        }
        stages = [name for name in LOSSES if name in bad]
        if stages:
            first = min(stages, key=lambda name: bad[name])
            value = plain[first][bad[first]].item()
            raise SearchFailed(f"epoch {epoch}, stage {LOSSES.index(first) + 1} ({first}): the loss is {value}")
        return {name if "/" in name else f"loss/{name}": values.mean().item() for name, values in plain.items()}
