"""The page of the paper's results: the runs of a storage -> paper.html, which is self-contained, and paper.md."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from dasgm._version import __version__
from dasgm.pages.gather import Gathered
from dasgm.pages.paper_figures import figure_3, figure_4, figure_5, table_5
from dasgm.pages.paper_tables import ablations, differences, table_2, table_3, table_4, table_6
from dasgm.pages.report import template_named
from dasgm.pages.sheets import Sheet, markdown
from dasgm.pages.words import moment
from dasgm.store.files import printable, write_atomic

NAMES = ("paper.html", "paper.md")
TITLE = "The paper's results"
LEGEND = (
    "Each figure is computed from the runs in this storage. Figures of the paper stand only in columns that are named "
    "so. A run is compared with the paper's protocol setting by setting: what was made at another budget is marked, "
    "and is in no mean with what was not."
)
PRICE = (
    "A command continues where it was stopped. With --dry-run it says what it costs on the machine where it is given: "
    "hours, memory and disk."
)
NO_DATA = "No data: no run of this storage read that data set."


def sheets(found: Gathered, why: str = "") -> list[Sheet]:
    """The page's parts. `why`: see `figure_5`."""
    of_runs = (table_2, table_3, table_4, table_5, table_6, ablations, figure_3, figure_4)
    return [*(sheet(found) for sheet in of_runs), figure_5(found, why), differences(found)]


def about(found: Gathered, shown: str) -> list[str]:
    """Lines about the storage: how many runs there are, and which are of no row of the paper."""
    said = [f"{found.number} run{'s' * (found.number != 1)} in {printable(shown)}."]
    if found.others:
        listed = "; ".join(f"{printable(what)}: {number}" for what, number in sorted(found.others.items()))
        said.append(f"Left out, because they are of no row of the paper, or have not begun: {listed}.")
    return said


def write(found: Gathered, folder: Path, shown: str, why: str = "") -> list[Path]:
    """Write paper.html and paper.md into a folder; their paths.

    Args:
        shown: where the runs are, in words.
        why: see `figure_5`.
    """
    parts, said, now = sheets(found, why), about(found, shown), datetime.now().timestamp()
    content = {
        "name": TITLE,
        "legend": [LEGEND, PRICE, NO_DATA],
        "about": said,
        "sheets": parts,
        "storage": found.storage,
    }
    page = template_named("paper.html.jinja").render(content, version=__version__, written=now)
    head = [f"# {TITLE}", f"Written {moment(now)} by dasgm {__version__}.", *said, LEGEND, PRICE, NO_DATA]
    contents: Sequence[str] = (page, markdown(parts, head))
    paths = [folder / name for name in NAMES]
    for path, text in zip(paths, contents, strict=True):
        write_atomic(path, text.encode("utf-8", "replace"))
    return paths
