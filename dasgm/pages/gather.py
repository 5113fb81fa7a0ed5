"""What the runs of a storage say of the paper's rows: records of runs -> lines of the tables. Free of torch.

A line is a row on a data set at one budget: runs of another size are never in its means.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dasgm.config import SearchConfig, from_json
from dasgm.measures.scores import FIRST
from dasgm.pages.budgets import Budget, of_search, of_training, scored_by
from dasgm.pages.tables import Row
from dasgm.pages.view import RunView, read_run
from dasgm.presets.published import CIFAR
from dasgm.presets.rows import row_of
from dasgm.store.run import runs

NETWORK = "torchvision:"  # how a row begins that is a known network


@dataclass(frozen=True)
class Line:
    """A row on a data set at one budget.

    Attributes:
        row: the key of a row of the paper, or the name of a known network.
        tested: the data set of its trainings; without trainings that of its searches.
        searched_on: the data set of its searches; '' of a known network.
        search: the budget of its searches; None of a known network.
        training: the budget of its trainings; None: nothing is trained.
        searches: its runs, one a seed, in whatever state.
        trainings: the trainings of each search that has some, in whatever state.
        seeds: the seeds of these searches.
        scored: the settings of the short training that gives the searches a score.
    """

    row: str
    tested: str
    searched_on: str
    search: Budget | None
    training: Budget | None
    searches: tuple[RunView, ...] = ()
    trainings: tuple[tuple[RunView, ...], ...] = ()
    seeds: tuple[int, ...] = ()
    scored: tuple[Any, ...] = ()

    @property
    def papers(self) -> bool:
        """Whether all was done at the paper's size."""
        return all(budget is None or budget.papers for budget in (self.search, self.training))

    @property
    def finished(self) -> tuple[RunView, ...]:
        """The searches that came to their end, in the order of their seeds."""
        return tuple(sorted((run for run in self.searches if run.state == "finished"), key=seed_of))

    @property
    def trained(self) -> tuple[RunView, ...]:
        """The trainings that came to their end, in the order of the searches' seeds."""
        return tuple(run for some in self.trainings for run in some if run.state == "finished")

    @property
    def by_seed(self) -> dict[tuple[int, int], RunView]:
        """The finished trainings by the seeds of the search and of the training."""
        each = zip(self.seeds, self.trainings, strict=True)
        return {(seed, seed_of(run)): run for seed, some in each for run in some if run.state == "finished"}

    @property
    def of_one_cell(self) -> bool:
        """Whether its values are of several trainings of one network, not of several searches."""
        return len([some for some in self.trainings if _values(some, "result/error")]) == 1

    def trained_to(self, key: str) -> Row:
        """`result/...` of the trainings: a value for each search, the mean over its trainings; of one search each.

        The hours are those of the searches.
        """
        each = [found for some in self.trainings if (found := _values(some, key))]
        values = each[0] if len(each) == 1 else [statistics.fmean(found) for found in each]
        planned = len(self.trainings[0]) if len(self.trainings) == 1 else len(self.trainings)
        return Row(self.row, planned, tuple(values), self.hours, ())

    @property
    def score(self) -> Row:
        """1 - the accuracy of the found networks after their short training."""
        values = tuple(1 - value for run in self.finished if (value := run.last(FIRST)) is not None)
        return Row(self.row, len(self.searches), values, self.hours, ())

    @property
    def hours(self) -> tuple[float, ...]:
        """Device hours of each finished search, without warm-up and proxy."""
        return tuple(value for run in self.finished if (value := run.last("cost/gpu_hours")) is not None)

    @property
    def parameters(self) -> tuple[float, ...]:
        """Of each trained network, or before there is one of those that `dasgm evaluate` would train by default."""
        if found := self.trained_to("result/parameters").values:
            return found
        return tuple(value for run in self.finished if (value := run.last("best/parameters")) is not None)

    @property
    def devices(self) -> tuple[str, ...]:
        """What the searches ran on."""
        return tuple(dict.fromkeys(str(run.info.get("device", "an unknown device")) for run in self.finished))

    @property
    def states(self) -> str:
        """The searches that have not finished, as in `1 running, 2 failed`."""
        found = Counter(run.state for run in self.searches if run.state != "finished")
        return ", ".join(f"{number} {state}" for state, number in found.items())


def _values(runs: Iterable[RunView], key: str) -> list[float]:
    """Of the finished ones."""
    return [value for run in runs if run.state == "finished" and (value := run.last(key)) is not None]


def seed_of(run: RunView) -> int:
    seed = run.config.get("seed", 0)
    return seed if isinstance(seed, int) else 0


@dataclass(frozen=True)
class Gathered:
    """All lines, those at the paper's size first, and what is of no row of the paper."""

    lines: tuple[Line, ...]
    others: Mapping[str, int] = field(default_factory=dict)
    """What the other runs are of -> their number."""
    number: int = 0
    """Number of runs."""
    seen: frozenset[str] = frozenset()
    """The data sets that some run read."""
    storage: str = ""
    """Where the runs lie, as commands name it."""

    def of(self, row: str, tested: str, searched_on: str | None = None) -> list[Line]:
        """The lines of a row on a data set. `searched_on`: by default the same data set."""
        data = tested if searched_on is None else searched_on
        return [one for one in self.lines if (one.row, one.tested, one.searched_on) == (row, tested, data)]

    def datasets(self, rows: Iterable[str]) -> list[str]:
        """CIFAR, and what else some rows were searched on."""
        wanted = set(rows)
        others = {one.searched_on for one in self.lines if one.row in wanted and one.searched_on}
        return [*CIFAR, *sorted(others - set(CIFAR))]


