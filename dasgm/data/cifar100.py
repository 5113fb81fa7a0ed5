"""CIFAR-100: 50,000 training and 10,000 test images, 32x32, 100 (fine) classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dasgm.data._cifar import CifarConfig

NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Config(CifarConfig):
    """Settings of CIFAR-100."""

    CLASSES: ClassVar[tuple[str, ...]] = tuple(NAMES.split())
    ALIASES: ClassVar[dict[str, str]] = {"cra": "crab"}  # of Hugging Face's copy
    LABELS: ClassVar[tuple[str, ...]] = ("fine_label", "label")
    MEAN: ClassVar[tuple[float, float, float]] = (0.5071, 0.4867, 0.4408)  # P-DARTS's
    STD: ClassVar[tuple[float, float, float]] = (0.2675, 0.2565, 0.2761)
