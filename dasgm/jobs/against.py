"""The test pictures that one trained network gets right and another one wrong (the paper's Figure 5)."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from dasgm.config import from_json
from dasgm.jobs.evaluate import opened
from dasgm.jobs.predictions import COLUMNS, PREDICTIONS, keep_pictures
from dasgm.recipes import EvaluateConfig
from dasgm.store.files import reason, text, write_atomic
from dasgm.store.records import read_json

AGAINST = "against.json"
MOST = 12  # pictures of each kind


class Said(NamedTuple):
    """What a network says of a picture, and what it shows."""

    true: str
    predicted: str
    probability: float

    @property
    def right(self) -> bool:
        return self.predicted == self.true


def predictions_of(run: Path) -> dict[str, Said]:
    """What predictions.csv says of each picture, by its name. ValueError: there is none, or it is not one of ours."""
    path = run / PREDICTIONS
    try:
        rows = list(csv.reader(StringIO(text(path), newline="")))
        if tuple(rows[0][: len(COLUMNS)]) != COLUMNS:
            raise ValueError(f"its first columns are not {', '.join(COLUMNS)}")
        return {name: Said(true, predicted, float(p)) for name, true, predicted, p, *_ in rows[1:]}
    except FileNotFoundError:
        raise ValueError(
            f"run {run}: there is no {PREDICTIONS}; an evaluation writes it when it has finished"
        ) from None
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise ValueError(f"{path}: not the predictions of an evaluation ({reason(error)})") from None


def against(run: Path, other: Path) -> None:
    """Compare the predictions of `run` with those of `other`; write against.json and pictures into `run`'s folder.

    The pictures come from the data set that `run` was measured on.

    Raises:
        ValueError: one has no predictions, both were not measured on the same pictures, or the data set is not there.
    """
    ours, theirs = predictions_of(run), predictions_of(other)
    if ours.keys() != theirs.keys() or any(ours[name].true != theirs[name].true for name in ours):
        alike = len(ours.keys() & theirs.keys())
        raise ValueError(
            f"--against {other}: it was not measured on the same pictures ({len(ours):,} and {len(theirs):,}, of which "
            f"{alike:,} have the same names); evaluate both on the same data set"
        )
    won, lost = _only_right(ours, theirs), _only_right(theirs, ours)
    both = sum(ours[name].right and theirs[name].right for name in ours)
    shown = [(name, *theirs[name]) for name in won[:MOST]] + [(name, *ours[name]) for name in lost[:MOST]]
    files = keep_pictures(run, "against", _pictures(run, [name for name, *_ in shown]))
    listed = [dict(zip((*COLUMNS, "file"), (*one, file), strict=True)) for one, file in zip(shown, files, strict=True)]
    border = len(won[:MOST])
    found = {"format": 1, "other": other.absolute().name, "pictures": len(ours), "both_right": both}
    found |= {"only_this": len(won), "only_other": len(lost), "both_wrong": len(ours) - both - len(won) - len(lost)}
    write_atomic(run / AGAINST, json.dumps(found | {"won": listed[:border], "lost": listed[border:]}, indent=1))


def _only_right(ours: dict[str, Said], theirs: dict[str, Said]) -> list[str]:
    """The pictures that we get right and they wrong, those first of which they are most confident."""
    names = [name for name in ours if ours[name].right and not theirs[name].right]
    return sorted(names, key=lambda name: -theirs[name].probability)


def _pictures(run: Path, names: Sequence[str]) -> list[Any]:
    """The test pictures of these names, as uint8 [3, S, S]."""
    if not names:
        return []
    config = from_json(read_json(run / "config.json"), EvaluateConfig)
    data = opened(config, "cpu")
    places = {data.test_name(i): i for i in data.tested()}
    if missing := [name for name in names if name not in places]:
        raise ValueError(f"run {run}: {missing[0]} is no test picture of its data set any more; has it changed?")
    return [data.test_picture(places[name]) for name in names]
