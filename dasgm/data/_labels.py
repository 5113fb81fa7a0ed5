"""Labels and class names of Parquet files, matched by name, so that a class has one number in all files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dasgm.data._pictures import first_ten
from dasgm.store.files import plain


@dataclass(frozen=True)
class Labels:
    """The label column of one file.

    Attributes:
        file, column: their names in messages.
        numbers: int64 [N].
        names: what the numbers mean; None where the file does not say.
        text: whether the column holds names, so that `names` has only those in use.
    """

    file: str
    column: str
    numbers: np.ndarray
    names: tuple[str, ...] | None
    text: bool = False

    def used(self) -> list[str]:
        """The names in use, in the order of their numbers."""
        assert self.names is not None
        return [self.names[number] for number in np.unique(self.numbers)]


def labels_of(file: str, schema: pa.Schema, column: str, values: pa.ChunkedArray) -> Labels:
    """Reads the labels of a file: whole numbers, with or without the names of a ClassLabel, or names as text.

    Raises:
        ValueError: the column has another type, a label is missing or has no name, or a name stands for two classes.
    """
    if pa.types.is_dictionary(values.type):
        inside = values.type.value_type
        if pa.types.is_integer(inside):
            values = values.cast(inside)
    else:
        inside = values.type
    text = pa.types.is_string(inside) or pa.types.is_large_string(inside)
    if not (text or pa.types.is_integer(inside)):
        raise ValueError(f"{file}: column '{column}' is {inside}, not whole numbers from 0, nor names: convert it")
    if values.null_count:
        row = values.is_null().index(True).as_py()
        raise ValueError(f"{file} row {row}: {column} is None ({values.null_count} nulls in all): give it a class")
    if text:
        return _named(file, column, values)
    try:
        numbers = values.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        raise ValueError(f"{file}: column '{column}' has numbers beyond 64 bits: is it another data set?") from None
    names = _class_names(schema, column)
    if twice := sorted(name for name, n in Counter(names or ()).items() if n > 1):
        raise ValueError(f"{file}: the class names of '{column}' have {first_ten(twice)} more than once: rename them")
    if names:
        ensure_within(file, column, numbers, len(names))
    return Labels(file, column, numbers, names)


def _named(file: str, column: str, values: pa.ChunkedArray) -> Labels:
    """Labels from a column of text. Only the names in use count."""
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    if not len(values):
        return Labels(file, column, np.empty(0, np.int64), (), True)
    whole = values.unify_dictionaries()
    try:
        words: list[str] = whole.chunk(0).dictionary.to_pylist()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: column '{column}' has names that are not UTF-8: convert it") from None
    indices = np.concatenate([chunk.indices.to_numpy() for chunk in whole.chunks]).astype(np.int64)
    names = tuple(sorted({words[i] for i in np.unique(indices)}))
    number = {name: label for label, name in enumerate(names)}
    translated = np.array([number.get(word, -1) for word in words], dtype=np.int64)
    return Labels(file, column, translated[indices], names, True)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The class names in Hugging Face's metadata, or None."""
    try:
        names = plain(schema.metadata[b"huggingface"].decode())["info"]["features"][label]["names"]
        return tuple(map(str, names)) if isinstance(names, list) and names else None
    except (TypeError, KeyError, ValueError):
        return None


def ensure_within(file: str, column: str, numbers: np.ndarray, classes: int) -> None:
    """Raises ValueError for a number that belongs to no class."""
    if len(wrong := np.flatnonzero((numbers < 0) | (numbers >= classes))):
        raise ValueError(
            f"{file} row {wrong[0]}: {column} is {numbers[wrong[0]]}, not 0 to {classes - 1}: is it another data set?"
        )


