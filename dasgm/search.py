"""The search: `Search.step` is Algorithm 1 of the paper. `jobs.search` runs it over the epochs of a method's stages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dasgm.adversary import Adversary, NoGan, by_name, networks
from dasgm.bilevel import (
    InProgress,
    Iterations,
    Player,
    Stream,
    Tensors,
    add,
    dominant_eigenvalue,
    draw,
    full_precision,
    grad,
    largest_eigenvalue,
    mixed_vjp,
    norm,
    replay,
    seed_of,
)
from dasgm.config import SearchConfig
from dasgm.distributed import SynchronisedNorm, average, rank, world_size
from dasgm.measures.costs import costs_of
from dasgm.methods._base import Relaxation, Stage
from dasgm.methods._hooks import Method, shifted
from dasgm.networks.carry import blocks, carry, columns
from dasgm.networks.supernet import Architecture

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.genotype import Genotype
    from dasgm.methods._cost import Costs
    from dasgm.pretrained import Pretrained

RADIUS_W, RADIUS_G, RADIUS_A = 0.01, 0.1, 0.3  # of the central differences, see docs/explanation/algorithm.md


class SearchFailed(Exception):
    """The search cannot go on.

    One line names the epoch and the cause: a loss that is not finite, with its stage of Algorithm 1, or a generator
    that has collapsed.
    """


class Search:
    """A supernet W with its architecture A, and a GAN. This is what a checkpoint holds and what a step changes.

    Args:
        config: all settings that affect the mathematics.
        data: the data set, with its images on the device that computes.
        pretrained: the GAN that the search begins with; a frozen one never changes. None: the search begins with a new
            GAN.
        say: gets a line where `cuda_graph` is "auto" and no CUDA graph is used.
        costs: what operations cost, where it was measured before. None: it is counted or measured here, if asked for.

    Raises:
        ValueError: `cuda_graph` is "on", and no CUDA graph is possible here, or a cost is not known (`costs_of`).
    """

    def __init__(
        self,
        config: SearchConfig,
        data: Data,
        pretrained: Pretrained | None = None,
        say: Callable[[str], None] = lambda line: None,
        costs: Costs | None = None,
    ):
        self.config, self.data, self.device = config, data, data.images.device
        self.say = cache(say)  # a line that each stage would repeat is said once
        self.iteration = 0
        with replay(config.seed, "gan"):
            self.gan: Any = self._adversary(pretrained)
        exact = config.hypergradient == "exact"
        self.radius_W: float | None = None if exact else RADIUS_W
        self.radius_G: float | None = None if exact else RADIUS_G
        costs = costs or costs_of(config, data.image_size, self.device)
        self.method = Method(config.method, config.space, self.device, costs)
        self._build(config.method.first(config.space))

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
        """Begins a stage with a new W and A, or with what they keep where the stage continues the one before. The GAN
        keeps its state.
        """
        W, A, cells = self.W, self.A, self.method.cells
        self._build(stage)
        if stage.continues:
            carry(W, self.W, blocks(W.module, self.W.module))
            carry(A, self.A, columns(cells, self.method.cells))

    def _build(self, stage: Stage) -> None:
        config, self.stage, self.left, self.ended = self.config, stage, stage.epochs, False
        self.method.enter(stage)
        with replay(config.seed, "stage", stage.index):
            self.supernet: Any = config.space.supernet(stage, len(self.data.classes))
            architecture = Architecture(stage, config.space, self.method.mixture)
        momentum: Any = {"momentum": config.classifier_momentum, "nesterov": config.classifier_nesterov}
        self.W = Player(
            self.supernet.to(self.device),
            lambda p: torch.optim.SGD(p, config.classifier_lr, weight_decay=config.classifier_weight_decay, **momentum),
            clip=config.classifier_clip,
        )
        adam: Any = {"betas": (config.arch_beta1, 0.999), "weight_decay": config.arch_weight_decay}
        self.A = Player(
            architecture.to(self.device),
            lambda p: torch.optim.Adam(p, config.arch_lr, **adam),
            clip=config.arch_clip,
        )
        self.iterations = Iterations(
            self._iterate, list(self.players.values()), self, self.device, config.cuda_graph, self.say
        )
        # where no gradient passes through a player's step, the player is a constant
        second, (G, E, B) = config.order == "second", self.gan.players
        self.unrolled: tuple[Any, Any, Any] = (
            self.W if second else self.W.fixed,
            *((G, E) if B.trainable else (G.fixed, E.fixed)),
        )

    def step(self, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor, search_architecture: bool) -> Tensors:
        """Takes one iteration of Algorithm 1.

        Args:
            x1, y1: a batch of J_1, normalised and augmented, [b, 3, S, S], and its labels [b].
            x2, y2: a batch of J_2 as the GAN sees it, in [-1, 1], and its labels.
            search_architecture: whether stages 3 and 4 are taken.

        Returns:
            The loss of each stage that was taken. With stage 4 also `grad/B`, the norm of B's gradient, and
            `grad/rms_images`, the root mean square by which its central difference moved the pixels of the images (on
            the scale [-1, 1]).
        """
        W, A, B, gan, method = self.W, self.A, self.gan.B, self.gan, self.method
        W1, G1, E1 = self.unrolled
        W0, G0, E0 = W1.state(), G1.state(), E1.state()  # the values that the iteration begins with
        stream = self.stream
        (z, yz), (z3, y3) = gan.draw(len(x2), stream("z")), gan.draw(len(x2), stream("z3"))

        def L_class(W: Any, A: Any) -> Tensor:
            with replay(stream("class")):
                return F.cross_entropy(W(x1, shifted(A(), offset)), y1)

        def L_GAN(G: Any, B: Any) -> Tensor:
            loss, images = gan.generator_pass(G, E0, B, z, yz, stream("gan"))
            moved.append((images.detach() - x).square().mean())
            return loss

        def L_DASGM(A: Any, W: Any, G: Any) -> tuple[Tensor, Any]:
            with replay(stream("dasgm")):
                x3, labels = self.compose(G, z3, y3, x2, y2)
                mixture = A()
                return F.cross_entropy(W(x3, mixture), labels), mixture

        moved: list[Tensor] = []  # of each pass of Eq. 7: mean squared distance of the images from those of stage 2
        taken: dict[str, Tensor | None] = {}
        offset = method.offset(W, A, x1, y1, stream)
        loss = L_class(W.live, A.fixed)
        taken["classifier"] = loss.detach()
        response_W = W.step(*grad(loss, W))  # Eq. 3
        x, response_G, taken["generator"] = gan.generator_step(z, yz, stream("gan"))  # Eq. 4
        taken["discriminator"] = gan.discriminator_step(x2, y2, x, yz, stream("discriminator"))  # Eq. 5
        if search_architecture:
            loss, mixture = L_DASGM(A, W1, G1)
            taken["architecture"] = loss.detach()
            gA, v, u = grad(loss + method.penalty(A), A, W1, G1)
            gA = add(gA, mixed_vjp(L_class, W0, A, response_W(v), self.radius_W))  # Eq. 6
            gB = mixed_vjp(L_GAN, G0, B, response_G(u), self.radius_G)  # Eq. 7
            A0 = A.state()
            A.step(gA)
            method.settle(A0, A, mixture)
            B.step(gB)
            taken["grad/B"] = norm(gB) if gB else None
            taken["grad/rms_images"] = torch.stack(moved).mean().sqrt() if moved and self.radius_G else None
        self.iteration += 1
        return {name: value for name, value in taken.items() if value is not None}

    def stream(self, *name: object) -> Stream:
        """The stream of this worker's draws in the iteration in progress, whichever that is when it is drawn from."""
        return Stream((self.config.seed, rank(), InProgress(self), *name))

    def compose(self, G: Any, z: Tensor | None, y: Tensor | None, x2: Tensor, y2: Tensor) -> tuple[Tensor, Tensor]:
        """J_3: round(val_portion * b) real images, the others of the b generated.

        Both are augmented alike, without cutout.
        """
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
        """Number of iterations of an epoch: the whole global batches that J_1 has."""
        return max(1, len(self.data.J1) // (self.config.batch_size * world_size()))

    def batch(self, J: Tensor, name: str, iteration: int, size: int | None = None) -> Tensor:
        """This worker's indices into J at the given global iteration."""
        return batch(J, size or self.config.batch_size, iteration, self.config.seed, name)

    def iterate(self) -> Tensors:
        """Draws the batches of the next iteration and takes its step."""
        phase = self.gan.phase
        return self.iterations(None if phase is None else (self.searches_architecture, phase))

    def _iterate(self) -> Tensors:
        data = self.data
        i1 = draw(lambda: self.batch(data.J1, "J1", self.iteration), self.device)
        i2 = draw(lambda: self.batch(data.J2, "J2", self.iteration), self.device)
        with replay(*self.stream("augment").parts):
            x1 = data.augment(data.to_classifier(data.raw(i1)), True, lambda: self.supernet.regularisation.cutout)
            x2 = data.flip_raw(data.raw(i2))
        with SynchronisedNorm() if self.config.sync_batch_norm else nullcontext():
            return self.step(x1, data.labels[i1], x2, data.labels[i2], self.searches_architecture)

    @property
    def searches_architecture(self) -> bool:
        """Whether the iterations of this epoch take stages 3 and 4."""
        return self.epoch >= self.stage.arch_start_epoch

    # epochs

    @property
    def epoch(self) -> int:
        """The epoch of this stage, counted from 0."""
        return self.stage.epochs - self.left

    @property
    def size(self) -> int:
        """Number of weights of this stage's supernet."""
        return sum(p.numel() for p in self.W.params.values())

    def schedule(self) -> None:
        """Sets what depends on the epoch: the learning rate of W, its regularisation and the numbers of the method.

        They are functions of the epoch and the method's memory, so a checkpoint does not hold them.
        """
        config = self.config
        self.W.lr = config.learning_rate(*config.method.weight_epoch(self.stage, self.epoch))
        self.supernet.regularisation = regularisation = config.method.regularisation(self.stage, self.epoch)
        self.method.begin_epoch(self.epoch)
        self.iterations.expect((self.searches_architecture, regularisation.form, self.W.lr > 0))

    def relaxation(self) -> Relaxation:
        """The weights of the architecture as plain numbers."""
        architecture: Any = self.A.module
        with torch.no_grad():
            mixture = architecture.relaxed_by(self.method.relaxed)
        return Relaxation(tuple(w.tolist() for w in mixture.cells), tuple(w.tolist() for w in mixture.edges))

    def genotype(self) -> Genotype:
        """The genotype that the method derives from the architecture as it is now."""
        return self.method.genotype(self.relaxation())

    @torch.no_grad()
    @full_precision()
    def accuracy(self, J: Tensor) -> float:
        """Accuracy of the supernet on images of the training set that it does not learn from, with
        running statistics. A method that draws its mixtures draws one for each batch.
        """
        data = self.data
        self.W.agree()
        right, seen = torch.zeros((), dtype=torch.int64, device=self.device), 0
        self.W.module.eval()
        for number, i in enumerate(J[rank() :: world_size()].split(max(self.config.batch_size, 256))):
            with replay(self.config.seed, rank(), self.iteration, "accuracy", number):
                mixture = self.A.fixed()
            logits = self.W.module(data.to_classifier(data.raw(i)), mixture)
            right, seen = right + (logits.argmax(1) == data.labels[i]).sum(), seen + len(i)
        self.W.module.train()
        counts = torch.tensor([right.item(), seen], dtype=torch.float64)
        average([counts])
        return (counts[0] / counts[1]).item()

    def hessian(self, signed: bool = False) -> float:
        """Eigenvalue of largest modulus, or where `signed` of largest value, of the Hessian over A, on one batch of J_2
        per worker, with batch statistics. Nothing is changed.

        Above some value the derived network is bad although the supernet is good (Zela et al. 2020, arXiv 1909.09656).
        It is found by central differences of the gradient, whatever `hypergradient` is (docs/explanation/algorithm.md).
        """
        data, A, W = self.data, self.A, self.W.fixed
        i = self.batch(data.J2, "hessian", self.iteration)
        x, y = data.to_classifier(data.raw(i)), data.labels[i]

        def loss(A: Any) -> Tensor:
            with replay(self.config.seed, "hessian", self.iteration):
                return F.cross_entropy(W(x, A()), y)

        with replay(self.config.seed, "hessian", self.iteration, "direction"):
            return (largest_eigenvalue if signed else dominant_eigenvalue)(loss, A, RADIUS_A)

    def collapsed(self, metrics: dict[str, float]) -> str:
        """Why the stage ends early, or '' where it goes on.

        Args:
            metrics: what `architecture_metrics` returned, which is compared with the bounds of the configuration.
        """
        config, kind = self.config, self.config.space.cell_types[0]
        skips, entropy = metrics[f"arch/skips_{kind}"], metrics[f"arch/entropy_{kind}"]
        if self.epoch < self.stage.arch_start_epoch:
            return ""
        if config.stop_skips and skips >= config.stop_skips:
            return f"the {kind} cell has {skips} skip connections (stop-skips {config.stop_skips})"
        if entropy < config.stop_entropy:
            return f"the {kind} edges' mean entropy is {entropy:.3f} (stop-entropy {config.stop_entropy})"
        return ""

    # checkpoint

    @property
    def players(self) -> dict[str, Player]:
        """W, A, G, E and B."""
        return {"W": self.W, "A": self.A} | by_name(self.gan)

    def state_dict(self) -> dict[str, Any]:
        """The state of the search as plain data and tensors."""
        stage = {"stage": asdict(self.stage), "left": self.left, "iteration": self.iteration}
        stage |= {name: own for name, own in (("memory", self.method.memory), ("ended", self.ended)) if own}
        return stage | {name: player.state_dict() for name, player in self.players.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        The length of the stage is the configuration's, so a search that has not ended early can be given more epochs.

        Raises:
            ValueError: the state belongs to a stage that this search does not have.
        """
        stage = Stage.read(state["stage"])
        self._expect(stage)
        self.method.memory = state.get("memory", {})
        self._build(stage)
        epochs, self.ended = self.config.stages[stage.index].epochs, "ended" in state
        self.stage, self.iteration = replace(stage, epochs=epochs), int(state["iteration"])
        self.left = int(state["left"]) + (0 if self.ended else epochs - stage.epochs)
        self.method.begin_epoch(min(self.epoch, epochs - 1))
        for name, player in self.players.items():
            player.load_state_dict(state[name])
        self.iterations.restart()

    def _expect(self, stage: Stage) -> None:
        """ValueError where this search has no such stage. Which operations its edges have left cannot be checked."""
        known, space = {one.index: one for one in self.config.stages}, self.config.space
        expected = replace(known[stage.index], epochs=stage.epochs, operations=stage.operations)
        edges = [len(cell) for cell in stage.operations]
        names = {name for cell in stage.operations for edge in cell for name in edge}
        if stage != expected or edges != [space.edges] * len(space.cell_types) or not names <= set(space.operations):
            raise ValueError("the state belongs to another stage")


def batch(J: Tensor, size: int, iteration: int, *stream: object) -> Tensor:
    """This worker's indices into J at the given global iteration.

    J is permuted anew in each pass, so no image comes twice in one.
    """
    n = size * world_size()
    turn, place = divmod(iteration, max(1, len(J) // n))
    start = place * n + rank() * size
    return J[_permutation(len(J), seed_of(*stream, turn))[start : start + size]]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int) -> Tensor:
    """A pass over n images asks for it in each of its iterations."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
