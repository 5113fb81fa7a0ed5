"""What makes it harder for a supernet to fit its images. Imports no torch, so that methods can say it."""

from __future__ import annotations

from typing import NamedTuple


class Regularisation(NamedTuple):
    """The numbers of an epoch, which a supernet obeys in training mode."""

    skip_dropout: float = 0.0
    """Rate of the dropout after skip connections (P-DARTS)."""
    drop_path: float = 0.0
    """Rate at which the result of an edge is dropped for an image, from 0 to below 1 (R-DARTS)."""
    cutout: float = 1.0
    """Probability with which cutout blanks a square of an image of W's batch. Its side is `--data.cutout`."""

    @property
    def form(self) -> tuple[bool, ...]:
        """Which of them draw numbers. A CUDA graph is recorded anew where this changes."""
        return self.skip_dropout > 0, self.drop_path > 0, self.cutout < 1
