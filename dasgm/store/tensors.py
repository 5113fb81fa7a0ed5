"""Plain data and tensors as a safetensors file, and back, whoever wrote it. Torch is imported where it is needed.

The file holds each tensor under its path in the data ("search/W/module/stem.0.weight"). Its metadata has the data
themselves as one JSON text: {"format": ..., "state": ...}, in which a list is an array, a dictionary is
{"keys": [...], "values": [...]} and a tensor is {"tensor": its path}.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.store import legacy
from dasgm.store.files import DEEPEST, LARGEST, exclusive, first_line, plain, printable, short, write_atomic
from dasgm.store.records import FORMAT
from dasgm.store.replica import shared

if TYPE_CHECKING:
    from torch import Tensor

ENTRY = "dasgm"  # in the metadata
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL", "uint8": "U8"}
KINDS |= {f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)}  # torch's names -> safetensors'
KINDS |= {"complex64": "C64"}


def packed(state: dict[str, Any]) -> bytes:
    """The content of the file: the same state gives the same bytes. Tuples are written as lists, as JSON does.

    safetensors' own writer copies the numbers twice, and for a state of a few 100 MB that takes as long again.

    Raises:
        ValueError: in a few words, what `unpacked` would not read, and where in the state it is.
        TypeError: something is no plain data.
    """
    tensors: dict[str, Tensor] = {}
    tree = _taken_apart(state, "", tensors, DEEPEST - 1)
    data = json.dumps({"format": FORMAT, "state": tree})
    if len(data) > LARGEST:
        raise ValueError(f"{_largest(tree)}: with it the data without tensors are larger than {LARGEST // 2**20} MiB")
    head: dict[str, Any] = {"__metadata__": {ENTRY: data}}
    numbers, end = [], 0
    for path, tensor in sorted(tensors.items(), key=lambda item: -item[1].itemsize):  # so that each lies aligned
        begin, end = end, end + tensor.nbytes
        head[path] = {"dtype": KINDS[_kind(tensor)], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        numbers.append(_numbers(tensor))
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *numbers])


def _numbers(tensor: Tensor) -> Any:
    """What a tensor has in memory, without a copy where it is dense and on the CPU."""
    import torch

    dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return dense.view(-1).view(torch.uint8).numpy().data


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _largest(tree: dict[str, Any]) -> str:
    """The path of the first entry of a state that takes the most text."""
    sizes = {key: len(json.dumps(value)) for key, value in zip(tree["keys"], tree["values"], strict=True)}
    return str(max(sizes, key=lambda key: sizes[key]))


def unpacked(path: Path) -> dict[str, Any]:
    """What `packed` was given, on the CPU: nothing in the file is run, and memory is bounded by the file's size.

    Raises:
        ValueError: in a few words, why it is no such file.
        OSError, RuntimeError, MemoryError: it cannot be read now, or there is no memory for it.
    """
    from safetensors import safe_open

    from dasgm.device import is_out_of_memory

    try:
        path.open("rb").close()  # what the system refuses has its own words
        with safe_open(path, "pt") as file:
            left = set(file.keys())

            def take(name: str) -> Tensor:
                if name not in left:
                    raise ValueError(f"its tensor {short(name)} is missing, or referred to twice")
                left.remove(name)
                return file.get_tensor(name).clone()  # what it gives lies in the file

            found = _put_together(_tree(file.metadata()), take)
    except Exception as error:  # safetensors and torch have many words for a file that is none of ours
        if isinstance(error, OSError) and error.errno != errno.EINVAL or is_out_of_memory(error):
            raise  # of this machine, not of the file
        raise ValueError(first_line(error)[:200]) from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    if left:
        raise ValueError(f"nothing refers to its tensor {short(min(left))}")
    return found


def _taken_apart(value: Any, path: str, tensors: dict[str, Tensor], levels: int) -> Any:
    """`value` as JSON of at most so many levels has it; the tensors in it are put into `tensors`."""
    import torch

    needed = 1 if isinstance(value, torch.Tensor | dict) else 0  # each is written as a dictionary of texts or lists
    if levels < needed:
        raise ValueError(f"{short(path)}: nested more than {DEEPEST} levels")
    if isinstance(value, torch.Tensor):
        if path in tensors or path == "__metadata__":
            raise ValueError(f"{short(path)}: the file has another entry of this name")
        if _kind(value) not in KINDS:
            raise ValueError(f"{short(path)}: a tensor of {_kind(value)}, which cannot be written")
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str | int)]:
            raise TypeError(f"{path}: a key is {odd[0]!r}, expected a text or a whole number")
        inside = {key: f"{path}/{key}" if path else str(key) for key in value}
        for key in value:
            _ensure_whole(key, inside[key])
        values = [_taken_apart(one, inside[key], tensors, levels - 2) for key, one in value.items()]
        return {"keys": list(value), "values": values}
    if isinstance(value, list | tuple):
        return [_taken_apart(one, f"{path}/{i}", tensors, levels - 1) for i, one in enumerate(value)]
    _ensure_whole(value, path)
    return value


def _ensure_whole(value: Any, path: str) -> None:
    """ValueError: a whole number that would come back as a float."""
    if isinstance(value, int) and not -(2**63) < value < 2**63:
        raise ValueError(f"{short(path)}: a whole number beyond 64 bits")


def _tree(metadata: dict[str, str] | None) -> Any:
    """The data without their tensors, from a file's metadata. ValueError: there are none of this version's."""
    text = (metadata or {}).get(ENTRY)
    if text is None:
        raise ValueError("it is a safetensors file, but none of dasgm's")
    if len(text) > LARGEST:
        raise ValueError(f"its metadata is larger than {LARGEST // 2**20} MiB")
    found = plain(text)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        written = found.get("format") if isinstance(found, dict) else found
        raise ValueError(f"format {short(written)}, expected {FORMAT}")
    return found.get("state")


def _put_together(tree: Any, take: Callable[[str], Tensor]) -> Any:
    """The data with their tensors, each of which `take` gives once. `plain` has bounded their depth.

    Raises:
        ValueError: an entry is nothing that `packed` writes.
    """
    if isinstance(tree, list):
        return [_put_together(one, take) for one in tree]
    if not isinstance(tree, dict):
        return tree
    name, keys, values = tree.get("tensor"), tree.get("keys"), tree.get("values")
    if isinstance(name, str):
        return take(name)
    if not isinstance(keys, list) or not isinstance(values, list) or len(keys) != len(values):
        raise ValueError(f"neither a tensor nor a dictionary: {short(tree)}")
    if not all(isinstance(key, str | int) for key in keys):
        raise ValueError("a key is neither a text nor a whole number")
    if len(set(keys)) < len(keys):
        raise ValueError("a dictionary has a key twice")
    return dict(zip(keys, (_put_together(one, take) for one in values), strict=True))


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
        elif (old := path.with_suffix(".pt")).exists():
            say(
                printable(
                    f"{what} {old}: written by dasgm {legacy.VERSION}, which this version cannot read; it is made again"
                )
            )
        with shared(path) if torn else nullcontext():  # what lies in object storage is replaced too
            make()
            write_atomic(path, packed(state()))


def why_not_loaded(path: Path, state: Callable[[], dict[str, Any]], load: Callable[[dict[str, Any]], Any]) -> str:
    """Load a file; '' or why it is none that can be, with everything as it was before."""
    from dasgm.device import is_out_of_memory

    before = with_tensors(state(), lambda t: t.clone())
    try:
        load(unpacked(path))
    except (ValueError, ArithmeticError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        load(before)
        return first_line(error)[:100]
    return ""


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Plain data with each tensor in it changed."""
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: with_tensors(one, change) for key, one in value.items()}
    return type(value)(with_tensors(one, change) for one in value) if isinstance(value, list | tuple) else value
