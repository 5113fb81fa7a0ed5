"""A genotype's network trained from scratch (DARTS, Section 3.2): its steps, and where its batches come from."""

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
from dasgm.distributed import average, rank, world_size
from dasgm.recipes import EvaluateConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.genotype import Genotype

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
        self.draws = Draws(data.images.device)  # of a batch, which reach a GPU in one copy, for which nothing waits

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed_of(*self.stream, epoch))
        order = self.train[torch.randperm(len(self.train), generator=generator)]
        for i in range(self.iterations):
            self.place, self.order = (epoch, i), order
            self.changed = self._changed()
            with self.draws.of_iteration():
                batch = self._batch()
            yield batch

    def _batch(self) -> tuple[Tensor, Tensor]:
        data, how = self.data, self.augmentation
        some = draw(self._indices, data.images.device)
        with replay(*self.stream, Place(self), rank()):
            raw = data.raw(some) if self.changed is None else self.changed
            x = data.augment(data.to_classifier(raw), cutout=True, crop=how.crop, flip=how.flip)
        return x, data.labels[some]

    def _changed(self) -> Tensor | None:
        """This worker's images in [-1, 1] as the policy and other colours make them; None: as they are.

        What happens to an image depends on the stream, the epoch and the image alone.
        """
        how, (epoch, _) = self.augmentation, self.place
        if how == DARTS or (how.policy == "none" and not how.colours(False)):
            return None
        indices = self._indices().tolist()
        images = [how.by_policy(self.data.images[index], *self.stream, epoch, index) for index in indices]
        x = torch.stack(images).float()
        if how.colours(False):
            from dasgm.data._photographs import coloured, jitter

            seeds = [seed_of(*self.stream, "colours", epoch, index) for index in indices]
            x = coloured(x, torch.stack([jitter(np.random.default_rng(seed)) for seed in seeds]))
        return x / 127.5 - 1

    def _indices(self) -> Tensor:
        """Of the training images of this worker's batch."""
        _, i = self.place
        start = (i * world_size() + rank()) * self.batch_size
        return self.order[start : start + self.batch_size]

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
    """A genotype's network and the optimiser that trains it.

    Args:
        stream: names the random streams, the run's seed first.
        say: gets a line where `cuda_graph` is "auto" and no CUDA graph is used.

    Raises:
        ValueError: a size that no network has; `cuda_graph` is "on", and no graph is possible here.
    """

    def __init__(
        self,
        genotype: Genotype,
        config: EvaluateConfig,
        classes: int,
        device: Any,
        *stream: object,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.config, self.stream, self.device = config, stream, torch.device(device)
        with replay(*stream):
            network = genotype.build(config.channels, config.cells, classes, config.form, config.auxiliary > 0)
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
        self.inputs: dict[torch.Size, tuple[Tensor, Tensor]] = {}  # the batches that a graph reads, by shape

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
            return F.cross_entropy(logits, y, label_smoothing=config.label_smoothing)

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
        self.W.agree()
        self.network.eval()
        for x, y, mask in batches.testing():
            with full_precision():
                logits = self.network(x.to(memory_format=self.layout))
            best = logits.topk(min(TOP, self.classes), 1).indices
            right = (logits.argmax(1) == y, (best == y[:, None]).any(1), torch.ones_like(mask))
            found += torch.stack([(hit & mask).sum() for hit in right])
        self.network.train()
        shared = found.cpu().double()
        average([shared])
        first, five, seen = (shared * world_size()).round().long().tolist()
        return first, five, seen
