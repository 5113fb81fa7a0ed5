"""Stratified, seeded splits of a labelled data set. They do not use torch's global generator."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dasgm.data._base import DataConfig

SET_ASIDE = "a sixth of each class is set aside as the test set"  # a note, untrue where there are folds


def share(labels: Tensor, portion: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of `portion` of the images and of the others, both ascending.

    Of each class it takes the floor or the ceiling.

    This is systematic sampling: the images are shuffled, sorted by class, and every 1/portion-th one is taken.
    """
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    ticks = (torch.arange(len(labels) + 1, dtype=torch.float64) * portion + 0.5).floor()
    chosen = ticks.diff() > 0
    return order[chosen].sort().values, order[~chosen].sort().values


def split(labels: Tensor, config: DataConfig, held_out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """J_1, J_2 and J_val: disjoint indices into the training images.

    Args:
        held_out: J_val; None: it is drawn.

    Raises:
        ValueError: J_1, J_2, or a J_val that was asked for, would be empty.
    """
    generator = torch.Generator().manual_seed(config.split_seed)
    pool = torch.arange(len(labels))
    if 0 < config.limit < len(labels):
        pool, _ = share(labels, config.limit / len(labels), generator)
    if held_out is None:
        chosen, others = share(labels[pool], config.holdout, generator)
        held_out, rest = pool[chosen], pool[others]
    else:
        rest = pool[~torch.isin(pool, held_out)]
    if config.split == "contiguous":
        border = int(config.weight_portion * len(rest))
        first, second = rest[:border], rest[border:]
    else:
        chosen, others = share(labels[rest], config.weight_portion, generator)
        first, second = rest[chosen], rest[others]
    for name, part in (("J_1", first), ("J_2", second)):
        if config.split == "contiguous" and (absent := set(labels[rest].tolist()) - set(labels[part].tolist())):
            raise ValueError(
                f"data.split 'contiguous' leaves {name} without {len(absent)} class(es): the images are in order of "
                "class; choose 'stratified'"
            )
    if config.holdout and not len(held_out):
        raise ValueError(f"data.holdout {config.holdout} of {len(labels)} images leaves none for J_val: raise it")
    if not len(first) or not len(second):
        raise ValueError(
            f"data.weight_portion {config.weight_portion} of {len(rest)} images leaves none for J_1 or J_2: choose 0.5"
        )
    return first, second, held_out


def test_split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of test and training images for a data set without a test set.

    A sixth is the test set, as in CIFAR; it does not depend on the seed.
    """
    return share(labels, 1 / 6, torch.Generator().manual_seed(0))


def held_share(labels: Tensor, portion: float, seed: int) -> tuple[Tensor, Tensor]:
    """As `share`, for images that are held out of a training.

    Raises:
        ValueError: none would be held out, or a class would have none left.
    """
    chosen, others = share(labels, portion, torch.Generator().manual_seed(seed))
    if not len(chosen):
        raise ValueError(f"calibration {portion} of {len(labels)} training images holds none out: raise it")
    if len(labels[others].unique()) < len(labels.unique()):
        raise ValueError(f"calibration {portion} leaves a class without training images: lower it")
    return chosen, others


def folds(labels: Tensor, number: int, seed: int) -> Tensor:
    """The part of each image, from 0, of `number` parts that hold each class as equally as possible: int64 [N].

    Raises:
        ValueError: a class has fewer images than there are parts.
    """
    least = int(labels.bincount()[labels.unique()].min())
    if least < number:
        raise ValueError(f"folds {number}: the smallest class has {least} images; choose at most {least}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[labels[order].argsort(stable=True)]
    found = torch.empty_like(order)
    found[order] = torch.arange(len(labels)) % number
    return found


def balanced(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Places into `labels` in an order in which each class in use comes as often: int64 [N], N as many as labels.

    A class has N / C places, rounded down or up at random. It fills them with whole shuffles of its images: none comes
    more than once more often than another.
    """
    present, sizes = np.unique(labels, return_counts=True)
    quota = np.full(len(present), len(labels) // len(present))
    quota[random.permutation(len(present))[: len(labels) % len(present)]] += 1
    by_class = np.split(labels.argsort(kind="stable"), sizes.cumsum()[:-1])
    drawn = [_repeated(places, n, random) for places, n in zip(by_class, quota, strict=True)]
    return random.permutation(np.concatenate(drawn))


def _repeated(places: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """n of the places: all of them as often as they fit, then some at random."""
    return np.concatenate([random.permutation(places) for _ in range(-(-n // len(places)))])[:n]
