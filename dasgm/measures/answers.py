"""What trained networks say of their test pictures (`predictions.csv`), and how often one is right and another is not.

Free of torch.
"""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dasgm.store.files import reason, short, text

PREDICTIONS = "predictions.csv"
COLUMNS = ("picture", "true", "predicted", "probability")
"""Its first columns. Others may follow."""
LARGEST = 2**28  # bytes of it


class Answer(NamedTuple):
    """What a network says of a picture, and what the picture shows."""

    true: str
    predicted: str
    probability: float

    @property
    def right(self) -> bool:
        return self.predicted == self.true


Answers = dict[str, Answer]
"""By the names of the pictures."""


def answers(path: Path) -> Answers:
    """The answers in a predictions.csv, or in that of a run's folder.

    Raises:
        ValueError: it is not there, or not one of ours.
    """
    file = path / PREDICTIONS if path.is_dir() else path
    try:
        head, *rows = filter(None, csv.reader(StringIO(text(file, LARGEST), newline=""), strict=True))
        if tuple(head[: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"its columns are {short(head)}, expected {', '.join(COLUMNS)}")
        found = {name: Answer(true, predicted, float(p)) for name, true, predicted, p, *_ in rows}
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no {PREDICTIONS}; expected the folder of a finished evaluation") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{file}: not the predictions of a run ({reason(error)})") from None
    if not found or len(found) < len(rows):
        raise ValueError(f"{file}: {len(rows)} lines on {len(found)} pictures; expected a line for each picture")
    return found


def ensure_same_pictures(first: Path, base: Answers, place: Path, other: Answers) -> None:
    """ValueError where `other`, of `place`, is about other pictures or classes than `base`, of `first`."""
    if odd := next(iter(other.keys() ^ base.keys()), ""):
        raise ValueError(
            f"{place} was measured on other pictures than {first} ({len(other):,} and {len(base):,}; {short(odd)} is "
            "in one alone); compare runs on one data set"
        )
    if odd := next((picture for picture, answer in base.items() if other[picture].true != answer.true), ""):
        raise ValueError(
            f"{place}: {short(odd)} is of class {short(other[odd].true)}, in {first} of {short(base[odd].true)}; "
            "compare runs on one data set"
        )


def only_right(ours: Answers, theirs: Answers) -> list[str]:
    """The pictures that we get right and they wrong."""
    return [picture for picture, answer in ours.items() if answer.right and not theirs[picture].right]
