"""What dasgm 0.1.0 wrote: it kept tensors in files of torch's own, which are no longer read. What it finished is
shown, and its result is used; what it left unfinished only it can finish."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dasgm.store.bucket import lies_at
from dasgm.store.records import ENDS, ensure_same, kept_record

if TYPE_CHECKING:
    from dasgm.store.run import Run

VERSION, FORMAT = "0.1.0", 1


def wrote(record: dict[str, Any]) -> bool:
    """Whether that version wrote a run.json or sweep.json."""
    return record.get("format") == FORMAT


def unfinished(folder: Path) -> ValueError:
    """There is something left to do in a folder of that version's."""
    what = f"run {lies_at(folder)}: written by dasgm {VERSION}"
    return ValueError(f"{what}: finish it with that version, or begin anew with --name OTHER")


def result(run: Run, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The last row of a run that that version finished; None: the run is not of that version.

    The row decides: a run that was killed between this row and its note of it still says that it runs.

    Raises:
        ValueError: it is not finished, or a setting that changes the mathematics differs from `identity`.
    """
    begun = kept_record(run.folder / "run.json")
    if not wrote(begun) and ("format" in begun or not any((run.folder / "checkpoints").glob("*.pt"))):
        return None
    last = (run.rows() or [{}])[-1]
    if last.get("phase") not in ENDS:
        raise unfinished(run.folder)
    ensure_same(f"run {run.folder}", begun.get("mathematics", {}), identity)
    return last
