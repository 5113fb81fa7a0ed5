"""What each table and figure of the paper is made of: searches of rows, and trainings of what they find. Data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dasgm.plugins import nearest
from dasgm.presets.published import SEEDS

IMAGENET = "imagenet"
Row = tuple[str, str]
"""A row, which is a preset or PRESET:GAN, and the data set on which it is searched."""

PAIRS = (("dasgm-darts", "darts-2nd"), ("dasgm-pdarts", "pdarts"), ("dasgm-pcdarts", "pcdarts"))
"""Rows that the paper compares, the most telling ones first."""
VALS = tuple(tuple(f"dasgm-{key}-val{n}" for n in (50, 30, 70)) for key in ("darts", "pdarts", "pcdarts"))
CIFAR = ("cifar100", "cifar10")  # the paper's claims are of the first


@dataclass(frozen=True)
class Searches:
    """The searches of a row on a data set, one a seed.

    Attributes:
        fidelity: whether FID and IS are measured while they run.
    """

    row: str
    dataset: str
    seeds: int
    fidelity: bool = False

    def name(self, label: str) -> str:
        """Of the folder. `label`: of the plan, '' or one that begins with a hyphen."""
        return f"{self.row.replace(':', '-')}-{self.dataset}{label}"

    def __str__(self) -> str:
        return f"searches of {self.row} on {self.dataset}"


@dataclass(frozen=True)
class Trainings:
    """The trainings from scratch of what searches found, or of known networks.

    Attributes:
        of: the searches; None: known networks are trained.
        tested: the data set.
        top: how many of the found genotypes are trained, the best first; 0: all.
        networks: the known networks.
    """

    of: Searches | None
    tested: str
    top: int = 0
    networks: tuple[str, ...] = ()

    def name(self, label: str) -> str:
        """Of the folder, see `Searches.name`."""
        if self.of is None:
            return f"known-networks-{self.tested}{label}"
        tested = "trained" if self.tested == self.of.dataset else self.tested
        return f"{self.of.name(label)}-{tested}"

    def __str__(self) -> str:
        if self.of is None:
            return f"trainings of {len(self.networks)} known networks on {self.tested}"
        where = "" if self.tested == self.of.dataset else f", searched on {self.of.dataset}"
        return f"trainings of {self.of.row} on {self.tested}{where}"


Part = Searches | Trainings


@dataclass(frozen=True)
class Result:
    """A table or a figure of the paper.

    Attributes:
        about: what it shows.
        rows: the searches that it needs, the most telling ones first.
        seeds: the paper's number of searches of each.
        trained: data set on which what they find is trained: 'same', 'imagenet', or '' if nothing is.
        fidelity: whether it shows FID and IS.
        known: known networks that are trained on ImageNet too.
    """

    about: str
    rows: tuple[Row, ...]
    seeds: int = SEEDS
    trained: str = "same"
    fidelity: bool = False
    known: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those on which is searched."""
        return tuple(dict.fromkeys(dataset for _, dataset in self.rows))

    def on(self, dataset: str) -> Result:
        """The same on one data set, which need not be one of the paper's."""
        own = tuple(row for row in self.rows if row[1] == dataset)
        return replace(self, rows=own or tuple(dict.fromkeys((name, dataset) for name, _ in self.rows)))

    def only(self, names: Sequence[str], what: str) -> Result:
        """The same of some of its rows. ValueError: it has no such row; `what` names the result."""
        there = list(dict.fromkeys(name for name, _ in self.rows))
        for name in names:
            if name not in there:
                raise ValueError(
                    f"--rows {name!r} is no row of {what}{nearest(name, there)}; expected one of {', '.join(there)}"
                )
        return replace(self, rows=tuple(row for row in self.rows if row[0] in names), known=())

    def parts(self, seeds: int) -> list[Part]:
        """Row by row: its searches, then the trainings of what they found."""
        found: list[Part] = []
        for row, dataset in self.rows:
            searches = Searches(row, dataset, seeds, self.fidelity)
            found.append(searches)
            if self.trained:
                tested = IMAGENET if self.trained == IMAGENET else dataset
                found.append(Trainings(searches, tested, int(self.trained == IMAGENET)))
        return [*found, *([Trainings(None, IMAGENET, networks=self.known)] if self.known else [])]


def _on(datasets: Sequence[str], *groups: Sequence[str]) -> tuple[Row, ...]:
    """Group by group, in each data set by data set, so that what is compared is complete soon."""
    return tuple((row, dataset) for group in groups for dataset in datasets for row in group)


KNOWN = tuple(f"torchvision:{name}" for name in ("googlenet", "mobilenet_v2", "shufflenet_v2_x2_0", "mnasnet1_0"))
"""Rows of Table 3 that torchvision has."""

RESULTS: dict[tuple[str, str], Result] = {
    ("table", "2"): Result("test errors on CIFAR", _on(CIFAR, *PAIRS, ("darts-1st",), *VALS)),
    ("table", "3"): Result(
        "test errors on ImageNet",
        (*_on(("cifar10",), *PAIRS), ("pdarts", "cifar100")),
        trained=IMAGENET,
        known=KNOWN,
    ),
    ("table", "4"): Result(
        "test errors by type of GAN",
        _on(("cifar100",), ("dasgm-darts", "dasgm-darts:stylegan2ada", "dasgm-darts:contragan")),
        seeds=1,
    ),
    ("table", "5"): Result("FID and IS", (("dasgm-darts", "cifar100"),), seeds=1, trained="", fidelity=True),
    ("table", "6"): Result("the t-test", _on(CIFAR, *PAIRS)),
    ("figure", "3"): Result(
        "cells",
        _on(("cifar10", "cifar100"), ("dasgm-darts", "darts-2nd"), ("darts-1st", "dasgm-darts-val50")),
        seeds=1,
        trained="",
    ),
    ("figure", "4"): Result("generated images", (("dasgm-darts", "cifar100"),), seeds=1, trained=""),
    ("figure", "5"): Result("pictures that one network gets right", _on(("cifar100",), PAIRS[0]), seeds=1),
}
"""By kind and number. Data sets of Figure 3: its text says CIFAR-10, its caption CIFAR-100."""


def result(kind: str, number: str) -> Result:
    """A table or a figure. ValueError: it is none that runs make."""
    if (kind, number) in RESULTS:
        return RESULTS[kind, number]
    known = [one for its, one in RESULTS if its == kind]
    expected = " or ".join(", ".join(known).rsplit(", ", 1))
    raise ValueError(f"{kind} {number!r}: expected {expected}, the {kind}s that runs make")
