"""Addresses of object storage, s3://BUCKET/PREFIX or what else pyarrow opens, and what lies there.

An address stands for a folder here, its mirror, in which it is noted; replica.py keeps the two
alike. Free of pyarrow at import.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from dasgm.store.files import write_atomic

NOTE = ".mirror"  # in the folder that stands for an address: that address
RETRY = 10.0  # seconds for which a storage that did not answer is left alone
SERVER = ("endpoint_override", "scheme", "region")
OPTIONS = {"s3": SERVER, "gs": (*SERVER[:2], "retry_limit_seconds"), "gcs": (*SERVER[:2], "retry_limit_seconds")}
"""What may stand behind an address' question mark: no keys, as pyarrow would take them."""
HINT = "check its name, your credentials (environment or instance profile) and their rights, and AWS_ENDPOINT_URL"


def checked(place: str) -> SplitResult:
    """An address in its parts. What may hold a password is in no error: nothing was logged or written yet.

    Raises:
        ValueError: an address with a password or an unknown option in it, or without a bucket.
    """
    parts = urlsplit(place.rstrip("/"))
    options = parse_qsl(parts.query, keep_blank_values=True)
    shown = f"storage {parts.scheme}://...{parts.path}"
    keys = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an instance profile"
    if "@" in parts.netloc or any("@" in value for _, value in options):
        raise ValueError(f"{shown}: addresses are logged, so one may have no password in it; {keys}")
    known = OPTIONS.get(parts.scheme, ())
    if odd := [_named(name, value) for name, value in options if name not in known]:
        expected = f"expected {' or '.join(known) or 'no option'}"
        raise ValueError(f"{shown}: {', '.join(odd)} behind its question mark: {expected}; for keys {keys}")
    path = parts.path.strip("/")
    if parts.scheme != "file" and (not parts.netloc or ".." in path.split("/")):
        raise ValueError(
            f"storage {parts.scheme}://{parts.netloc}{parts.path}: expected {parts.scheme}://BUCKET/PREFIX"
        )
    return parts


def _named(name: str, value: str) -> str:
    """An option's name, unless it may be a key itself."""
    return name if value and re.fullmatch("[a-z_]{1,30}", name) else "something"


def local(place: str | Path) -> Path:
    """The folder here of a path or of an address; of an address its mirror, made if need be. Nothing is fetched.

    Mirrors lie in $DASGM_CACHE, by default ~/.cache/dasgm.

    Raises:
        ValueError: what `checked` says.
    """
    if "://" not in str(place):
        return Path(os.path.expanduser(place))
    parts = checked(str(place))
    scheme, path = parts.scheme, parts.path.strip("/")
    if scheme == "file":
        return Path(parts.path)
    server = dict(parse_qsl(parts.query)).get("endpoint_override") or (_endpoint() if scheme == "s3" else "")
    bucket = parts.netloc + (f"@{hashlib.sha256(server.encode()).hexdigest()[:8]}" if server else "")
    folder = _cache() / scheme / bucket / path
    uri = parts._replace(path=f"/{path}" if path else "").geturl()
    if lies_at(folder) != uri:
        folder.mkdir(parents=True, exist_ok=True)
        place_file(folder / NOTE, uri.encode())
    return folder


def lies_at(folder: str | Path) -> str:
    """Where a folder, or a file in it, lies: at its address if it is a mirror's, else where it is."""
    root, uri = root_of(Path(folder))
    if not root:
        return str(folder)
    base, mark, query = uri.partition("?")
    below = Path(folder).absolute().relative_to(root).as_posix()
    return base + (f"/{below}" if below != "." else "") + mark + query


def root_of(folder: Path) -> tuple[Path | None, str]:
    """The folder above, or this one, that stands for an address, and the address; (None, ''): there is none.

    A note outside the cache is ignored: somebody else wrote it, and it could name any storage of this user.
    """
    folder = folder.absolute()
    for root in (folder, *folder.parents):
        if (root / NOTE).is_file() and ({_cache(), _cache().resolve()} & set(root.parents)):
            return root, (root / NOTE).read_text(errors="replace")
    return None, ""


def _cache() -> Path:
    return Path(os.environ.get("DASGM_CACHE") or os.path.expanduser("~/.cache/dasgm")).absolute()


