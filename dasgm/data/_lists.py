"""Text tables that name the class of each picture: tiny-imagenet's val_annotations.txt, Kaggle's *.csv."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

TABLES = (".csv", ".tsv", ".txt")
DELIMITERS = (",", "\t", ";", " ")
LABELS = ("label", "labels", "class", "classes", "class_name", "classname", "category", "target", "breed", "species")
MOST_COLUMNS = 100

Rows = list[list[str]]


def classes_in(table: str, pictures: Sequence[str], classes: Collection[str] | None) -> list[str] | None:
    """The class of each of `pictures` according to `table`; None where that is not certain.

    One column must contain the name of every picture, with or without its ending, and each name must have one class.
    The classes are in the only other column whose values all begin with a word in `classes`. If `classes` is None, they
    are in the other of two columns, or in the one headed "label" or similar.

    Args:
        table: text of a file whose columns are separated by commas, tabs, semicolons or spaces.
        pictures: names of files, without folders.
        classes: the known names; None where only the table has them.
    """
    if len(set(pictures)) < len(pictures):
        return None
    for rows in _parsed(table):
        for column in range(min(3, len(rows[0]))):
            found = _matched(rows, column, pictures)
            if found is not None:
                return _labels(found, column, rows[0], classes)
    return None


def _parsed(table: str) -> Iterator[Rows]:
    """The rows, for each delimiter that gives at least two columns in every row."""
    lines = [line for line in table.splitlines() if line.strip()]
    for delimiter in DELIMITERS:
        try:
            rows = (
                [line.split() for line in lines] if delimiter == " " else list(csv.reader(lines, delimiter=delimiter))
            )
        except csv.Error:
            continue
        if rows and min(map(len, rows)) >= 2 and len(rows[0]) <= MOST_COLUMNS:
            yield rows


def _matched(rows: Rows, column: int, pictures: Sequence[str]) -> Rows | None:
    """The row of each picture, by the name in `column`; None if a picture has no row, or several that differ."""
    by_name: dict[str, list[str]] = {}
    several = set[str]()
    for row in rows:
        name = row[column].strip().replace("\\", "/").rpartition("/")[2]
        if by_name.setdefault(name, row) != row:
            several.add(name)
    found = []
    for picture in pictures:
        key = next((name for name in (picture, picture.rpartition(".")[0]) if name in by_name), None)
        if key is None or key in several:
            return None
        found.append(by_name[key])
    return found


def _labels(rows: Rows, names: int, header: list[str], classes: Collection[str] | None) -> list[str] | None:
    columns = [column for column in range(min(map(len, rows))) if column != names]
    if classes is not None:
        fits = [c for c in columns if all((row[c].split() or [""])[0] in classes for row in rows)]
        return [row[fits[0]].split()[0] for row in rows] if len(fits) == 1 else _whole(rows, columns, classes)
    if len(columns) > 1:
        columns = [column for column in columns if header[column].strip().lower() in LABELS]
    if len(columns) != 1:
        return None
    found = [row[columns[0]].strip() for row in rows]
    often = Counter(found)
    are_classes = all(found) and 2 <= len(often) <= len(found) // 2  # a number would differ from row to row
    return found if are_classes else None


def _whole(rows: Rows, columns: list[int], classes: Collection[str]) -> list[str] | None:
    """The same for class names of several words."""
    fits = [column for column in columns if all(row[column].strip() in classes for row in rows)]
    return [row[fits[0]].strip() for row in rows] if len(fits) == 1 else None
