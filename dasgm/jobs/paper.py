"""The page of the paper's results of a storage, with the pictures that two trained networks differ on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dasgm.jobs.against import against
from dasgm.pages.gather import gathered, read
from dasgm.pages.paper import write
from dasgm.pages.paper_figures import opponents, shown_already
from dasgm.pages.view import RunView
from dasgm.store.files import first_line
from dasgm.store.replica import here, offer


def paper(place: str | Path, target: Path | None = None) -> list[Path]:
    """Write paper.html and paper.md of what ran in a storage, or in the folder of one sweep; their paths here.

    Args:
        place: the storage, a folder or an address, which gets the files too.
        target: another folder to write into.

    Raises:
        ValueError: there is no such folder, it is that of one run, or the storage does not answer.
    """
    storage = here(place, depth=2)
    if not storage.is_dir():
        raise ValueError(f"{place}: no such folder; name the one that holds your runs, such as runs")
    if (storage / "run.json").is_file():
        raise ValueError(f"{place}: the folder of one run; name the folder that holds your runs, such as runs")
    paths = of_runs(read(storage), str(place), target or storage)
    if target is None:
        for path in paths:
            offer(path)
    return paths


def of_runs(runs: Sequence[RunView], shown: str, folder: Path, commands_in: str | None = None) -> list[Path]:
    """The same of runs that were read, written into a folder.

    Args:
        shown: where the runs are, in words.
        commands_in: the storage that commands name, by default the same; '' the usual one.
    """
    found, why = gathered(runs, shown if commands_in is None else commands_in), ""
    for pair in opponents(found)[:1]:
        if shown_already(pair):
            break
        try:
            against(pair.ours.folder, pair.theirs.folder)
        except (ValueError, OSError) as error:
            why = first_line(error)
    return write(found, folder, shown, why)
