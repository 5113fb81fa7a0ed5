"""Finds the Parquet files of a data set's parts by their names, as Hugging Face's tools write them.

A data set is one folder (its configuration). For each part it has `train.parquet`, `train-00000-of-00003.parquet` (from
2022 to 2023 with a hash at the end), `NAME-train-...`, or a folder `train/` or `partial-train/` with `0000.parquet`.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from dasgm.data._clutter import is_clutter, kind_of
from dasgm.data._inventory import Inventory
from dasgm.data._layout import PARTS as FOLDERS
from dasgm.data._pictures import first_ten
from dasgm.data._store import Store
from dasgm.data._tree import folders_in, scan
from dasgm.options import option

# names of parts: those of folders, and two more that Hugging Face's datasets knows
PARTS = FOLDERS | {"val": (*FOLDERS["val"], "dev"), "test": (*FOLDERS["test"], "evaluation")}
PART_OF = {word: part for part, words in PARTS.items() for word in words}
MOST_DEEP, MOST_FOLDERS = 4, 100  # Parquet files are looked for to this depth, and in this many folders side by side
NUMBERED = re.compile(r"(.*?)[-_. ]?(\d+)-of-(\d+)(-[0-9a-f]{16})?", re.IGNORECASE)
COUNTED = re.compile(r"(.*?)[-_. ]?(?<!\d)(0\d*|\d{1,3})")
DEFAULT = ("", "data")  # folders of Hugging Face's configuration "default"


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a part.

    Attributes:
        path: its path below the root.
        size: its size in bytes.
        part: "train", "val" or "test".
        spelled: the part as its name writes it.
        place: folder of its configuration, below the root.
        variant: what its name has besides part and number.
        number, total: as in 00000-of-00003; None where the name has none.
    """

    path: str
    size: int
    part: str
    spelled: str
    place: str
    variant: str
    number: int | None = None
    total: int | None = None

    @property
    def config(self) -> str:
        """Its configuration, as the setting `config` names it."""
        return "/".join(filter(None, (self.place, self.variant))) or "."


@dataclass(frozen=True)
class ShardSet:
    """The shards of each part, sorted by path.

    Attributes:
        parts: the shards of each part that exists.
        strangers: Parquet files whose names tell no part.
        ignored: number of other files that are left out, by kind.
    """

    parts: dict[str, tuple[Shard, ...]]
    strangers: tuple[str, ...]
    ignored: dict[str, int]

    def notes(self, store: Store, *used: str) -> list[str]:
        """Lines to be printed: what is left out, and what is known to be incomplete.

        Args:
            used: the parts that are read.
        """
        notes = Inventory(store.name(""), ignored=self.ignored).lines()
        if self.strangers:
            notes.append(
                f"{store.name('')}: not used: Parquet files whose names tell no part: {first_ten(self.strangers)}"
            )
        if unused := [part for part in self.parts if part not in used]:
            notes.append(f"{store.name('')}: not used: Parquet files of {' and '.join(unused)}")
        partial = [part for part in used if self.parts[part][0].spelled.startswith("partial-")]
        if partial:
            notes.append(f"{store.name('')}: only the beginning of {' and '.join(partial)}, says its folder's name")
        return notes

    def besides(self) -> str:
        """For a message about missing files: the Parquet files whose names tell no part."""
        return f" (the name of {first_ten(self.strangers)} tells no part)" if self.strangers else ""


