"""Which version of a registered model is its champion. A test on the same test pictures decides, never a mere error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dasgm.measures.answers import PREDICTIONS, answers, ensure_same_pictures
from dasgm.pages.comparison import Duel, duel
from dasgm.pages.tables import holm

ALIAS = "champion"
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


def challenge(challenger: Path | None, champion: Path | None) -> Duel:
    """Compare the predictions of two models.

    Raises:
        ValueError: a file is missing or malformed, or they are about different pictures.
    """
    if challenger is None or champion is None:
        raise ValueError(f"one of them has no {PREDICTIONS}")
    mine, its = answers(challenger), answers(champion)
    ensure_same_pictures(champion, its, challenger, mine)
    return duel(mine, its)


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
            duels[one] = challenge(one.predictions, champion.predictions)
        except (ValueError, OSError) as error:
            lines.append(f"{one} cannot be compared with the {ALIAS}, {champion}: {error}")
    if not duels:
        return champion, lines or [f"{champion} is the {ALIAS} of {model} already"]
    adjusted = dict(zip(duels, holm([found.p for found in duels.values()]), strict=True))
    better = [one for one, found in duels.items() if found.won > found.lost and adjusted[one] < LEVEL]
    best = max(better or duels, key=lambda one: duels[one].won - duels[one].lost)
    test = "McNemar's mid-p test" + (f", Holm's method over {len(duels)}" if len(duels) > 1 else "")
    said = (
        f"of the pictures that only one of them gets right, {best} has {duels[best].won} and {champion} has "
        f"{duels[best].lost}, p = {adjusted[best]:.2g} ({test})"
    )
    if better:
        return best, [*lines, f"{best} is the {ALIAS} of {model} now: {said}"]
    worse = duels[best].won < duels[best].lost
    why = "a new one must have more" if worse else f"p < {LEVEL:g} is needed"
    return champion, [*lines, f"{champion} stays the {ALIAS} of {model}: {said}, and {why}"]