def read(storage: Path) -> list[RunView]:
    """The runs in a storage, or in the folder of one sweep."""
    return [read_run(folder) for folder in runs(storage)]


def gathered(found: Sequence[RunView], storage: str = "") -> Gathered:
    """The lines that some runs make: searches by row, data set and budget, and the trainings of what they found.

    Args:
        storage: see `Gathered`.
    """
    found = sorted(found, key=place_of)
    searches, others = _searches([run for run in found if _kind(run) == "search"])
    by_place = {place_of(run): group for group in searches.values() for run in group.runs}
    trainings = defaultdict[tuple[Any, ...], dict[str, list[RunView]]](lambda: defaultdict(list))
    for run in found:
        if _kind(run) != "evaluation":
            continue
        name, place = str(run.info.get("network", "")), next((one for one in _sources(run) if one in by_place), "")
        if place or name.startswith(NETWORK):
            of = by_place[place].key if place else (name, "", None, ())
            trainings[of, _dataset(run), of_training(run)][place].append(run)
        else:
            others[f"trainings of {name or run.info.get('genotype') or 'unknown networks'}"] += 1
    lines = [
        _line(of, searches.get(of), trained, dataset, budget) for (of, dataset, budget), trained in trainings.items()
    ]
    done = {of for of, *_ in trainings}
    lines += [_line(of, group, {}, of[1], None) for of, group in searches.items() if of not in done]
    lines.sort(key=_order)
    return Gathered(tuple(lines), dict(others), len(found), frozenset(map(_dataset, found)), storage)


@dataclass(frozen=True)
class _Group:
    """Searches of one row on one data set at one budget."""

    key: tuple[Any, ...]
    """(row, data set, budget, settings of the proxy)"""
    runs: list[RunView] = field(default_factory=list)


def _searches(found: Sequence[RunView]) -> tuple[dict[tuple[Any, ...], _Group], Counter[str]]:
    """Groups, and the number of searches that are of no row of the paper by what they are of."""
    groups, others, waiting = dict[tuple[Any, ...], _Group](), Counter[str](), list[RunView]()
    for run in found:
        name, sweep = str(run.parameters.get("row", "")), run.info.get("sweep")
        if name and not run.config:
            waiting.append(run)
            continue
        asked = name or (not sweep and "(Table 2)" in str(run.info.get("published", "")))
        config = _config(run) if asked else None
        row = row_of(config) if config else None
        if row is None or config is None:
            others[f"searches of {name or sweep or run.title}"] += 1
            continue
        key = (row.key, _dataset(run), of_search(run, config, row), scored_by(config))
        groups.setdefault(key, _Group(key)).runs.append(run)
    for run in waiting:  # has no settings yet: those of the others of its sweep and row
        mates = (group for group in groups.values() if any(_mates(run, one) for one in group.runs))
        if group := next(mates, None):
            group.runs.append(run)
        else:
            others[f"searches of {run.parameters['row']}, not begun"] += 1
    return groups, others


def _mates(one: RunView, other: RunView) -> bool:
    """Whether both are of one row of one sweep."""
    return all(a and a == b for a, b in zip(_of_sweep(one), _of_sweep(other), strict=True))


def _of_sweep(run: RunView) -> tuple[Any, Any]:
    return run.info.get("sweep"), run.parameters.get("row")


def _line(
    of: tuple[Any, ...],
    group: _Group | None,
    trained: Mapping[str, Sequence[RunView]],
    tested: str,
    training: Budget | None,
) -> Line:
    row, searched_on, budget, scored = of
    searches = tuple(group.runs) if group else ()
    seeds = {place_of(run): seed_of(run) for run in searches}
    each = sorted(trained, key=lambda place: seeds.get(place, 0))
    trainings = tuple(tuple(sorted(trained[place], key=seed_of)) for place in each)
    order = tuple(seeds.get(place, 0) for place in each)
    return Line(row, tested, searched_on, budget, training, searches, trainings, order, scored)


def _order(line: Line) -> tuple[Any, ...]:
    """Those at the paper's size first, then by what they are."""
    differ = (budget.whole if budget else "" for budget in (line.search, line.training))
    return not line.papers, line.row, line.tested, line.searched_on, *differ


def _kind(run: RunView) -> str:
    return str(run.info.get("kind", "search"))


def _config(run: RunView) -> SearchConfig | None:
    """None: of another version."""
    try:
        found: SearchConfig = from_json(run.config)
    except (ValueError, TypeError, AttributeError):
        return None
    return found


def _dataset(run: RunView) -> str:
    data = run.config.get("data")
    return str(data.get("key", "")) if isinstance(data, dict) else ""


def place_of(run: RunView) -> str:
    """By what a training names its search: sweep and trial, or the name of a lone run."""
    sweep, name = run.info.get("sweep"), str(run.info.get("name") or run.folder.name)
    return f"{sweep}/{name}" if sweep else name


def _sources(run: RunView) -> list[str]:
    """What the search may be called whose network a training trains, by what its record says."""
    searched = run.info.get("searched")
    if isinstance(searched, dict) and (trial := searched.get("trial")):
        sweep = searched.get("sweep")
        return [str(searched.get("run", "")), f"{sweep}/{trial}" if sweep else str(trial)]
    parts = Path(str(run.info.get("genotype", ""))).parts
    parts = parts[:-1] if parts[-1:] == ("genotype.json",) else parts
    return ["/".join(parts[-2:]), *parts[-1:]] if parts else []
