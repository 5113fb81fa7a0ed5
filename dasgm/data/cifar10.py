"""CIFAR-10: 50,000 training and 10,000 test images, 32x32, 10 classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dasgm.data._cifar import CifarConfig


@dataclass(frozen=True)
class Config(CifarConfig):
    """Settings of CIFAR-10."""

    CLASSES: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    LABELS: ClassVar[tuple[str, ...]] = ("label",)
    MEAN: ClassVar[tuple[float, float, float]] = (0.49139968, 0.48215827, 0.44653124)  # DARTS's
    STD: ClassVar[tuple[float, float, float]] = (0.24703233, 0.24348505, 0.26158768)