def find(store: Store, config: str = "") -> ShardSet:
    """Finds the Parquet files of the data set below the store's root.

    Args:
        config: which of several data sets side by side is meant, by its folder or by what its files' names have besides
            the part.

    Raises:
        ValueError: there are several data sets and none is chosen, the chosen one or a shard is missing, shards of two
            uploads lie side by side, or the store cannot be listed.
    """
    files = sorted(_walk(store, "", MOST_DEEP, set()))
    left = Counter(kind for path, _ in files if (kind := kind_of(PurePosixPath(path).name)))
    files = [file for file in files if not is_clutter(PurePosixPath(file[0]).name)]
    read = {file: parsed(*file) for file in files}
    shards = [shard for shard in read.values() if shard]
    strangers = tuple(path for (path, _), shard in read.items() if shard is None)
    if config and not shards:
        raise ValueError(
            f"{option('data.config')} {config:.80}: {store.root} has no Parquet files of a part; leave it out"
        )
    chosen = _chosen(store, shards, config)
    parts: dict[str, list[Shard]] = defaultdict(list)
    for shard in chosen:
        parts[shard.part].append(shard)
    for part in parts.values():
        _check(store, part)
    left["Parquet files of other configurations"] = len(shards) - len(chosen)
    listed = {name: tuple(part) for name, part in parts.items()}
    return ShardSet(listed, strangers, {kind: n for kind, n in left.items() if n})


def _walk(store: Store, folder: str, depth: int, seen: set[str]) -> Iterator[tuple[str, int]]:
    """Paths and sizes of Parquet files. A folder that links lead to is read once."""
    entries = scan(store, folder)
    for entry in entries:
        if entry.kind == "broken" and entry.name.lower().endswith(".parquet"):
            raise ValueError(f"{store.name(entry.path)} cannot be read ({entry.problem}): repair or remove it")
        if entry.kind == "file" and entry.name.lower().endswith(".parquet"):
            yield entry.path, entry.size
    folders = folders_in(entries)
    if not depth or len(folders) > MOST_FOLDERS:  # class folders
        return
    for entry in folders:
        real = os.path.realpath(os.path.join(store.local, entry.path)) if store.local is not None else entry.path
        if real not in seen:
            seen.add(real)
            yield from _walk(store, entry.path, 0 if folder_part(entry.name) else depth - 1, seen)


# names


def parsed(path: str, size: int = 0) -> Shard | None:
    """What the name of a Parquet file says, or None where it tells no part."""
    file, folder = PurePosixPath(path), PurePosixPath(path).parent
    stem, number, total = file.name[: -len(".parquet")], None, None
    if match := NUMBERED.fullmatch(stem):
        stem, number, total = match[1], int(match[2]), int(match[3])
    elif match := COUNTED.fullmatch(stem):
        stem, number = match[1], int(match[2])
    words = [word for word in re.split(r"[-_. ]+", stem) if word]
    named = [word for word in words if word.lower() in PART_OF]
    above = folder_part(folder.name)
    if len({PART_OF[word.lower()] for word in named}) > 1:
        return None
    if not named:
        if not above:
            return None
        return Shard(path, size, above, folder.name.lower(), _place(folder.parent), "", number, total)
    part = PART_OF[named[0].lower()]
    words.remove(named[0])
    place, spelled = folder, named[0].lower()
    if above == part:
        place = folder.parent
        spelled = folder.name.lower() if folder.name.lower().startswith("partial-") else spelled
    return Shard(path, size, part, spelled, _place(place), "-".join(words), number, total)


def folder_part(name: str) -> str | None:
    """The part that a folder of this name holds, or None."""
    return PART_OF.get(name.lower().removeprefix("partial-"))


def _place(folder: PurePosixPath) -> str:
    return "" if str(folder) == "." else str(folder)


# which data set


def _chosen(store: Store, shards: list[Shard], config: str) -> list[Shard]:
    """The shards of the data set called `config`, or of the only one."""
    sets: dict[str, list[Shard]] = defaultdict(list)
    for shard in shards:
        sets[shard.config].append(shard)
    if not config:
        if len(sets) < 2 or _together(shards):
            return shards
        raise ValueError(
            f"{store.root} has {len(sets)} data sets side by side: {_offered(sets)}; choose one with "
            f"{option('data.config')} NAME, or move the others away"
        )
    asked = config.strip("/") or config
    wanted = [name for name in sets if name == asked]
    if not wanted and asked == "default":
        wanted = [name for name, some in sets.items() if some[0].place in DEFAULT and not some[0].variant]
    wanted = wanted or [name for name in sets if name.rpartition("/")[2] == asked]
    found = [shard for shard in shards if shard.config in wanted]
    if not found or (len(wanted) > 1 and not _together(found)):
        raise ValueError(
            f"{option('data.config')} {config:.80}: {store.root} has {_offered(sets)}; give one of these names"
        )
    return found


