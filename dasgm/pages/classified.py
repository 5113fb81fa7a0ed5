"""What the page of a trained network shows of its predictions, read from metrics.json and the pictures beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dasgm.measures.classification import no_better_than_one_answer
from dasgm.measures.intervals import WIDE, enough
from dasgm.pages.confusion import MAPPED, heat_map, reliability_chart
from dasgm.pages.pictures import embedded
from dasgm.pages.view import Json, is_number
from dasgm.store.records import read_json

MOST_BYTES = 30_000  # of an embedded picture, of which there are some dozens
CONFUSIONS = 15  # pairs of classes that are named
RATES = ("recall", "recall_low", "recall_high", "precision")
LISTED = 20  # classes up to which their table is open


def classified(folder: Path) -> Json:
    """What the template reads; {} where there is no metrics.json yet, or it is not as it should be."""
    return _sound(_content, folder, read_json(folder / "metrics.json"))


def compared(folder: Path) -> Json:
    """The same of against.json, which `dasgm report --against` writes."""
    return _sound(_comparison, folder, read_json(folder / "against.json"))


def _sound(of: Callable[[Path, Json], Json], folder: Path, found: Json) -> Json:
    try:
        return of(folder, found) if found else {}
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, OverflowError, AttributeError):
        return {}


def _comparison(folder: Path, found: Json) -> Json:
    counts = {key: int(found[key]) for key in ("pictures", "both_right", "only_this", "only_other", "both_wrong")}
    pictures = {key: pictures_of(folder, found[key]) for key in ("won", "lost")}
    return {"other": str(found["other"])} | counts | pictures


def _content(folder: Path, found: Json) -> Json:
    classes, matrix = [_row(one) for one in found["classes"]], found["confusion"]
    names = [one["name"] for one in classes]
    if len(matrix) != len(names) or any(len(row) != len(names) for row in matrix):
        raise ValueError("the matrix has not as many rows and columns as there are classes")
    wide = [one for one in classes if one["count"] and one["recall_high"] - one["recall_low"] > 2 * WIDE]
    return {
        "pictures": int(found["pictures"]),
        "accuracy": {key: float(found["accuracy"][key]) for key in ("value", "low", "high")},
        **{key: _number(found[key]) for key in ("balanced_accuracy", "nll")},
        "ece": _number(found["ece"]["value"]),
        "protocol": str(found["ece"]["protocol"]),
        "temperature": {key: _number(found["temperature"].get(key)) for key in ("value", "ece", "nll", "pictures")},
        "not_set": str(found["temperature"].get("why", "")),
        "classes": classes,
        "listed": len(names) <= LISTED,
        "doubts": no_better_than_one_answer(names, np.array(matrix)),
        "wide": len(wide),
        "enough": enough(),
        "heat": heat_map(matrix, names, "confusion matrix"),
        "mapped": MAPPED,
        "confusions": _confusions(matrix, names),
        "reliability": reliability_chart(found["ece"]["bins"], "accuracy over confidence"),
        "folds": [
            {key: _number(one[key]) for key in ("pictures", "accuracy", "balanced_accuracy", "nll", "ece")}
            for one in found.get("folds", [])
        ],
        "spread": {key: _number(found["spread"][key]) for key in ("mean", "sd", "n")} if "spread" in found else {},
        "mistakes": pictures_of(folder, found["mistakes"]),
        "wrong": sum(map(sum, matrix)) - sum(row[i] for i, row in enumerate(matrix)),
    }


def _row(one: Json) -> Json:
    """Of a class."""
    counts = {key: int(one[key]) for key in ("count", "predicted", "train")}
    return {"name": str(one["name"])} | counts | {key: _number(one[key]) for key in RATES}


def _number(value: Any) -> float | None:
    if value is not None and not (is_number(value) and math.isfinite(value)):
        raise ValueError(f"{value!r} is not a number")
    return value


def _confusions(matrix: list[list[int]], names: list[str]) -> list[tuple[str, str, int, float]]:
    """The most frequent mistakes: true class, predicted one, how often, and as a share of the true class."""
    pairs = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if n and i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [(names[i], names[j], n, n / sum(matrix[i])) for n, i, j in pairs[:CONFUSIONS]]


def pictures_of(folder: Path, listed: list[dict[str, Any]]) -> list[Json]:
    """Pictures that a record lists, embedded; those that cannot be read are left out."""
    found = ((one, embedded(folder / "pictures" / Path(str(one["file"])).name, MOST_BYTES)) for one in listed)
    told = ("picture", "true", "predicted")
    return [
        {key: str(one[key]) for key in told} | {"probability": _number(one["probability"])} | picture
        for one, picture in found
        if picture
    ]
