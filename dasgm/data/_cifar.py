"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from Parquet or from torchvision's files. Imports no torch at the top."""

from __future__ import annotations

import socket
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dasgm.data._base import YOUNGER, DataConfig
from dasgm.options import option
from dasgm.store.files import first_line

if TYPE_CHECKING:
    from torch import Tensor

    from dasgm.data._images import Data

    LabelledImages = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class CifarConfig(DataConfig):
    """Settings that CIFAR-10 and CIFAR-100 share."""

    skip_unreadable: bool = False
    """Leave out pictures in Parquet files that cannot be read. Otherwise the first one ends the command."""
    config: str = field(default="", metadata=YOUNGER)
    """Configuration or folder below --data-dir to read, if the Parquet files there hold several data sets."""

    CLASSES: ClassVar[tuple[str, ...]]
    ALIASES: ClassVar[dict[str, str]] = {}  # other spellings of classes
    LABELS: ClassVar[tuple[str, ...]]  # what Parquet's label column may be called
    MEAN: ClassVar[tuple[float, float, float]]
    STD: ClassVar[tuple[float, float, float]]

    def class_count(self) -> int:
        return len(self.CLASSES)

    def load(self, data_dir: str | None, device: str = "cpu") -> Data:
        """Reads Parquet files in Hugging Face's layout if `data_dir` has any, else torchvision's files.

        torchvision's files are downloaded if they are missing. Without `data_dir` they are kept in ~/.cache/dasgm.
        """
        from dasgm.data._images import Data, resized

        key = type(self).__module__.rpartition(".")[2]
        if self.config and data_dir is None:
            raise ValueError(
                f"{option('data.config')} {self.config:.80}: it selects among Parquet files; give their folder as "
                f"{option('data_dir')}, or leave it out"
            )
        if data_dir is not None and not Path(data_dir).is_dir():
            raise ValueError(
                f"{option('data_dir')} {data_dir}: no such folder; expected a folder with train.parquet and "
                "test.parquet"
            )
        folder = Path(data_dir) if data_dir else Path.home() / ".cache" / "dasgm"
        found = self._parquet(folder, key) if data_dir else None
        (images, labels), (test_images, test_labels), notes = found or self._torchvision(folder, key)
        return Data(
            key,
            self.CLASSES,
            (resized(images, self.image_size), labels),
            (resized(test_images, self.image_size), test_labels),
            self,
            mean=self.MEAN,
            std=self.STD,
            notes=notes,
            device=device,
        )

    def _parquet(self, folder: Path, key: str) -> tuple[LabelledImages, LabelledImages, list[str]] | None:
        """Both parts, and lines to be printed; None where there is no Parquet file."""
        from dasgm.data import _shards
        from dasgm.data._labels import aligned_to, ensure_order
        from dasgm.data._memory import load
        from dasgm.data._rows import part_of
        from dasgm.data._store import Store

        store = Store(str(folder))
        found = _shards.find(store, self.config)
        if not found.parts and not found.strangers:
            return None
        for name in ("train", "test"):
            if name not in found.parts:
                raise ValueError(
                    f"{folder} has no {name}.parquet, nor shards {name}-00000-of-...{found.besides()}: add them"
                )
        listed = [part_of(store, found.parts[name], self.LABELS, self.skip_unreadable) for name in ("train", "test")]
        files = [file for part in listed for file in part.labels]
        numbered = ensure_order(files, self.CLASSES, key, self.ALIASES)
        parts: list[LabelledImages] = []
        notes: list[str] = []
        for part in listed:
            labels = aligned_to(part.labels, self.CLASSES, key, self.ALIASES)
            notes += part.inventory(labels, self.CLASSES).lines()
            images, targets, more = load(part, labels, 32, self.skip_unreadable)
            parts.append((images, targets))
            notes += more
        return parts[0], parts[1], [*notes, *numbered, *found.notes(store, "train", "test")]

    def _torchvision(self, folder: Path, key: str) -> tuple[LabelledImages, LabelledImages, list[str]]:
        """The same from torchvision's files, whose MD5 sums torchvision checks."""
        import torch
        from torchvision import datasets

        parts: list[LabelledImages] = []
        patience = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(30)  # torchvision sets no timeout
            for train in (True, False):
                files = getattr(datasets, key.upper())(str(folder), train=train, download=True)
                images = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous()
                parts.append((images, torch.tensor(files.targets)))
        except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
            raise ValueError(
                f"{key} is not in {folder} and could not be downloaded ({first_line(error)}): give as "
                f"{option('data_dir')} a folder with train.parquet and test.parquet (Hugging Face's layout), or with "
                "torchvision's files"
            ) from None
        finally:
            socket.setdefaulttimeout(patience)
        return parts[0], parts[1], []
