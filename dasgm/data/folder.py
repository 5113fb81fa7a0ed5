"""The user's own pictures: `class/*.jpg`, or `train/class/*.jpg` with `test/` and perhaps `val/` beside it.

Also Parquet files of these parts, and lists (`path,label`) as CSV files. `_parts.py` says which pictures are learnt
from and which are tested on, `_layout.py` which folders are parts, `_folders.py` which files are pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dasgm.data._base import IN_MEMORY, YOUNGER, DataConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.data._loader import Photographs


MOST_PIXELS = 2 * 2**30  # bytes of all pictures that a training holds in memory


@dataclass(frozen=True)
class Config(DataConfig):
    """Settings of a folder of pictures."""

    skip_unreadable: bool = False
    """Leave out pictures that cannot be read, and say how many. Otherwise the first one ends the command."""
    config: str = field(default="", metadata=YOUNGER)
    """Configuration or folder below --data-dir to read, if the Parquet files there hold several data sets."""
    streaming: Literal["auto", "on", "off"] = field(default="auto", metadata={"mathematics": False})  # the digest tells
    """How a training reads the pictures: on decodes them anew for every epoch, as ImageNet's, off holds them in memory.
    auto streams above 64 pixels, and where the pixels take more than 2 GiB (our choice). A search never streams."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.streaming not in ("auto", "on", "off"):
            raise ValueError(f"data.streaming is {self.streaming!r}: choose 'auto', 'on' or 'off'")

    def streams(self, pictures: int) -> bool:
        """Whether a training streams so many pictures."""
        large = self.image_size > IN_MEMORY or 3 * pictures * self.image_size**2 > MOST_PIXELS
        return self.streaming == "on" or (self.streaming == "auto" and large)

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

    def open(self, data_dir: str | None, device: str = "cpu") -> Data | Photographs:
        """The same pictures for training a network: in memory, or as `streaming` says a list of them.

        Streamed pictures are resized so that the shorter side is 256/224 of `image_size`, as ImageNet's. `val/` is held
        out of the training, whatever `holdout` says.
        """
        from dasgm.data._folder import opened

        return opened(self, data_dir, device)