def place_file(path: Path, content: bytes, microseconds: int | None = None) -> None:
    """`write_atomic`, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content, microseconds)


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


class Storage:
    """What lies under an address. Methods raise OSError where it does not answer, or refuses."""

    def __init__(self, uri: str):
        self.uri = uri
        self.say: Callable[[str], None] = lambda line: print(line, flush=True)
        self.away = ""
        """Why it did not answer last, '' if it did."""
        self._again = 0.0
        self._epoch: float | None = None

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from pyarrow import fs

        parts = urlsplit(self.uri)
        if parts.scheme != "s3":
            return fs.FileSystem.from_uri(self.uri)
        options = dict(parse_qsl(parts.query))
        protocol, _, server = (options.pop("endpoint_override", "") or _endpoint()).rpartition("://")
        protocol, region = options.pop("scheme", protocol) or "https", options.pop("region", None)
        if not region and not server:
            region = fs.resolve_s3_region(parts.netloc)
        system = fs.S3FileSystem(
            endpoint_override=server or None,
            scheme=protocol,
            region=region,
            connect_timeout=5,
            allow_delayed_open=True,  # with the next: one request for a small object
            background_writes=False,
        )
        return system, parts.netloc + parts.path

    @property
    def system(self) -> Any:
        """pyarrow's filesystem."""
        return self._opened[0]

    @property
    def path(self) -> str:
        """The address in that filesystem."""
        return self._opened[1].rstrip("/")

    def look(self) -> None:
        """FileNotFoundError where there is no such bucket, which reading alone would take for an empty one."""
        bucket = self.path.partition("/")[0]
        if self.system.get_file_info(bucket).type.name == "NotFound":
            raise FileNotFoundError(2, f"there is no bucket {bucket}")

    def read(self, name: str) -> bytes | None:
        """An object; None: there is none."""
        place = f"{self.path}/{name}"
        with suppress(FileNotFoundError):
            for _ in range(10):  # pyarrow asks for the size, then for as many bytes: a part of what was put between
                with self.system.open_input_stream(place) as file:
                    content, made = bytes(file.read()), file.metadata()
                with self.system.open_input_stream(place) as file:
                    if file.metadata() == made:  # its ETag
                        return content
            raise OSError(f"{place} changes while it is read")
        return None

    def write(self, name: str, content: bytes) -> None:
        """An object, which is there whole or not at all."""
        with self.system.open_output_stream(f"{self.path}/{name}", compression=None) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """An object, if it is there."""
        with suppress(FileNotFoundError):
            self.system.delete_file(f"{self.path}/{name}")

    def remove_all(self, name: str) -> None:
        """Everything below a name."""
        with suppress(FileNotFoundError):
            self.system.delete_dir(f"{self.path}/{name}".rstrip("/"))

    def list(self, name: str) -> dict[str, datetime | None]:
        """What is directly below a name: of an object the time, by the storage's clock; None: something lies below."""
        from pyarrow import fs

        found = self.system.get_file_info(fs.FileSelector(f"{self.path}/{name}".rstrip("/"), allow_not_found=True))
        return {one.base_name: one.mtime if one.is_file else None for one in found}

    def now(self, prefix: str) -> float:
        """Seconds since 1970 by its own clock, which an object below `prefix` tells once; else by this machine's."""
        if self._epoch is None:
            probe = f"{prefix}.probe-{uuid.uuid4().hex}"
            with suppress(OSError):  # it may only be read, or is away
                self.write(probe, b"")
                self._epoch = self.system.get_file_info(f"{self.path}/{probe}").mtime.timestamp() - time.monotonic()
                self.remove(probe)
        return time.time() if self._epoch is None else self._epoch + time.monotonic()

    def attempt(self, work: Callable[[], None], patient: bool = False) -> bool:
        """Whether `work` succeeded. What fails is said once. `patient`: tried however short ago it failed."""
        if self.away and not patient and time.monotonic() < self._again:
            return False
        try:
            work()
        except OSError as error:
            if not self.away:
                self.say(f"storage {self.uri}: {_line(error)}; going on, what is new is sent when it answers again")
            self.away, self._again = _line(error), time.monotonic() + RETRY
            return False
        if self.away:
            self.away = ""
            self.say(f"storage {self.uri}: it answers again")
        return True

    @contextmanager
    def needed(self) -> Iterator[None]:
        """What fails is the user's to mend. Raises ValueError: one line."""
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: pyarrow's, of an address
            raise ValueError(f"storage {self.uri}: {_line(error)}; {HINT}") from None


storage = cache(Storage)


def _line(error: Exception) -> str:
    return re.sub(r" \(Request ID.*?\)", "", " ".join(str(error).split()))[:300]
