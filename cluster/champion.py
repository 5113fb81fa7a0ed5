"""Which version of a registered model is its champion. A test on the same test pictures decides, never a mere error.

It reads the predictions.csv of trained models: a row for each test picture, with the columns `picture`, `true`,
`predicted` and `probability`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import binomtest

from dasgm.pages.tables import holm
from dasgm.store.files import short, text

ALIAS = "champion"
PREDICTIONS = "predictions.csv"
LARGEST = 2**28  # bytes of that file
LEVEL = 0.05
"""A challenger needs a smaller p, adjusted for the number of challengers."""


@dataclass(frozen=True)
class Contender:
    """A version of a registered model."""

    version: str
    run: str
    """Name of its run."""
    predictions: Path | None
    """Its predictions.csv, if there is one."""

    def __str__(self) -> str:
        return f"version {self.version} ({self.run})"


@dataclass(frozen=True)
class Duel:
    """Two models on the same test pictures."""

    won: int
    """Number of pictures that the challenger gets right and the champion gets wrong."""
    lost: int
    """The other way round."""
    p: float
    """Of McNemar's two-sided exact test (Psychometrika 12, 1947): that `won` and `lost` differ by chance."""


def duel(challenger: Path | None, champion: Path | None) -> Duel:
    """Compare the predictions of two models.

    Raises:
        ValueError: a file is missing or malformed, or they are about different pictures.
    """
    mine, its = _answers(challenger), _answers(champion)
    if {name: true for name, (true, _) in mine.items()} != {name: true for name, (true, _) in its.items()}:
        raise ValueError("they were measured on other test pictures")
    right = [(mine[name][0] == mine[name][1], its[name][0] == its[name][1]) for name in mine]
    won, lost = right.count((True, False)), right.count((False, True))
    return Duel(won, lost, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0)


def _answers(path: Path | None) -> dict[str, tuple[str, str]]:
    """For each picture its true and its predicted class."""
    if path is None:
        raise ValueError(f"one of them has no {PREDICTIONS}")
    try:
        rows = list(csv.DictReader(text(path, LARGEST).splitlines(keepends=True), strict=True))
    except csv.Error as error:
        raise ValueError(f"{path.name}: {error}") from None
    for row in rows:
        if None in (row.get("picture"), row.get("true"), row.get("predicted")):
            raise ValueError(f"{path.name}: expected the columns picture, true and predicted, found {short(list(row))}")
    found = {row["picture"]: (row["true"], row["predicted"]) for row in rows}
    if not found or len(found) < len(rows):
        raise ValueError(f"{path.name}: expected one row for each picture, found {len(rows)} for {len(found)}")
    return found


def decide(model: str, champion: Contender | None, others: Sequence[Contender]) -> tuple[Contender, list[str]]:
    """Who is champion from now on, and lines that say why.

    Without a champion the first of the others becomes it, without a test. Then it is replaced by a challenger that gets
    more pictures right and whose p, by Holm's method over all challengers, is less than `LEVEL`.

    Args:
        model: name of the registered model.
        champion: its present champion.
        others: contenders, the ones that are named first by what is known without the test pictures first.
    """
    lines = []
    if champion is None:
        champion = others[0]
        lines.append(f"{champion} is the {ALIAS} of {model}: there was none before, so nothing was compared")
    duels: dict[Contender, Duel] = {}
    for one in others:
        if one.version == champion.version:
            continue
        try:
            duels[one] = duel(one.predictions, champion.predictions)
        except (ValueError, OSError) as error:
            lines.append(f"{one} cannot be compared with the {ALIAS}, {champion}: {error}")
    if not duels:
        return champion, lines or [f"{champion} is the {ALIAS} of {model} already"]
    adjusted = dict(zip(duels, holm([found.p for found in duels.values()]), strict=True))
    better = [one for one, found in duels.items() if found.won > found.lost and adjusted[one] < LEVEL]
    best = max(better or duels, key=lambda one: duels[one].won - duels[one].lost)
    test = "McNemar's exact test" + (f", Holm's method over {len(duels)}" if len(duels) > 1 else "")
    said = (
        f"of the pictures that only one of them gets right, {best} has {duels[best].won} and {champion} has "
        f"{duels[best].lost}, p = {adjusted[best]:.2g} ({test})"
    )
    if better:
        return best, [*lines, f"{best} is the {ALIAS} of {model} now: {said}"]
    return champion, [*lines, f"{champion} stays the {ALIAS} of {model}: {said}, and p < {LEVEL:g} is needed"]
