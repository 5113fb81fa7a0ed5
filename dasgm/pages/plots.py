"""Plotly's figures in a folder, as a page shows them: read, checked, and packed with what draws them.

A page stays one file that works without a network: the library, 4.8 MB, and the figures are in it as gzip in base64,
which no text can leave, and are unpacked in the browser. Imports nothing of Plotly: its script is read as a file.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dasgm.pages.view import Json, is_number
from dasgm.store.files import gist, plain, text

FOLDER = "pictures"
NAMES = ("parallel", "importances", "history", "slices", "contours")
"""A sweep's pictures in the order of its page; those of a second objective end in -2."""
TYPES = frozenset({"scatter", "bar", "contour"})
LAYOUT = re.compile(
    r"[xy]axis\d*|annotations|bargap|barmode|coloraxis|font|height|hovermode|legend|margin|paper_bgcolor|plot_bgcolor"
    r"|shapes|showlegend|width"
)
"""What a figure may lay out. Among the rest are pictures from elsewhere, buttons and maps."""
MOST = 8 * 2**20  # bytes of one file
MOST_PACKED = 600_000  # bytes of all figures of a page, which has at most 3 MB
MOST_TRACES = 5000


@dataclass(frozen=True)
class Plot:
    """One picture: a figure, or why there is none."""

    name: str
    title: str
    note: str = ""
    figure: str = ""
    """Packed JSON; empty: `note` says why there is none."""
    least: int = 0
    """Pixels below which it gets no narrower."""

    @property
    def file(self) -> str:
        return f"{FOLDER}/{self.name}.json"


def paths(folder: Path) -> list[Path]:
    """The files of the pictures of a sweep, as far as they are there."""
    every = (folder / FOLDER / f"{name}{end}.json" for end in ("", "-2") for name in NAMES)
    return [path for path in every if path.is_file()]


def plots(folder: Path) -> list[Plot]:
    """The pictures of a sweep, of which a page has room for all; of one that has not, or is malformed, its file."""
    found, left = [], MOST_PACKED
    for path in paths(folder):
        one = _plot(path)
        if len(one.figure) > left:
            one = replace(one, figure="", note=f"It is too large for this page; its figure is in {one.file}.")
        left -= len(one.figure)
        found.append(one)
    return found


def _plot(path: Path) -> Plot:
    try:
        found = plain(text(path, MOST))
        data, layout = _sound(found)
        meta = layout.get("meta")
        about = meta if isinstance(meta, dict) else {}
        one = Plot(path.stem, str(about.get("title") or path.stem)[:200], str(about.get("note") or "")[:2000])
        if not data:
            return one
        layout = {key: value for key, value in layout.items() if LAYOUT.fullmatch(key)}
        least = layout.pop("width", 0)
        layout["height"] = _within(layout.get("height"), 200, 1600)
        figure = json.dumps({"data": data, "layout": layout}, allow_nan=False, separators=(",", ":"))
        return replace(one, figure=packed(figure.encode()), least=_within(least, 0, 4000))
    except (OSError, ValueError) as error:
        return Plot(path.stem, path.stem, f"{FOLDER}/{path.name} cannot be shown: {gist(error)}.")


def _sound(found: object) -> tuple[list[Json], Json]:
    """The traces and the layout of a figure. ValueError: it is no figure of those types."""
    data, layout = (found.get("data"), found.get("layout")) if isinstance(found, dict) else (None, None)
    if not isinstance(data, list) or not isinstance(layout, dict) or len(data) > MOST_TRACES:
        raise ValueError("no figure of Plotly")
    if not all(isinstance(trace, dict) and trace.get("type") in TYPES for trace in data):
        raise ValueError(f"expected traces of {', '.join(sorted(TYPES))} only")
    return data, layout


def _within(value: object, low: int, high: int) -> int:
    return int(min(max(value, low), high)) if is_number(value) else low


def packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


@cache
def library() -> str:
    """Plotly's script, packed; empty where the package is not installed."""
    found = find_spec("plotly")
    path = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    return packed(path.read_bytes()) if path and path.is_file() else ""
