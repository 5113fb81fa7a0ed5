"""Charts of a classifier's answers as inline SVG: its confusion matrix, and how far its confidence is right."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from io import BytesIO

from markupsafe import Markup

from dasgm.pages.charts import drawing, scale, tag

MAPPED = 100  # classes of the largest heat map whose classes have names
NUMBERED = 20  # classes up to which a heat map's cells have their numbers
SHADES = 10  # of a larger one, whose cells have no hover texts: it may have thousands
BLUE, RED = (59, 118, 246), (214, 69, 58)  # of right and wrong answers, by day and by night
ACROSS = 900  # units of the cells of the largest heat maps, where they are about pixels
SMALLEST = 0.75  # of its own size, on a narrow screen; there the page lets it scroll


def side_of(classes: int) -> int:
    """Of a cell: large for few classes, with room for a number up to NUMBERED."""
    if classes <= NUMBERED:
        return max(46 if classes <= 10 else 34, min(110, 400 // classes))
    return max(1, min(24, ACROSS // classes))


def heat_map(matrix: Sequence[Sequence[int]], names: Sequence[str], label: str) -> Markup:
    """A confusion matrix: rows are the true classes, columns the predicted ones, shaded by their share of the row.

    Of more than MAPPED classes it is a picture without names. It has its own size, so the page lets it scroll.
    """
    n = len(names)
    if n > MAPPED:
        return _points(matrix, label)
    side, numbered = side_of(n), n <= NUMBERED
    size, look = (6.6, "") if numbered else (4.8, " small")
    shown = [name if len(name) <= 18 else name[:17] + "…" for name in names]
    longest = round(max(map(len, shown)) * size)
    flat = longest <= side  # then the names above the columns need no turn
    left, top, across = longest + 26, 36 if flat else longest + 30, side * n
    parts = [tag("text", "predicted", look="mid", x=left + across / 2, y=12)]
    parts.append(tag("text", "true", look="mid", transform=f"translate(11 {top + across / 2:.1f}) rotate(-90)"))
    for i, name in enumerate(shown):
        at = side * (i + 0.5)
        turn = f"translate({left + at:.1f} {top - 6})" + ("" if flat else " rotate(-90)")
        parts.append(
            tag("text", name, look=("mid" if flat else "name") + look, transform=turn, dy="0" if flat else ".32em")
        )
        parts.append(tag("text", name, look="end" + look, x=left - 6, y=top + at, dy=".32em"))
    inside = _numbers(_cells(matrix), names, side) if numbered else _shades(_cells(matrix), side)
    inside.append(tag("rect", look="frame", x=0, y=0, width=across, height=across))
    parts.append(tag("g", *inside, transform=f"translate({left} {top})"))
    width, height = left + across + 2, top + across + 2
    room = f"min-width:{(SMALLEST if numbered else 1) * width:.0f}px;max-width:{width}px"
    picture = tag("svg", *parts, viewBox=f"0 0 {width} {height}", style=room, role="img", aria_label=label)
    return tag("div", picture, look="heat scroll")


def _cells(matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, int, float]]:
    """True class, predicted class, number of pictures and their share of the true class; only where there are any."""
    totals = [sum(row) for row in matrix]
    return [(i, j, count, count / totals[i]) for i, row in enumerate(matrix) for j, count in enumerate(row) if count]


def _points(matrix: Sequence[Sequence[int]], label: str) -> Markup:
    """As a PNG, whose ground is transparent so that it suits light and dark pages."""
    from PIL import Image

    n, side = len(matrix), side_of(len(matrix))
    image = Image.new("RGBA", (n, n))
    for i, j, _, share in _cells(matrix):
        image.putpixel((j, i), (*(BLUE if i == j else RED), round(255 * (0.3 + 0.7 * share**0.5))))
    image.save(buffer := BytesIO(), "PNG", optimize=True)
    room = f"min-width:{SMALLEST * side * n:.0f}px;max-width:{side * n}px"
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return tag("div", tag("img", src=source, width=n, height=n, style=room, alt=label), look="heat scroll")


def _numbers(cells: Sequence[tuple[int, int, int, float]], names: Sequence[str], side: int) -> list[Markup]:
    """Of cells (true, predicted, count, share of the row): each with its count and a hover text."""
    drawn = []
    for i, j, count, share in cells:
        said = f"{names[i]} taken for {names[j]}: {count} ({100 * share:.1f} %)"
        look, opacity = "right" if i == j else "wrong", f"{0.1 + 0.6 * share**0.5:.2f}"
        box = tag("rect", look=look, x=side * j, y=side * i, width=side, height=side, fill_opacity=opacity)
        text = tag(
            "text",
            f"{count:,}",
            look=f"mid count{' large' * (side > 80)}",
            x=side * (j + 0.5),
            y=side * (i + 0.5),
            dy=".35em",
        )
        drawn.append(tag("g", tag("title", said), box, text))
    return drawn


def _shades(cells: Sequence[tuple[int, int, int, float]], side: int) -> list[Markup]:
    """The same without numbers, one path for all cells of a shade."""
    paths: dict[tuple[bool, int], list[str]] = {}
    for i, j, _, share in cells:
        shade = math.ceil(share**0.5 * SHADES)
        paths.setdefault((i == j, shade), []).append(f"M{side * j} {side * i}h{side}v{side}h-{side}z")
    return [
        tag("path", look="right" if right else "wrong", d="".join(d), fill_opacity=f"{0.1 + 0.9 * shade / SHADES:.2f}")
        for (right, shade), d in sorted(paths.items())
    ]


def reliability_chart(bins: Sequence[Mapping[str, float]], label: str) -> Markup:
    """Accuracy over confidence, bin by bin, against the diagonal of a calibrated network; below, the bins' counts.

    `bins` are those of `measures.classification.reliability`.
    """
    left, right, top, bottom, floor = 46, 346, 10, 260, 302
    x_at, y_at = scale(0, 1, left, right), scale(0, 1, bottom, top)
    most = max((one["count"] for one in bins), default=0) or 1
    parts = []
    for mark in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(tag("path", look="grid", d=f"M{left} {y_at(mark):.1f}H{right}"))
        parts.append(tag("text", f"{100 * mark:.0f} %", look="end", x=left - 7, y=y_at(mark), dy=".32em"))
        parts.append(tag("text", f"{100 * mark:.0f} %", look="mid", x=x_at(mark), y=floor + 15))
    for one in bins:
        if not one["count"]:
            continue
        x, width = x_at(one["low"]) + 0.5, x_at(one["high"]) - x_at(one["low"]) - 1
        sure, hit = one["confidence"], one["accuracy"]
        said = f"confidence {100 * sure:.1f} %, accuracy {100 * hit:.1f} %; pictures: {one['count']:,}"
        high, low = y_at(max(sure, hit)), y_at(min(sure, hit))
        tall = (floor - bottom - 8) * one["count"] / most
        parts.append(
            tag(
                "g",
                tag("title", said),
                tag("rect", look="bar", x=x, y=low, width=width, height=bottom - low),
                tag("rect", look="gap", x=x, y=high, width=width, height=low - high),
                tag("path", look="hit", d=f"M{x:.1f} {y_at(hit):.1f}h{width:.1f}"),
                tag("rect", look="share", x=x, y=floor - tall, width=width, height=tall),
            )
        )
    parts.append(tag("path", look="ideal", d=f"M{x_at(0):.1f} {y_at(0):.1f}L{x_at(1):.1f} {y_at(1):.1f}"))
    parts.append(tag("text", "probability of the predicted class", look="mid", x=(left + right) / 2, y=floor + 32))
    return tag("div", drawing(parts, 360, floor + 38, label), look="chart")
