"""The commands that make what the paper has: the searches of a row, and the trainings of what they find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dasgm.presets.published import SEEDS
from dasgm.presets.rows import PaperRow
from dasgm.store.files import shell_line


def _line(script: str, words: Sequence[str | Path], storage: str) -> str:
    elsewhere = ["--storage", storage] if storage not in ("", "runs") else []
    return shell_line(["python", script, *words, *elsewhere])


def name_of(row: PaperRow, dataset: str) -> str:
    """The name of the sweep that `searches` makes."""
    changes = (f"{path}-{str(value).lower()}" for path, value in row.changes.items())
    return "-".join([row.name.replace(":", "-"), *changes, dataset]).replace("_", "-")


def searches(row: PaperRow, dataset: str, seeds: int = SEEDS, storage: str = "") -> str:
    """The command that makes the searches of a row on a data set, at the paper's size."""
    words: list[str] = ["--rows", row.name, "--dataset", dataset, "--seeds", str(seeds)]
    if row.changes:
        words += ["--set", *row.key.split(" ")[1:]]
    words += ["--pretrain"] if row.config(dataset).freeze_gan else []
    return _line("tuning/reproduce.py", [*words, "--name", name_of(row, dataset)], storage)


def trainings(sources: Sequence[str | Path], dataset: str, storage: str = "") -> str:
    """The command that trains the networks of genotypes from scratch by the paper's recipe for a data set.

    Args:
        sources: genotypes, run folders, or known networks.
    """
    known = all(str(source).startswith("torchvision:") for source in sources)
    recipe = ["--recipe", "imagenet"] if known and dataset == "imagenet" else []
    return _line("cluster/evaluate.py", [*sources, *recipe, *_data(dataset)], storage)


def trainings_of_sweep(name: str, top: int, dataset: str, storage: str = "") -> str:
    """The same of the best genotypes of a sweep."""
    return _line("cluster/evaluate.py", ["--from-sweep", name, "--top", str(top), *_data(dataset)], storage)


def _data(dataset: str) -> list[str]:
    return ["--dataset", dataset, *(["--data-dir", "FOLDER"] if dataset == "imagenet" else [])]


def fills(row: PaperRow, tested: str, searched_on: str = "", seeds: int = SEEDS, storage: str = "") -> list[str]:
    """The commands that fill a row of the paper from nothing: its searches, then the trainings.

    Args:
        tested: the data set on which the networks are trained and tested.
        searched_on: the data set of the searches, by default the same.
        seeds: number of searches.
    """
    data = searched_on or tested
    found = trainings_of_sweep(name_of(row, data), seeds, tested, storage)
    return [searches(row, data, seeds, storage), found]
