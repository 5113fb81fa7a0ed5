"""The user's own pictures: `class/*.jpg`, or `train/class/*.jpg` with `test/` and perhaps `val/` beside it.

Which folders are parts is decided in `_layout.py`, which files are pictures in `_folders.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dasgm.data._base import DataConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data


@dataclass(frozen=True)
class Config(DataConfig):
    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and say how many. Otherwise the first one ends the command."""

    def load(self, data_dir: str | None, device: str = "cpu") -> Data:
        """Pictures of any size, their shorter side resized to `image_size`, then centre-cropped; classes by name.

        Without `test/` a sixth of each class is set aside, always the same. `val/` becomes J_val where `holdout` asks
        for one. Raises ValueError for a class of fewer than 10 pictures, other formats, unreadable pictures, and
        folders that may be parts or classes.
        """
        from dasgm.data._folder import load

        return load(self, data_dir, device)
