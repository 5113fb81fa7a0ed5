"""The test pictures that one trained network gets right and another one wrong (the paper's Figure 5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dasgm.config import from_json
from dasgm.jobs.evaluate import opened
from dasgm.jobs.predictions import keep_pictures
from dasgm.measures.answers import COLUMNS, Answers, answers, ensure_same_pictures, only_right
from dasgm.recipes import EvaluateConfig
from dasgm.store.files import write_atomic
from dasgm.store.records import read_json

AGAINST = "against.json"
MOST = 12  # pictures of each kind


def against(run: Path, other: Path) -> None:
    """Compare the predictions of `run` with those of `other`; write against.json and pictures into `run`'s folder.

    The pictures come from the data set that `run` was measured on.

    Raises:
        ValueError: one has no predictions, both were not measured on the same pictures, or the data set is not there.
    """
    ours, theirs = answers(run), answers(other)
    ensure_same_pictures(run, ours, other, theirs)
    won, lost = _shown(ours, theirs), _shown(theirs, ours)
    both = sum(ours[name].right and theirs[name].right for name in ours)
    shown = [(name, *theirs[name]) for name in won[:MOST]] + [(name, *ours[name]) for name in lost[:MOST]]
    files = keep_pictures(run, "against", _pictures(run, [name for name, *_ in shown]))
    listed = [dict(zip((*COLUMNS, "file"), (*one, file), strict=True)) for one, file in zip(shown, files, strict=True)]
    border = len(won[:MOST])
    name = str(read_json(other / "run.json").get("network") or other.absolute().name)
    found = {"format": 1, "other": name, "pictures": len(ours), "both_right": both}
    found |= {"only_this": len(won), "only_other": len(lost), "both_wrong": len(ours) - both - len(won) - len(lost)}
    write_atomic(run / AGAINST, json.dumps(found | {"won": listed[:border], "lost": listed[border:]}, indent=1))


def _shown(ours: Answers, theirs: Answers) -> list[str]:
    """The pictures that we get right and they wrong, those first of which they are most confident."""
    return sorted(only_right(ours, theirs), key=lambda name: -theirs[name].probability)


def _pictures(run: Path, names: Sequence[str]) -> list[Any]:
    """The test pictures of these names, as uint8 [3, S, S]. Of a run of folds each is a test picture of one fold."""
    if not names:
        return []
    config = from_json(read_json(run / "config.json"), EvaluateConfig)
    found, wanted = dict[str, Any](), set(names)
    for fold in range(1, config.folds + 1) if config.folds and not config.fold else (config.fold,):
        data = opened(replace(config, fold=fold), "cpu")
        places = {name: i for i in data.tested() if (name := data.test_name(i)) in wanted}
        found |= {name: data.test_picture(i) for name, i in places.items()}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"run {run}: {missing[0]} is no test picture of its data set any more; has it changed?")
    return [found[name] for name in names]