def _together(shards: list[Shard]) -> bool:
    """Whether the shards lie in the root and in its `data/`, and no part in both.

    Hugging Face reads this as one data set.
    """
    places = {shard.part: shard.config for shard in shards}
    return {s.config for s in shards} <= {".", "data"} and all(places[s.part] == s.config for s in shards)


def _offered(sets: dict[str, list[Shard]]) -> str:
    """The names for the setting `config`, such as 'mini (mini/train.parquet), ...'."""
    return first_ten(f"{name} ({shards[0].path})" for name, shards in sorted(sets.items()))


# whether all its shards are there


def _check(store: Store, shards: list[Shard]) -> None:
    """Raises ValueError where shards of a part are missing or come from two uploads."""
    if paths := _of_two_uploads(shards):
        raise ValueError(
            f"{store.root} has shards of {shards[0].part} from two uploads side by side: {first_ten(paths)}; keep "
            "those of one and move the others away"
        )
    numbers = {shard.number: shard.path for shard in shards if shard.number is not None}
    if numbers:
        _ensure_complete(store, shards[0], numbers)


def _of_two_uploads(shards: list[Shard]) -> list[str]:
    """Paths of shards that cannot come from the same upload; [] if all can."""
    kinds: dict[tuple[str, bool, int | None], str] = {}
    for shard in shards:
        kinds.setdefault((shard.spelled, shard.number is None, shard.total), shard.path)
    if len(kinds) > 1:
        return list(kinds.values())
    numbers: dict[int, str] = {}
    for shard in shards:
        if shard.number is not None and (before := numbers.setdefault(shard.number, shard.path)) != shard.path:
            return [before, shard.path]
    folders = {PurePosixPath(shard.path).parent for shard in shards}
    if not numbers and len(shards) > 1 and (len(folders) > 1 or any(_named(shard) for shard in shards)):
        return [shard.path for shard in shards]
    return []


def _ensure_complete(store: Store, first: Shard, numbers: dict[int, str]) -> None:
    """Raises ValueError unless the numbers of a part's shards have no gap.

    They count from 0, or without a total perhaps from 1.
    """
    low = 0 if first.total is not None else min(1, *numbers)
    total = first.total if first.total is not None else max(numbers) - low + 1
    if stray := [path for number, path in numbers.items() if number >= low + total]:
        raise ValueError(f"{store.name(stray[0])}: its number is beyond the {total} shards that there are: rename it")
    lack = total - len(numbers)
    if lack:
        missing = (_numbered(first, n) for n in range(low, low + total) if n not in numbers)
        named = ", ".join(islice(missing, 10)) + (f" and {lack - 10} more" if lack > 10 else "")
        raise ValueError(
            f"{store.root} has {len(numbers)} of {total} shards of {first.part}: {named} "
            f"{'is' if lack == 1 else 'are'} missing; add the others"
        )


def _named(shard: Shard) -> bool:
    """Whether the name of the file itself tells the part, so that the part has one file."""
    return parsed(PurePosixPath(shard.path).name) is not None


def _numbered(like: Shard, number: int) -> str:
    """The path of the shard with this number, named as `like` is, with any hash."""
    path = PurePosixPath(like.path)
    stem = path.name[: -len(".parquet")]
    tail = ""
    if match := NUMBERED.fullmatch(stem):
        tail = "-of-" + match[3] + ("-*" if match[4] else "")
    else:
        match = COUNTED.fullmatch(stem)
    assert match is not None
    begin, end = match.span(2)
    return str(path.with_name(f"{stem[:begin]}{number:0{end - begin}d}{tail}.parquet"))
