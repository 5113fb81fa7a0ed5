"""The records of runs and sweeps: their JSON objects and lines, read to be shown, or to be changed and written back.

Free of torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from dasgm.options import option
from dasgm.store.bucket import lies_at
from dasgm.store.files import contents, plain, shown, text, write_atomic

FORMAT = 2
LONGEST = 64 * 2**20  # bytes of a .jsonl file
ENDS = ("best", "result")  # phases of the one line after the last epoch
OTHERS = {  # compared by their digests
    "data": "other images of this data set",
    **{"genotype": "another genotype", "network": "another network or other weights"},
}
ENDED = ("finished", "stopped", "failed")  # states of a run that is not continued
ENTRIES: dict[str, Any] = {  # of run.json and sweep.json: what each is
    **dict.fromkeys(("name", "title", "state", "reason", "command", "kind", "device", "objective", "preset"), str),
    **dict.fromkeys(
        ("dataset", "published", "commit", "machine", "measured_on", "host", "driver", "space", "truth"), str
    ),
    **dict.fromkeys(("started", "asked", "ended"), int | float | None),
    **dict.fromkeys(("epochs", "num_trials", "rung", "seed", "workers"), int),
    **dict.fromkeys(("parameters", "searched", "protocols", "mathematics", "config", "judge"), dict),
    **dict.fromkeys(("befell", "data_notes", "registered"), list),
    "threads": int | None,
    "sweep": str | None,
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, for reading only: {} if there is no file or it cannot be read."""
    try:
        return read_json_strict(path)
    except (OSError, ValueError):
        return {}


def read_json_strict(path: Path) -> dict[str, Any]:
    """The same, to be changed and written back: {} only if there is no such file.

    Raises:
        OSError: it cannot be read now. To take it for empty would erase it.
        ValueError: it is no JSON object.
    """
    try:
        found = plain(text(path))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, expected an object")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}; mend it, or begin anew under another --name") from None
    return found


def read_record(path: Path) -> dict[str, Any]:
    """run.json or sweep.json, for people: printable, without entries that are not what they should be (ENTRIES)."""
    return _record(read_json(path))


def kept_record(path: Path) -> dict[str, Any]:
    """The same, to continue the run. OSError, ValueError: see `read_json_strict`."""
    return _record(read_json_strict(path))


def _record(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shown(found).items() if key not in ENTRIES or _is(value, ENTRIES[key])}


def _is(value: Any, kind: Any) -> bool:
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool) and finite


def amend(path: Path, **changes: Any) -> None:
    """Change entries of a JSON object in a file, which stays as it is after an OSError or ValueError of
    `read_json_strict`."""
    write_atomic(path, json.dumps(read_json_strict(path) | changes, indent=1))


def ensure_only(folder: Path, record: str) -> None:
    """Refuse a folder that belongs to another kind of command.

    Args:
        record: what the command keeps in the folder: run.json or sweep.json.

    Raises:
        ValueError: the folder holds the other record, and not this one.
    """
    other, owner = ("sweep.json", "a sweep") if record == "run.json" else ("run.json", "a single run")
    if (folder / other).is_file() and not (folder / record).is_file():
        raise ValueError(f"{lies_at(folder)} belongs to {owner}: choose another --name")


def first_difference(begun: dict[str, Any], asked: dict[str, Any]) -> str | None:
    """The first setting whose value differs between the record and this command."""
    return next((key for key in asked | begun if begun.get(key) != asked.get(key)), None)


def another(what: str, key: str, begun: dict[str, Any], asked: dict[str, Any]) -> ValueError:
    """The error that says that `what` began with another value of the setting `key`."""
    return ValueError(
        f"{what} began with {key} = {begun.get(key)!r}, but this command asks for {asked.get(key)!r}; "
        f"choose another --name, or give {begun.get(key)!r}"
    )


def ensure_same(what: str, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises a ValueError that names the first difference, if `what` began with another identity."""
    another_network = begun.get("network") != asked.get("network")  # whose settings differ as well
    key = "network" if another_network else first_difference(begun, asked)
    if key in OTHERS:
        raise ValueError(f"{what} began with {OTHERS[key]}; choose another --name")
    if key == "gan_checkpoint":
        digests = begun.get(key), asked.get(key)
        old, new = (f"a pre-trained GAN ({one[:8]})" if one else "a GAN of its own" for one in digests)
        remedy = (
            f"give the {option('gan_checkpoint')} that it began with"
            if digests[0]
            else f"leave {option('gan_checkpoint')} and --pretrain out"
        )
        raise ValueError(
            f"{what} began with {old}, but this command asks for {new}; choose another --name, or {remedy}"
        )
    if key:
        raise another(what, key, begun, asked)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, for reading only; a torn last line is left out; [] if it cannot be read."""
    try:
        return kept_lines(path)
    except (OSError, ValueError):
        return []


def kept_lines(path: Path) -> list[dict[str, Any]]:
    """The same, to be changed and written back: [] only if there is no such file.

    Raises:
        OSError: it cannot be read now.
        ValueError: it is too large, or not a regular file.
    """
    try:
        lines = contents(path, LONGEST).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise ValueError(f"{path}: {error}; mend it, or move it away to begin it anew") from None
    rows = []
    for line in lines:
        try:
            rows.append(plain(line))
        except ValueError:
            break
    return [row for row in rows if isinstance(row, dict)]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that have what each has: epoch, phase and time, and numbers under names with a /."""
    return [row for row in read_lines(folder / "metrics.jsonl") if is_row(row)]


def is_row(row: dict[str, Any]) -> bool:
    """Whether it is a line of metrics.jsonl."""
    kinds = {"epoch": int, "phase": str, "time": int | float}
    values = [value for key, value in row.items() if "/" in key]
    return all(_is(row.get(key), kind) for key, kind in kinds.items()) and all(
        isinstance(value, int | float) for value in values
    )


def digest(value: Any) -> str:
    """SHA-256 of plain data, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
