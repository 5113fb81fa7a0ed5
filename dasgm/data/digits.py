"""1,797 handwritten digits of 8x8 pixels, which are part of the package: the data set that needs no download.

`digits.parquet` is the test set of "Optical Recognition of Handwritten Digits" from the UCI repository (E. Alpaydin and
C. Kaynak, 1998; https://doi.org/10.24432/C50P49; CC BY 4.0) as scikit-learn ships it, with its levels 0 to 16 stretched
to 0 to 255, in Hugging Face's layout. It was made by `python tests/tools/pictures.py dasgm/data/digits.parquet`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dasgm.data._base import DataConfig

if TYPE_CHECKING:
    from dasgm.data._images import Data


@dataclass(frozen=True)
class Config(DataConfig):
    """Settings of the digits."""

    packaged: ClassVar[bool] = True
    image_size: int = 16
    """Side of the square images in pixels, enlarged from 8 (our choice): a multiple of 4; with a GAN 16, 32 or 64."""

    def class_count(self) -> int:
        return 10

    def load(self, data_dir: str | None = None, device: str = "cpu") -> Data:
        """Reads 1,497 images for training and 300 for testing, always the same ones. `data_dir` is not needed."""
        from dasgm.data._images import Data, resized
        from dasgm.data._memory import load_file
        from dasgm.data._split import test_split

        images, labels, _ = load_file(Path(__file__).with_name("digits.parquet"), ("label",), 10, 8)
        test, train = test_split(labels)
        images = resized(images, self.image_size)
        return Data(
            "digits",
            [str(digit) for digit in range(10)],
            (images[train], labels[train]),
            (images[test], labels[test]),
            self,
            flips=False,  # a mirrored 2 is no 2
            device=device,
        )
