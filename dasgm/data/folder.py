"""The user's own pictures: `class/*.jpg`, or `train/class/*.jpg` with `test/` and perhaps `val/` beside it.

`_layout.py` decides which folders are parts, `_folders.py` which files are pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.data._base import DataConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data


@dataclass(frozen=True)
class Config(DataConfig):
    """Settings of a folder of pictures."""

    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and say how many. Otherwise the first one ends the command."""

    def load(self, data_dir: str | None, device: str = "cpu") -> Data:
        """Reads pictures of any size.

        The shorter side is resized to `image_size`, then the centre is kept. Classes are sorted by name.

        Without `test/` a sixth of each class is the test set, always the same. `val/` becomes J_val if `holdout` is not
        0.

        Raises:
            ValueError: a class has fewer than 10 pictures, a file has another format or cannot be read, or it is not
                certain whether folders are parts or classes.
        """
        from dasgm.data._folder import load

        return load(self, data_dir, device)

    def open(self, data_dir: str | None, device: str = "cpu") -> Data:
        """As `load`. A `val/` that is not J_val is held out of the training."""
        from dasgm.data._folder import load

        return load(self, data_dir, device, held=True)
