"""A folder on any pyarrow filesystem."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import fs

from dasgm.data import _parquet
from dasgm.data._pictures import MOST_BYTES


@lru_cache(maxsize=8)
def opened(root: str, process: int) -> tuple[fs.FileSystem, str]:
    """Once a process: a client of s3:// takes a while to make, and does not outlive a fork."""
    if Store(root).is_uri:
        filesystem, path = fs.FileSystem.from_uri(root)
        return filesystem, path.rstrip("/")
    return fs.LocalFileSystem(), str(Path(root).absolute())


@dataclass(frozen=True)
class Store:
    """A folder on any pyarrow filesystem, given as a path or a URI."""

    root: str

    @property
    def is_uri(self) -> bool:
        return "://" in self.root

    @property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        return opened(self.root, os.getpid())

    def entries(self, folder: str = "", recursive: bool = False) -> list[fs.FileInfo]:
        """What lies in `folder`, sorted by path; [] if there is no such folder."""
        filesystem, path = self._opened
        selector = fs.FileSelector(self._at(folder), recursive=recursive, allow_not_found=True)
        return sorted(filesystem.get_file_info(selector), key=lambda info: info.path)

    def below(self, info: fs.FileInfo) -> str:
        """Its path below the root."""
        return info.path[len(self._opened[1]) :].lstrip("/")

    def read(self, path: str) -> bytes:
        with self._opened[0].open_input_file(self._at(path)) as file:
            if file.size() > MOST_BYTES:
                raise ValueError(f"{file.size():,} bytes")
            return file.readall()

    @contextmanager
    def parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        with (
            self._opened[0].open_input_file(self._at(path)) as file,
            _parquet.opened(file, self.name(path), file.size()) as parquet,
        ):
            yield parquet

    def name(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}"

    def _at(self, path: str) -> str:
        return f"{self._opened[1]}/{path}".rstrip("/")