def classes_of(files: Sequence[Labels]) -> tuple[str, ...]:
    """The classes of the training files: the names of the first ClassLabel, else the sorted names, else the numbers up
    to the largest.

    Raises:
        ValueError: two files declare different classes.
    """
    declared = [one for one in files if one.names is not None and not one.text]
    for one in declared[1:]:
        if odd := sorted(set(one.names or ()) ^ set(declared[0].names or ())):
            raise ValueError(
                f"{one.file} and {declared[0].file} do not have the same classes: {first_ten(odd)} in one only; "
                "are they shards of one data set?"
            )
    if declared:
        return declared[0].names or ()
    if any(one.text for one in files):
        return tuple(sorted({name for one in files for name in one.names or ()}))
    largest, rows = max(int(one.numbers.max(initial=-1)) for one in files), sum(len(one.numbers) for one in files)
    if largest >= rows:
        raise ValueError(f"{files[0].file}: a label is {largest}, with {rows} pictures: is it another data set?")
    return tuple(map(str, range(largest + 1)))


def aligned(files: Sequence[Labels], classes: Sequence[str]) -> np.ndarray:
    """The labels of all files as int64 indices into `classes`, matched by name.

    Raises:
        ValueError: a class is not among them, or nothing tells what the numbers of a file mean.
    """
    return np.concatenate([_aligned(one, {name: i for i, name in enumerate(classes)}) for one in files])


def _aligned(one: Labels, number: dict[str, int]) -> np.ndarray:
    if one.names is None:
        if list(number) != list(map(str, range(len(number)))):
            raise ValueError(
                f"{one.file}: column '{one.column}' has numbers without class names, and other files have names "
                f"({first_ten(number)}): the meaning of the numbers is not certain; write all files with names"
            )
        ensure_within(one.file, one.column, one.numbers, len(number))
        return one.numbers
    if strangers := [name for name in one.used() if name not in number]:
        raise ValueError(
            f"{one.file}: column '{one.column}' has classes that the training files lack: {first_ten(strangers)}; "
            f"there are {first_ten(number)}"
        )
    return np.array([number.get(name, -1) for name in one.names], dtype=np.int64)[one.numbers]


def aligned_to(files: Sequence[Labels], classes: Sequence[str], known_as: str, aliases: dict[str, str]) -> np.ndarray:
    """The labels of a data set whose classes are known, matched by name, or as numbers where a file has no names.

    Args:
        known_as: name of the data set.
        aliases: other spellings of its classes.

    Raises:
        ValueError: a file names other classes, so it belongs to another data set, or a number is out of range.
    """
    number = {name: i for i, name in enumerate(classes)}
    found = []
    for one in files:
        if one.names is None:
            ensure_within(one.file, one.column, one.numbers, len(classes))
            found.append(one.numbers)
            continue
        names = [_spelled(name, aliases) for name in one.names]
        odd = [name for name, said in zip(one.names, names, strict=True) if said not in number]
        if odd or len(set(names)) < len(names) or (len(names) < len(classes) and not one.text):
            what = f"such as {first_ten(odd)}" if odd else f"only {len(set(names))} of them"
            raise ValueError(
                f"{one.file} is not {known_as}: its column '{one.column}' has other classes, {what}; read it with "
                "--dataset imagenet, or save a folder of pictures per class and use --dataset folder"
            )
        found.append(np.array([number[name] for name in names], dtype=np.int64)[one.numbers])
    return np.concatenate(found)


def ensure_order(files: Sequence[Labels], classes: Sequence[str], known_as: str, aliases: dict[str, str]) -> list[str]:
    """Checks that the numbers in files without class names have one meaning.

    Returns:
        A line to be printed if there are such files.

    Raises:
        ValueError: other files name the classes in another order, so that the numbers may have two meanings.
    """
    unnamed = [one.file for one in files if one.names is None]
    declared = [one for one in files if one.names is not None and not one.text]
    if not unnamed:
        return []
    for one in declared:
        if [_spelled(name, aliases) for name in one.names or ()] != list(classes):
            raise ValueError(
                f"{first_ten(unnamed)}: labels without class names, and {one.file} has the classes in another order: "
                "the meaning of the numbers is not certain; write all files with names"
            )
    return [
        f"{first_ten(unnamed)}: labels without class names, read as numbers of {known_as}'s classes: "
        f"{first_ten(f'{i} {name}' for i, name in enumerate(classes))}"
    ]


def _spelled(name: str, aliases: dict[str, str]) -> str:
    """The name of a class as the data set's own list spells it."""
    plain_name = name.strip().lower().replace(" ", "_").replace("-", "_")
    return aliases.get(plain_name, plain_name)
