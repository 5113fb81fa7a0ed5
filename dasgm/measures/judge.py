"""The judge: a small CNN, trained once per data set on J_1.

It tells whether generated images show their labels and vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dasgm.bilevel import full_precision, replay
from dasgm.options import option
from dasgm.store.records import digest
from dasgm.store.tensors import cached

if TYPE_CHECKING:
    from dasgm.data._images import Data

ITERATIONS, BATCH = 300, 64
# A generator counts as collapsed when its images of one class differ by less than this share of the distance between
# real images: about 3 of 256 grey levels on the digits. Untrained generators have 0.8 and more, trained ones 0.3 to
# 1.3, a dead one 0.006 (BigGAN, learning rate 0.3). The first epochs do not count: training from scratch may recover.
COLLAPSED, GRACE = 0.05, 2


class JudgeNetwork(nn.Module):
    """Three convolutions with batch norm and pooling, then a linear layer: images [N, 3, S, S], S
    at least 8 -> logits.
    """

    def __init__(self, classes: int):
        super().__init__()
        widths = (3, 16, 32, 64)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
                for i, o in zip(widths, widths[1:], strict=False)
            )
        )
        self.head = nn.Linear(widths[-1], classes)

    def features(self, x: Tensor) -> Tensor:
        """Features [N, 64], averaged over the map."""
        return self.blocks(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@dataclass
class Judge:
    """The trained network, its accuracy on J_val (or on J_2 where there is no J_val), and how much real images vary."""

    network: JudgeNetwork
    accuracy: float
    measured_on: str
    real_distance: float

    @full_precision()
    @torch.no_grad()
    def measure(self, images: Tensor, labels: Tensor, data: Data) -> dict[str, float]:
        """Measures images [N, 3, S, S] in [-1, 1].

        Returns:
            `gan/synthetic_accuracy`, the accuracy on their labels, and `gan/diversity`, their within-class distance
            divided by that of real images.
        """
        correct = self.network(data.to_classifier(images)).argmax(1) == labels
        return {
            "gan/synthetic_accuracy": correct.float().mean().item(),
            "gan/diversity": within_class_distance(images, labels) / self.real_distance,
        }


def collapse(epoch: int, diversity: float) -> str | None:
    """What is wrong with a generator whose `gan/diversity` is `diversity` after `epoch` epochs, in one line; None if
    nothing.
    """
    if epoch <= GRACE or not diversity < COLLAPSED:  # NaN is reported elsewhere
        return None
    return (
        f"epoch {epoch}: the generator has collapsed: images of one class differ by {100 * diversity:.1f} % of what "
        f"real ones do; lower {option('gan.generator_lr')} or take another seed"
    )


def within_class_distance(images: Tensor, labels: Tensor) -> float:
    """Mean Euclidean distance between two different images of a class, averaged over the classes with at least two."""
    means = []
    for label in labels.unique():
        x = images[labels == label].flatten(1)
        if len(x) > 1:
            means.append(torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)))
    return torch.stack(means).mean().item() if means else 0.0


def judge(data: Data, cache: Path, say: Callable[[str], None] = print) -> Judge:
    """The judge of this data set and split. It is read from `cache`, or trained by the first process that needs it."""
    name = f"judge-{digest([data.digest, data.J1.tolist(), data.Jval.tolist(), ITERATIONS])[:16]}"
    network = JudgeNetwork(len(data.classes)).to(data.images.device)

    def make() -> None:
        say(f"judge of synthetic images: training a small CNN on J_1 ({ITERATIONS} iterations)")
        _train(network, data)

    cached("judge", cache / f"{name}.safetensors", network.state_dict, network.load_state_dict, make, say)
    held_out, measured_on = (data.Jval, "J_val") if len(data.Jval) else (data.J2, "J_2")
    network.eval()
    some = _some(data.J2, 1000)
    real_distance = within_class_distance(data.raw(some), data.labels[some])
    with torch.no_grad(), full_precision():
        right = [
            network(data.to_classifier(data.raw(i))).argmax(1) == data.labels[i]
            for i in _some(held_out, 5000).split(500)
        ]
    return Judge(network, torch.cat(right).float().mean().item(), measured_on, real_distance)


def _some(indices: Tensor, n: int) -> Tensor:
    """At most n of the indices, drawn at random because a data set may be sorted by class; always the same ones."""
    return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[:n]]


def _train(network: JudgeNetwork, data: Data) -> None:
    with replay("judge", data.digest):
        for p in network.modules():
            if isinstance(p, nn.Conv2d | nn.Linear):
                p.reset_parameters()
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, ITERATIONS)
        for _ in range(ITERATIONS):
            i = data.J1[torch.randint(len(data.J1), (BATCH,))]
            x = data.augment(data.to_classifier(data.raw(i)), False)
            loss = F.cross_entropy(network(x), data.labels[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
