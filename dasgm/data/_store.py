"""A folder on any pyarrow filesystem."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from dasgm.data import _parquet
from dasgm.data._pictures import MOST_BYTES
from dasgm.store.files import cut, printable


@lru_cache(maxsize=8)
def _filesystem(root: str, process: int) -> tuple[fs.FileSystem, str]:
    """The filesystem of `root` and the path of `root` on it.

    It is made once per process: a client of s3:// takes a while to make and does not survive a fork.
    """
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
    def _place(self) -> tuple[fs.FileSystem, str]:
        return _filesystem(self.root, os.getpid())

    @property
    def local(self) -> str | None:
        """Its path on this machine, or None if it is elsewhere."""
        filesystem, path = self._place
        return path if isinstance(filesystem, fs.LocalFileSystem) else None

    def entries(self, folder: str = "", recursive: bool = False) -> list[fs.FileInfo]:
        """What `folder` contains, sorted by path; [] if there is no such folder."""
        filesystem, path = self._place
        selector = fs.FileSelector(self._at(folder), recursive=recursive, allow_not_found=True)
        return sorted(filesystem.get_file_info(selector), key=lambda info: info.path)

    def below(self, info: fs.FileInfo) -> str:
        """The path of an entry below the root."""
        return info.path[len(self._place[1]) :].lstrip("/")

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it has more than `MOST_BYTES`.
        """
        if self.local is not None:
            size = os.stat(self._at(path)).st_size
            return Path(self._at(path)).read_bytes() if size <= MOST_BYTES else _too_large(size)
        with self._place[0].open_input_file(self._at(path)) as file:
            return file.readall() if file.size() <= MOST_BYTES else _too_large(file.size())

    def beside(self, file: str, path: str) -> str | None:
        """The path below the root of the picture that `file` refers to as `path`; None if there is no such regular
        file.

        `path` may be absolute, or relative to the folder of `file` or to the root. Files outside the root are not read,
        since a file from others must not choose what is read. Links within the root are followed.
        """
        if "://" in path or "\0" in path:
            return None
        if path.startswith("/"):
            roots = [self.local, os.path.realpath(self.local)] if self.local is not None else []
            places = [posixpath.relpath(path, root) for root in roots]
        else:
            places = [posixpath.normpath(posixpath.join(posixpath.dirname(file), path)), posixpath.normpath(path)]
        inside = [place for place in places if place.split("/")[0] != ".."]
        return next((place for place in inside if self._is_file(place)), None)

    def exists(self, path: str) -> bool:
        """Whether there is a file, a folder or a link at this path."""
        if self.local is not None:
            return os.path.lexists(self._at(path))
        return self._place[0].get_file_info(self._at(path)).type != fs.FileType.NotFound

    def _is_file(self, path: str) -> bool:
        if self.local is not None:
            return os.path.isfile(self._at(path))
        return self._place[0].get_file_info(self._at(path)).type == fs.FileType.File

    @contextmanager
    def parquet(self, path: str) -> Iterator[pq.ParquetFile]:
        with (
            self._input(path) as file,
            _parquet.open_parquet(file, self.name(path), file.size()) as parquet,
        ):
            yield parquet

    def _input(self, path: str) -> pa.NativeFile:
        if self.local is not None:  # pyarrow's filesystems cannot open a path that is not UTF-8
            return pa.OSFile(os.fsencode(self._at(path)))
        return self._place[0].open_input_file(self._at(path))

    def name(self, path: str) -> str:
        """The path as messages show it: odd characters escaped, a very long path shortened in the middle."""
        return cut(printable(f"{self.root.rstrip('/')}/{path}".rstrip("/")))

    def _at(self, path: str) -> str:
        return f"{self._place[1]}/{path}".rstrip("/")


def _too_large(size: int) -> NoReturn:
    raise ValueError(f"{size:,} bytes, at most {MOST_BYTES:,} are read")
