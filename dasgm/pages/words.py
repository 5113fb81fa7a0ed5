"""Values in words, for the result page."""

from __future__ import annotations

import re
from datetime import datetime

from markupsafe import Markup

from dasgm.measures.scores import Score


def percent(value: float | None, error: float | None = None, digits: int = 1) -> str:
    """`93.1 ± 1.2 %` of 0.931 and 0.012; a dash of None."""
    if value is None:
        return "–"
    spread = f" ± {100 * error:.{digits}f}" if error else ""
    return f"{100 * value:.{digits}f}{spread} %"


def scored(value: float | None, score: Score, error: float | None = None) -> str:
    """A share as `percent`, another score to one digit; a dash of None."""
    if score.share or value is None:
        return percent(value, error)
    return f"{value:,.1f}"


def number(value: object) -> str:
    """A parameter's value: floats to three digits, a dash for what does not apply."""
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `7 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(seconds: object) -> str:
    try:
        when = datetime.fromtimestamp(float(seconds)).astimezone()  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return "not yet"
    return f"{when.day} {when:%B %Y, %H:%M %Z}"


def breakable(name: str) -> Markup:
    """A name that may wrap after its underscores, hyphens, slashes, colons and dots."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_/:.])(?=.)", name))


def command(line: str) -> Markup:
    """A command line that does not wrap after the hyphens of an option."""
    words = re.split(r"(?<!\S)(--?[a-z][\w.-]*)", line)
    return Markup("").join(
        Markup('<span class="flag">{}</span>').format(w) if i % 2 else w for i, w in enumerate(words)
    )


def per_row(count: int, most: int) -> int:
    """How many of some things stand in a row where `most` fit, so that the last row is nearly as full as the others."""
    rows = max(1, -(-count // most))
    return max(1, -(-count // rows))
