"""Plain data and tensors as a file of torch's, and back, whoever wrote it. Torch is imported where it is needed."""

from __future__ import annotations

import errno
import io
import pickletools
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.store.files import DEEPEST, exclusive, first_line, printable, write_atomic
from dasgm.store.replica import shared

if TYPE_CHECKING:
    from torch import Tensor

REBUILT = "torch._utils _rebuild_tensor_v2"
NAMED = {"collections OrderedDict", REBUILT, *(f"torch {kind}Storage" for kind in ("Float", "Double", "Long", "Bool"))}
"""All that our files name. `weights_only` would also call constructors, such as bytearray(10**12)."""
NO_TUPLE = {"EMPTY_DICT", "EMPTY_LIST", "BINUNICODE", "GLOBAL", "REDUCE", "BINPERSID", "APPENDS"}  # what they leave
MOST_HASHED = 2**28  # values, a second or so: a key is hashed, and each reference to a tuple may double what that takes


def packed(state: dict[str, Any]) -> bytes:
    """As torch writes it, for `write_atomic`."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(path: Path) -> dict[str, Any]:
    """What `packed` gave, on the CPU: nothing in the file is run, and no more memory is taken than it is long.

    Raises:
        ValueError: in a few words, why it is no such file.
        OSError, RuntimeError, MemoryError: it cannot be read now, or there is no memory for it.
    """
    import torch

    from dasgm.device import is_out_of_memory

    try:
        _check(path)
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # zipfile, pickle and torch have many words for a file that is none of theirs
        if isinstance(error, OSError) and error.errno != errno.EINVAL or is_out_of_memory(error):
            raise  # of this machine, not of the file, which may say where to seek
        raise ValueError(first_line(error)[:200]) from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    size = path.stat().st_size
    if sum(t.nbytes for t in _tensors(found, size)) > size:
        raise ValueError("its tensors are larger than the file")
    return with_tensors(found, lambda t: t.clone())  # those of the file go with it


def cached(
    what: str,
    path: Path,
    state: Callable[[], dict[str, Any]],
    load: Callable[[dict[str, Any]], Any],
    make: Callable[[], None],
    say: Callable[[str], None],
) -> None:
    """Load what a file of the cache holds. The first who comes makes it, others wait; a file that is torn, or holds
    something else, is said in one line and made again.

    Args:
        what: the name of it in that line.
        state: what is there now, as the file keeps it. It is there again before `make` is called.
        load: puts a state in place; of a file that anybody may have written.
        make: computes the state in place.

    Raises:
        OSError, RuntimeError, MemoryError: the file cannot be read now, or there is no memory for it.
    """
    with exclusive(path.with_suffix(".lock")), shared(path, once=True):
        torn = why_not_loaded(path, state, load) if path.exists() else None
        if torn == "":
            return
        if torn:
            say(printable(f"{what} {path}: it is torn or none of ours ({torn}); it is made again"))
        with shared(path) if torn else nullcontext():  # what lies in object storage is replaced too
            make()
            write_atomic(path, packed(state()))


def why_not_loaded(path: Path, state: Callable[[], dict[str, Any]], load: Callable[[dict[str, Any]], Any]) -> str:
    """Load a file; '' or why it is none that can be, with everything as it was before."""
    from dasgm.device import is_out_of_memory

    before = with_tensors(state(), lambda t: t.clone())
    try:
        load(unpacked(path))
    except (ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        load(before)
        return first_line(error)[:100]
    return ""


def _check(path: Path) -> None:
    """The archive holds what it says, uncompressed and once, and its pickle names what ours name."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        stored = all(one.compress_type == zipfile.ZIP_STORED for one in records)
        if not stored or sum(one.file_size for one in records) > path.stat().st_size:
            raise ValueError("its parts are compressed")
        (name,) = (one.filename for one in records if one.filename.endswith("/data.pkl"))
        code = archive.read(name)
    for opcode, argument, _ in pickletools.genops(code):
        calls = opcode.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL") or "EXT" in opcode.name
        if opcode.name == "PROTO" and argument != 2:
            raise ValueError(f"it is written in pickle's protocol {argument}, expected 2")
        if calls or opcode.name == "GLOBAL" and argument not in NAMED:
            raise ValueError(f"it names {argument or opcode.name}, which is no plain data")
    if len(code) << min(_tuples_again(code), 64) > MOST_HASHED:
        raise ValueError("it refers to one tuple many times")


def _tuples_again(code: bytes) -> int:
    """How often a pickle refers to what it has kept and may be a tuple."""
    kept: set[Any] = set()
    again, before = 0, ""
    for opcode, argument, _ in pickletools.genops(code):
        if opcode.name.endswith("PUT"):
            (kept.discard if before in NO_TUPLE else kept.add)(argument)
            continue
        again += opcode.name == "DUP" or opcode.name.endswith("GET") and argument in kept
        before = opcode.name
    return again


def _tensors(value: Any, most: int) -> list[Tensor]:
    """Those in plain data that others wrote. Not by recursion, which the data would drive.

    Raises:
        ValueError: nested more than `DEEPEST` levels, or more than `most` values: one list referred to many times.
    """
    import torch

    tensors: list[Tensor] = []
    waiting, seen = [(value, 0)], 1
    while waiting:
        one, depth = waiting.pop()
        if isinstance(one, torch.Tensor):
            tensors.append(one)
        inside = one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple) else ()
        seen += len(inside)
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels")
        if seen > most:
            raise ValueError("it refers to more values than it has bytes")
        waiting.extend((each, depth + 1) for each in inside)
    return tensors


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Plain data with each tensor in it changed."""
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: with_tensors(one, change) for key, one in value.items()}
    return type(value)(with_tensors(one, change) for one in value) if isinstance(value, list | tuple) else value
