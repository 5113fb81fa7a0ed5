"""What changes the pictures that a network is trained on, besides cutout: crop, flip, colours, torchvision's policies.

Imports no torch at the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Policy = Literal["none", "randaugment", "trivialaugment"]


@dataclass(frozen=True)
class Augmentation:
    """Which changes are made. The defaults are those of DARTS's two trainings, for CIFAR and for ImageNet."""

    crop: bool = True
    flip: bool = True
    colour: Literal["auto", "on", "off"] = "auto"
    """auto: on where pictures are streamed."""
    policy: Policy = "none"

    def colours(self, streamed: bool) -> bool:
        """Whether brightness, contrast, saturation and hue are changed."""
        return self.colour == "on" or (self.colour == "auto" and streamed)

    def by_policy(self, image: Tensor, *stream: object) -> Tensor:
        """The picture, uint8 [3, S, S], as the policy changes it. `stream` names the draws: (seed, epoch, picture)."""
        if self.policy == "none":
            return image
        from dasgm.bilevel.draws import replay

        with replay("augmentation", *stream):
            changed: Tensor = _policy(self.policy)(image)
        return changed


@cache
def _policy(name: Policy) -> Any:
    from torchvision.transforms import v2

    return {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[name]()
