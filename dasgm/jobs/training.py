"""A network trained from scratch (DARTS, Section 3.2): its steps, and where its batches come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dasgm.bilevel import Draws, Iterations, Player, Tensors, draw, full_precision, grad, replay, seed_of
from dasgm.data._augmentation import Augmentation
from dasgm.data._split import balanced
from dasgm.distributed import average, rank, world_size
from dasgm.recipes import EvaluateConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.designs.design import Design

DARTS = Augmentation()
MEASURED = 256  # images of a batch that is only measured
TOP = 5


class Measured(Protocol):
    """Where the images come from that an error is measured on."""

    def testing(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This worker's share of the images that the error is measured on, with a mask bool [b]: over all workers each
        image is true once, however the shares are padded."""


class Batches(Measured, Protocol):
    """Where a training's images come from: the seam for data sets that do not fit in memory.

    Images [b, 3, S, S] are normalised and on the device that computes, labels int64 [b] beside them.
    """

    iterations: int
    """Number of iterations of an epoch, the same on every worker."""
    unreadable: dict[str, None]
    """Pictures that this worker left out so far, 'NAME (reason)', once each."""

    def tested(self) -> np.ndarray:
        """The index among the test images of each place of `testing`; any number where the mask is false."""

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's `iterations` augmented batches of an epoch (from 0): a pure function of it."""


@dataclass(frozen=True)
class Place:
    """'EPOCH/I' of the step in progress, as parts of a stream's name."""

    counter: Any
    """Its attribute `place` is that epoch and step."""

    def __str__(self) -> str:
        return "{}/{}".format(*self.counter.place)


