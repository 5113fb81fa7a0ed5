"""ImageNet (ILSVRC 2012), or other photographs in its layout. They are streamed from files, never held in memory.

The layout is `train/<class>/*.JPEG` with `val/<class>/*.JPEG` (or `test/` if there is no `val/`), or Parquet shards in
Hugging Face's layout. Imports no torch at the top.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dasgm.data._base import LARGEST, SMALLEST, YOUNGER, DataConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data
    from dasgm.data._loader import Photographs


@dataclass(frozen=True)
class Config(DataConfig):
    """Settings of ImageNet. Those of J_1, J_2 and J_val have no effect: a network is trained on all of `train`."""

    streamed: ClassVar[bool] = True
    image_size: int = 224
    """Side of the square images in pixels (DARTS: 224).
    For testing, the shorter side of a picture is first resized to 256/224 of this."""
    skip_unreadable: bool = field(default=False, metadata={"mathematics": False})
    """Leave out pictures that cannot be read. Otherwise the first one ends the training; this option continues it."""
    config: str = field(default="", metadata=YOUNGER)
    """Configuration or folder below --data-dir to read, if the Parquet files there hold several data sets."""

    def __post_init__(self) -> None:
        if not SMALLEST <= self.image_size <= LARGEST:
            raise ValueError(
                f"data.image_size is {self.image_size}: choose one from {SMALLEST} to {LARGEST}, such as 224"
            )
        if self.limit < 0:
            raise ValueError(f"data.limit is {self.limit}: choose a number of images, or 0 for all")
        if self.cutout:
            raise ValueError(f"data.cutout is {self.cutout}: imagenet is trained without; leave it at 0")

    def load(self, data_dir: str | None, device: str = "cpu") -> Data:
        """Raises ValueError, because the data set does not fit into memory."""
        raise ValueError(
            "imagenet is streamed, not held in memory, so no search is made on it: search on cifar10, cifar100 or "
            "folder, then evaluate the genotype on imagenet"
        )

    def open(self, data_dir: str | None, device: str = "cpu") -> Photographs:
        return self.photographs(data_dir)

    def photographs(self, data_dir: str | None) -> Photographs:
        """Lists the pictures of both parts below `data_dir`, a path or a URI (s3://bucket/prefix), without reading
        them.

        With `limit`, a stratified draw of the training images is used.

        Raises:
            ValueError: the files are missing or not as they should be. The message is one line.
        """
        from dasgm.data._loader import photographs

        return photographs(self, data_dir)
