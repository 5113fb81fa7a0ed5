"""Searches by two objectives: those that no other one beats (the Pareto front), and those within a bound.

The second objective is the size or the latency of the network that `dasgm evaluate` trains by default, `best/...` in
the last row of a search. Free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dasgm.measures.scores import SCORES
from dasgm.pages.view import Json, Ranked, RunView, ranking, read_trials
from dasgm.plugins import nearest
from dasgm.store.files import write_atomic

SECOND = {"parameters": "parameters", "multiply_adds": "multiply-adds", "latency": "latency, ms"}
"""What a second objective may be -> its title. Less is better."""
NAMES = {"params": "parameters", **{name: name for name in SECOND}}
Bounds = Mapping[str, float]
"""Second objective -> its largest value."""


@dataclass(frozen=True)
class Placed:
    """A finished search by two objectives."""

    ranked: Ranked
    value: float
    second: str
    cost: float
    front: bool
    """Whether no other search has at least its value for less, or a larger one for at most its cost."""


def metric(kind: str) -> str:
    """The key of a second objective in the last row of a search."""
    return f"best/{kind}"


def kind_of(second: str) -> str:
    """One of SECOND, from its `metric`."""
    return second.removeprefix("best/")


def written(one: Placed) -> str:
    """The cost of a search in digits: 1,234,567 parameters, 1.234 ms."""
    return f"{one.cost:,.3f}" if one.second == metric("latency") else f"{one.cost:,.0f}"


def placed(runs: Sequence[RunView], objective: str, second: str) -> list[Placed]:
    """The finished searches that have both objectives, the cheapest first, of equally cheap ones the best.

    Args:
        objective, second: their keys in the last row of a search.
    """
    both = [
        (one, one.value, cost)
        for one in ranking(runs, objective)
        if one.rank is not None and one.value is not None and (cost := one.run.last(second)) is not None
    ]
    found, best, at = [], -math.inf, math.inf
    for one, value, cost in sorted(both, key=lambda each: (each[2], -each[1])):
        front = value > best or (value == best and cost == at)
        best, at = (value, cost) if front else (best, at)
        found.append(Placed(one, value, second, cost, front))
    return found


def bounds(text: str, flag: str = "at-most") -> dict[str, float]:
    """Reads params=1e6, or several bounds with commas between them; '' is none.

    Raises:
        ValueError: it is no such list; what is wrong is named.
    """
    found: dict[str, float] = {}
    for word in text.split(",") if text else ():
        name, _, number = word.partition("=")
        kind = NAMES.get(name.strip().replace("-", "_"))
        if kind is None:
            raise ValueError(
                f"{flag} {word!r}: expected {', '.join(NAMES)}, as in params=1e6{nearest(name, list(NAMES))}"
            )
        try:
            most = float(number)
        except ValueError:
            most = math.nan
        if not (math.isfinite(most) and most > 0):
            raise ValueError(f"{flag} {word!r}: expected a number above 0 after =, as in {name}=1e6")
        if kind in found:
            raise ValueError(f"{flag} {text}: {kind} is bounded twice; give one number")
        found[kind] = most
    return found


def in_words(bounds: Bounds) -> str:
    """The bounds as in "at most 1e+06 parameters"."""
    return "at most " + " and ".join(f"{most:g} {SECOND[kind].replace(',', ' in')}" for kind, most in bounds.items())


def within(ranked: Sequence[Ranked], bounds: Bounds, where: str) -> list[Ranked]:
    """Those of some finished searches that keep all bounds, in their order.

    Raises:
        ValueError: none does (the smallest value there is, is named), or a search has no such number.
    """
    left = list(ranked)
    for kind, most in bounds.items():
        costs = [one.run.last(metric(kind)) for one in left]
        known = [cost for cost in costs if cost is not None]
        if left and not known:
            why = "--cost.kind latency measures it" if kind == "latency" else "an older version made them"
            raise ValueError(f"at-most {kind}={most:g}: the searches in {where} have no {metric(kind)} ({why})")
        left = [one for one, cost in zip(left, costs, strict=True) if cost is not None and cost <= most]
        if known and not left:
            raise ValueError(
                f"at-most {kind}={most:g}: no finished search in {where} has so few; the least is {min(known):g}"
            )
    return left


def markdown(found: Sequence[Placed], objective: str) -> str:
    """The front as a table, the cheapest first; '' where nothing is found."""
    if not found:
        return ""
    lines = [f"| trial | {SECOND[kind_of(found[0].second)]} | {objective} |", "|---|---|---|"]
    for one in found:
        if one.front:
            error = f" ± {one.ranked.error:.4f}" if one.ranked.error else ""
            lines.append(f"| {one.ranked.run.title} | {written(one)} | {one.value:.4f}{error} |")
    return "\n".join(lines) + "\n"


def content(runs: Sequence[RunView], objective: str, second: str) -> Json:
    """What a sweep's page shows of the front; {} before two searches with a `second` have finished."""
    from dasgm.pages.charts import fitted, scatter_chart

    title = SECOND.get(kind_of(second), "")
    found = placed(runs, objective, second) if title else []
    dots = [(one.cost, one.value, one.ranked.run.title, one.front) for one in found]
    share = any(score.metric == objective and score.share for score in SCORES.values())
    chart = fitted(scatter_chart, dots, title, f"{objective} against {title}", percent=share)
    return (
        {"chart": chart, "table": [(one, written(one)) for one in found if one.front], "title": title}
        if len(dots) > 1
        else {}
    )


def write(folder: Path, objective: str, second: str) -> None:
    """Write front.md and front.svg into a sweep's folder, once two searches have finished."""
    from dasgm.pages.charts import alone

    runs = read_trials(folder)
    if shown := content(runs, objective, second):
        write_atomic(folder / "front.md", markdown(placed(runs, objective, second), objective))
        write_atomic(folder / "front.svg", alone(shown["chart"]))