class InMemory:
    """Batches of a data set in memory.

    Args:
        data: where it is `balanced`, each class is learnt from as often.
        train: indices of the training images that are learnt from; what is left of a global batch is left out.
        batch_size: of each worker.
        stream: names the random streams.
        held_out: indices of the training images that are measured; None: the test set.
        augmentation: what changes the images that are learnt from.
    """

    def __init__(
        self,
        data: Data,
        train: Tensor,
        batch_size: int,
        *stream: object,
        held_out: Tensor | None = None,
        augmentation: Augmentation = DARTS,
    ):
        self.data, self.train, self.batch_size, self.stream = data, train, batch_size, stream
        self.augmentation = augmentation
        self.held_out = held_out
        self.unreadable: dict[str, None] = {}  # the data set reported them when it read them
        self.iterations = max(1, len(train) // (batch_size * world_size()))
        self.place = (0, 0)
        self.labels = data.label_numbers[0][train].numpy() if data.balanced else None
        self.draws = Draws(data.images.device)  # of a batch, which reach a GPU in one copy, for which nothing waits

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.train[self._places(epoch)]
        for i in range(self.iterations):
            self.place, self.order = (epoch, i), order
            self.changed = self._changed()
            with self.draws.of_iteration():
                batch = self._batch()
            yield batch

    def _places(self, epoch: int) -> Tensor:
        """Places in `train` in the order of an epoch."""
        seed = seed_of(*self.stream, epoch)
        if self.labels is not None:
            return torch.from_numpy(balanced(self.labels, np.random.default_rng(seed)))
        return torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))

    def _batch(self) -> tuple[Tensor, Tensor]:
        data, how = self.data, self.augmentation
        some = draw(self._indices, data.images.device)
        with replay(*self.stream, Place(self), rank()):
            raw = data.raw(some) if self.changed is None else self.changed
            x = data.augment(data.to_classifier(raw), cutout=True, crop=how.crop, flip=how.flip)
        return x, data.labels[some]

    def _changed(self) -> Tensor | None:
        """This worker's images in [-1, 1] as the policy and other colours make them; None: as they are.

        What happens to an image depends on the stream, the epoch and the image alone, of a balanced epoch, in which an
        image may come several times, on its place instead.
        """
        how, (epoch, _) = self.augmentation, self.place
        if how == DARTS or (how.policy == "none" and not how.colours(False)):
            return None
        indices = self._indices().tolist()
        keys: list[object] = list(indices)
        if self.labels is not None:
            keys = [f"place {self._first() + k}" for k in range(len(indices))]
        pairs = zip(indices, keys, strict=True)
        images = [how.by_policy(self.data.images[index], *self.stream, epoch, key) for index, key in pairs]
        x = torch.stack(images).float()
        if how.colours(False):
            from dasgm.data._photographs import coloured, jitter

            seeds = [seed_of(*self.stream, "colours", epoch, key) for key in keys]
            x = coloured(x, torch.stack([jitter(np.random.default_rng(seed)) for seed in seeds]))
        return x / 127.5 - 1

    def _indices(self) -> Tensor:
        """Of the training images of this worker's batch."""
        start = self._first()
        return self.order[start : start + self.batch_size]

    def _first(self) -> int:
        """Where this worker's batch begins in the order of the epoch."""
        _, i = self.place
        return (i * world_size() + rank()) * self.batch_size

    def tested(self) -> np.ndarray:
        J = torch.arange(len(self.data.test_labels)) if self.held_out is None else self.held_out
        return J[rank() :: world_size()].numpy()

    def testing(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        data = self.data
        if self.held_out is None:
            J, raw, labels = torch.arange(len(data.test_labels)), data.test_raw, data.test_labels
        else:
            J, raw, labels = self.held_out, data.raw, data.labels
        for i in J[rank() :: world_size()].split(MEASURED):
            y = labels[i]
            yield data.to_classifier(raw(i)), y, torch.ones_like(y, dtype=torch.bool)


class Training:
    """The network of a design and the optimiser that trains it.

    Args:
        design: a genotype or a known network.
        stream: names the random streams, the run's seed first.
        say: gets a line where `cuda_graph` is "auto" and no CUDA graph is used.

    Raises:
        ValueError: a size that no network has; `cuda_graph` is "on", and no graph is possible here.
    """

    def __init__(
        self,
        design: Design,
        config: EvaluateConfig,
        classes: int,
        device: Any,
        *stream: object,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.config = config = design.settled(config)
        self.stream, self.device = stream, torch.device(device)
        with replay(*stream):
            network: Any = design.network(config, classes)
        self.layout = torch.preserve_format
        if self.device.type == "cuda" and config.channels_last:
            self.layout = torch.channels_last
        self.network = network.to(self.device).to(memory_format=self.layout)
        self.classes = classes
        self.W = Player(
            self.network,
            lambda p: torch.optim.SGD(
                p, config.lr, config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
            ),
            clip=config.clip or None,
        )
        on_gpu = config.precision == "auto" and self.device.type == "cuda"
        self.half = config.precision == "bfloat16" or (on_gpu and torch.cuda.is_bf16_supported(False))
        self.iteration, self.place = 0, (0, 0)
        self.iterations = Iterations(self._iterate, [self.W], self, self.device, config.cuda_graph, say)
        self.class_weights: Tensor | None = None  # float32 [classes], by which losses are multiplied
        self.inputs: dict[torch.Size, tuple[Tensor, Tensor]] = {}  # the batches that a graph reads, by shape

    def weigh(self, counts: Tensor) -> None:
        """Give all classes the same weight in the loss, from the numbers of their training images: int64 [classes]."""
        weights = counts.sum() / (counts > 0).sum() / counts.clamp(min=1)
        self.class_weights = weights.float().to(self.device)

    def schedule(self, epoch: int) -> None:
        """Write what depends on the epoch (from 0): a pure function of it, so nothing is to be restored."""
        self.W.lr = self.config.learning_rate(epoch)
        self.network.drop_path_rate = self.config.drop_path_rate(epoch)
        self.iterations.expect((self.network.drop_path_rate > 0, self.W.lr > 0))

    def step(self, x: Tensor, y: Tensor, epoch: int, i: int) -> tuple[Tensor, Tensor]:
        """One step on this worker's batch: its loss, and how many of it were wrong before the step."""
        self.place, self.batch = (epoch, i), (x.to(memory_format=self.layout), y)
        if self.iterations.graph != "off":  # which reads every batch at the same address
            if x.shape not in self.inputs:
                self.inputs[x.shape] = torch.empty_like(self.batch[0]), torch.empty_like(y)
            for kept, given in zip(self.inputs[x.shape], self.batch, strict=True):
                kept.copy_(given)
            self.batch = self.inputs[x.shape]
        found = self.iterations(x.shape)
        return found["loss"], found["wrong"]

    def _iterate(self) -> Tensors:
        x, y = self.batch
        with replay(*self.stream, "step", Place(self), rank()):
            loss, logits, gradient = self.gradient(x, y)
        self.W.step(gradient)
        self.iteration += 1
        return {"loss": loss.detach(), "wrong": (logits.detach().argmax(1) != y).sum().to(loss.dtype)}

    def gradient(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensors]:
        """The loss on a batch, the logits, and the gradient of each weight, averaged over the workers."""
        config = self.config

        def loss_of(logits: Tensor) -> Tensor:
            if self.class_weights is None:
                return F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)
            # not torch's weights, which divide by the batch's own sum and weigh what smoothing adds by other classes
            losses = F.cross_entropy(logits, y, label_smoothing=config.label_smoothing, reduction="none")
            return (self.class_weights[y] * losses).mean()

        with nullcontext() if self.half else full_precision():
            with torch.autocast(self.device.type, torch.bfloat16, self.half):
                if config.auxiliary:
                    logits, auxiliary = self.network.forward_with_auxiliary(x)
                    loss = loss_of(logits) + config.auxiliary * loss_of(auxiliary)
                else:
                    logits = self.network(x)
                    loss = loss_of(logits)
            (gradient,) = grad(loss, self.W)
        return loss, logits, gradient

    @torch.no_grad()
    def counts(self, batches: Measured) -> tuple[int, int, int]:
        """Images measured, over all workers: right, right among the first five, all. In float32."""
        found = torch.zeros(3, dtype=torch.int64, device=self.device)
        for logits, y, mask in self.measured(batches):
            best = logits.topk(min(TOP, self.classes), 1).indices
            right = (logits.argmax(1) == y, (best == y[:, None]).any(1), torch.ones_like(mask))
            found += torch.stack([(hit & mask).sum() for hit in right])
        shared = found.cpu().double()
        average([shared])
        first, five, seen = (shared * world_size()).round().long().tolist()
        return first, five, seen

    @torch.no_grad()
    def measured(self, batches: Measured) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each batch that is measured: logits in float32, labels, and the mask of images that count."""
        self.W.agree()
        self.network.eval()
        for x, y, mask in batches.testing():
            with full_precision():
                logits = self.network(x.to(memory_format=self.layout))
            yield logits, y, mask
        self.network.train()
