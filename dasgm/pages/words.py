"""Values in words, for the result page."""

from __future__ import annotations

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
    """A parameter's name that may wrap after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))
