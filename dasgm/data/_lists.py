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
    """The class of each of `pictures`, as `table` has it; None where that is not certain.

    A column must have the name of every picture, with its ending or without, and each name one class. The classes are
    the one other column whose first words are all in `classes`; without `classes`, of two columns the other, of more
    the one that is headed "label" or alike.

    Args:
        table: the text of a file, with commas, tabs, semicolons or spaces between columns.
        pictures: names of files, without folders.
        classes: the names that are known, None where the table alone has them.
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
    """The rows, by each delimiter that gives every row two columns or more."""
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
    """The row of each picture, by the name in `column`; None where one has none, or several that differ."""
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
    return found if all(found) and 2 <= len(often) <= len(found) // 2 else None  # else no classes, but numbers


def _whole(rows: Rows, columns: list[int], classes: Collection[str]) -> list[str] | None:
    """The same for class names of several words."""
    fits = [column for column in columns if all(row[column].strip() in classes for row in rows)]
    return [row[fits[0]].strip() for row in rows] if len(fits) == 1 else None
