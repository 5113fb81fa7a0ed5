"""Charts as inline SVG for the result page: no library, no script, no font to load.

Every colour is a CSS variable of `STYLE`, so light, dark and print follow the page; markupsafe escapes every string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from markupsafe import Markup, escape

COLOURS = 8  # after these the lines are dashed, then the colours begin again
LARGEST = 1e30  # beyond it a loss has diverged and would flatten every other line
WIDE_CHART, NARROW_CHART = (820, 320), (360, 250)  # a drawing's units, which are about pixels where it is shown
MOST_POINTS = 1500  # in one chart with a hover text each; beyond, the lines alone carry their names

WIDE, HIGH, ACROSS, DOWN = 91, 44, 99, 70  # of one edge's area, and from one to the next

# operation -> short name, place in the palette
OPERATIONS = {
    "none": ("none", 0),
    "max_pool_3x3": ("max pool", 1),
    "avg_pool_3x3": ("avg pool", 2),
    "skip_connect": ("skip", 3),
    "sep_conv_3x3": ("sep 3×3", 4),
    "sep_conv_5x5": ("sep 5×5", 5),
    "dil_conv_3x3": ("dil 3×3", 6),
    "dil_conv_5x5": ("dil 5×5", 7),
    "nor_conv_1x1": ("conv 1×1", 5),
    "nor_conv_3x3": ("conv 3×3", 4),
}

# lines, then operations: the hues of figures.py
LIGHT = (
    "#2563eb #d9730d #0f9d6b #c026a8 #7c4dff #0891a5 #b3261e #6b7a12",
    "#d8dde4 #c2571a #e9a67c #4e9c5b #1f6fb4 #85b8e3 #6b4fa0 #b09fd6",
)
DARK = (
    "#6ea8ff #f2a65a #4fd1a1 #f08ae0 #b39dff #4fd0e0 #ff8a80 #c3d15a",
    "#414a57 #e0804a #96542b #5fb56e #4f9fe0 #2b628f #9a7fd4 #5b4690",
)


def _variables(palette: tuple[str, str]) -> str:
    return "".join(
        f"--{kind}{i}:{c};" for kind, row in zip(("k", "o"), palette, strict=True) for i, c in enumerate(row.split())
    )


RULES = Markup(
    "".join(f".k{i}{{--c:var(--k{i})}}" for i in range(COLOURS))
    + "".join(f".o{i}{{fill:var(--o{i})}}" for i in range(COLOURS))
    + """
.chart svg{display:block;width:100%;height:auto;overflow:visible}
.chart text{font:11px var(--sans);fill:var(--soft)} .chart .end{text-anchor:end} .chart .mid{text-anchor:middle}
.chart .grid{stroke:var(--line);stroke-width:1}
.series{transition:opacity .12s} .chart.focus .series:not(.on){opacity:.15} .faint{--c:var(--faint)}
.series path{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.series.bold path{stroke-width:3.2} .series.faint path{stroke-width:1.3} .series.dashed path{stroke-dasharray:5 4}
.series circle{fill:var(--c);stroke:transparent;stroke-width:9} .chart .series text{fill:var(--c);font-weight:700}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1rem;margin:.5rem 0 0;padding:0;list-style:none;font-size:.8rem}
.legend li{display:flex;align-items:center;gap:.4rem;color:var(--soft);cursor:default}
.legend li.bold{color:var(--ink);font-weight:600} .legend i{width:1rem;border-top:3px solid var(--c)}
.legend .dashed i{border-top-style:dashed}
.edges svg{overflow:hidden} .edges text{font-size:10px} .chart.edges text.strong{fill:var(--ink);font-weight:650}
.edges .box{fill:none;stroke:var(--line)} .edges .chosen{stroke:var(--ink);stroke-width:1.6}
.heat svg,.heat img{display:block;width:100%;height:auto} .heat text{font:12px var(--sans);fill:var(--soft)}
.heat img{image-rendering:pixelated;border:1px solid var(--line)}
.heat .end{text-anchor:end} .heat .mid{text-anchor:middle}
.heat .small{font-size:8px} .heat .count{font-size:12px;fill:var(--ink)} .heat .large{font-size:18px}
.heat .frame{fill:none;stroke:var(--line)}
.heat .right{fill:var(--k0)} .heat .wrong{fill:var(--k6)}
.chart .bar{fill:var(--k0);fill-opacity:.7} .chart .gap{fill:var(--k6);fill-opacity:.35}
.chart .share{fill:var(--faint)}
.chart .hit{stroke:var(--ink);stroke-width:2.2}
.chart .ideal{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 4;fill:none}
"""
)
DAY, NIGHT = (f":root{{{_variables(colours)}}}" for colours in (LIGHT, DARK))
STYLE = Markup(f"{DAY}\n@media screen and (prefers-color-scheme:dark){{{NIGHT}}}\n{RULES}")


@dataclass(frozen=True)
class Series:
    """One line: points (x, y); `cut` puts a cross on its end (a run that was stopped)."""

    name: str
    points: Sequence[tuple[float, float]]
    bold: bool = False
    faint: bool = False
    cut: bool = False

    def finite(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if math.isfinite(y) and abs(y) < LARGEST]


def ticks(low: float, high: float, most: int = 6, whole: bool = False) -> list[float]:
    """Round numbers from low to high, 1, 2 or 5 times a power of ten apart (`whole`: integers), `most` + 1 or fewer."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _span(values: Sequence[float], room: float) -> tuple[float, float]:
    """Their range, widened by a share of it on both sides; never empty."""
    low, high = min(values), max(values)
    margin = (high - low) * room or (abs(high) * 0.1 or 0.5) * (room > 0)
    return low - margin, high + margin


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def tag(tag: str, *inside: object, look: str = "", **attributes: object) -> Markup:
    """An element, everything in it escaped; `look` is its class, and `_` in an attribute's name stands for `-`."""
    attributes = {"class": look} | attributes if look else attributes
    values = ((name, f"{value:.1f}" if isinstance(value, float) else value) for name, value in attributes.items())
    head = Markup("").join(Markup(' {}="{}"').format(name.replace("_", "-"), value) for name, value in values)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, head, Markup("").join(map(escape, inside)))


def drawing(parts: Sequence[Markup], width: int, height: int, label: str) -> Markup:
    return tag("svg", *parts, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)


def line_chart(
    series: Sequence[Series], label: str, percent: bool = False, width: int = 640, height: int = 280
) -> Markup:
    """Values over epochs, a line a series, the legend below; empty without a finite point.

    `label` is what a screen reader is told; `width` and `height` are the drawing's units, scaled to the place it gets.
    """
    drawn = [(one, one.finite()) for one in series if one.finite()]
    points = [point for _, finite in drawn for point in finite]
    if not points:
        return Markup("")
    left, right, top, bottom = 46, width - 14, 10, height - 34
    (first, last), (low, high) = _span([x for x, _ in points], 0), _span([y for _, y in points], 0.06)
    first, last = (first, last) if first < last else (first - 1, last + 1)
    x_at, y_at = scale(first, last, left, right), scale(low, high, bottom, top)

    def shown(y: float, digits: int = 4) -> str:
        return f"{100 * y:.{digits}g} %" if percent else f"{y:.{digits}g}"

    parts, marks = [], ticks(low, high, 5)
    # as many digits as tell neighbours apart; the range may be far narrower than its values are large
    digits = next((n for n in range(4, 9) if len({shown(y, n) for y in marks}) == len(marks)), 9)
    for y in marks:
        parts.append(tag("path", look="grid", d=f"M{left} {y_at(y):.1f}H{right}"))
        parts.append(tag("text", shown(y, digits), look="end", x=left - 7, y=y_at(y), dy=".32em"))
    for x in ticks(first, last, 10 if width > NARROW_CHART[0] else 6, whole=True):
        parts.append(tag("text", f"{x:g}", look="mid", x=x_at(x), y=bottom + 17))
    parts.append(tag("text", "epoch", look="mid", x=(left + right) / 2, y=height - 3))

    looks = [_look(one, i) for i, (one, _) in enumerate(drawn)]
    lines = []
    for i, (one, finite) in enumerate(drawn):
        places = [(x_at(x), y_at(y)) for x, y in finite]
        line = [tag("title", one.name), tag("path", d=_path(places))]
        for (x, y), (cx, cy) in zip(finite, places, strict=True) if len(points) <= MOST_POINTS else ():
            line.append(tag("circle", tag("title", f"{one.name}, epoch {x:g}: {shown(y)}"), cx=cx, cy=cy, r=2))
        if one.cut:
            line.append(tag("text", "×", look="mid", x=places[-1][0], y=places[-1][1], dy=".32em"))
        lines.append(tag("g", *line, look=f"series {looks[i]}", data_series=i))
    order = sorted(range(len(lines)), key=lambda i: (drawn[i][0].bold, not drawn[i][0].faint))  # the bold on top
    legend = [tag("li", tag("i"), one.name, look=looks[i], data_series=i) for i, (one, _) in enumerate(drawn)]
    picture = drawing([*parts, *(lines[i] for i in order)], width, height, label)
    return tag("div", picture, tag("ul", *legend, look="legend"), look="chart")


def fitted(draw: Callable[..., Markup], *given: Any, width: int = WIDE_CHART[0], **options: Any) -> Markup:
    """A chart drawn twice: for a wide place, and for a telephone, so that its labels are as large there.

    Args:
        draw: `line_chart` or `scatter_chart`, which takes `given` and `options`.
        width: of the wide drawing; it is as high as is usual for that.
    """
    high = WIDE_CHART[1] if width == WIDE_CHART[0] else NARROW_CHART[1]
    sizes = {"wide": (width, high), "narrow": NARROW_CHART}
    drawn = {look: draw(*given, width=wide, height=tall, **options) for look, (wide, tall) in sizes.items()}
    return Markup("").join(tag("div", chart, look=look) for look, chart in drawn.items() if chart)


def _look(one: Series, i: int) -> str:
    return f"k{i % COLOURS}" + " bold" * one.bold + " faint" * one.faint + " dashed" * (i // COLOURS % 2)


def scatter_chart(
    dots: Sequence[tuple[float, float, str, bool]],
    title: str,
    label: str,
    percent: bool = False,
    width: int = 820,
    height: int = 330,
) -> Markup:
    """A dot for each (x, y, name, on the front): x from 0 on, less is better, y more. Empty without a dot.

    Those on the front have their names, and a line of steps joins them: below and right of it others are beaten.

    Args:
        title: of the axis of x.
        label: what a screen reader is told.
    """
    if not dots:
        return Markup("")
    left, right, top, bottom = 58, width - 14, 22, height - 36
    low, high = _span([y for _, y, _, _ in dots], 0.12)
    most = max(x for x, *_ in dots) * 1.08 or 1.0
    x_at, y_at = scale(0.0, most, left, right), scale(low, high, bottom, top)

    def shown(y: float) -> str:
        return f"{100 * y:.4g} %" if percent else f"{y:.5g}"

    parts = []
    for y in ticks(low, high, 5):
        parts.append(tag("path", look="grid", d=f"M{left} {y_at(y):.1f}H{right}"))
        parts.append(tag("text", shown(y), look="end", x=left - 7, y=y_at(y), dy=".32em"))
    for x in ticks(0.0, most, 8 if width > NARROW_CHART[0] else 4):
        parts.append(tag("text", shortened(x), look="mid", x=x_at(x), y=bottom + 17))
    parts.append(tag("text", title, look="mid", x=(left + right) / 2, y=height - 3))
    front = sorted((x, y) for x, y, _, best in dots if best)
    steps = [(x_at(x), y_at(y)) for x, y in front[:1]]
    for x, y in front[1:]:
        steps += [(x_at(x), steps[-1][1]), (x_at(x), y_at(y))]
    line = [tag("path", d=_path([*steps, (right, steps[-1][1])]))] if steps else []
    for x, y, name, best in sorted(dots, key=lambda dot: dot[3]):
        hint = tag("title", f"{name}: {shown(y)}, {shortened(x)} {title}")
        parts.append(tag("g", tag("circle", hint, cx=x_at(x), cy=y_at(y), r=4 if best else 3),
                          look="series k0" if best else "series faint"))  # fmt: skip
    names = [(x_at(x), y_at(y), name) for x, y, name, best in sorted(dots) if best]
    parts += _names(names, left, right)
    return tag("div", drawing([tag("g", *line, look="series k0 dashed"), *parts], width, height, label), look="chart")


def _names(dots: Sequence[tuple[float, float, str]], left: float, right: float) -> list[Markup]:
    """The names of dots (x, y, name) at places where none lies on another; one without room is left to the hover."""
    drawn: list[Markup] = []
    taken: list[tuple[float, float, float]] = []  # of each name: from where to where, and its base line
    for x, y, name in dots:
        wide = 6.2 * len(name)
        # the front rises, so above and left of a dot there is room, then below and right
        for look, start, base in (("end", x - 7 - wide, y - 7), ("", x + 7, y + 14), ("", x + 7, y - 7)):
            free = all(abs(base - other) >= 11 or start > to or start + wide < since for since, to, other in taken)
            if free and start >= left - 40 and start + wide <= right + 14:
                taken.append((start, start + wide, base))
                drawn.append(tag("text", name, look=look, x=start + wide if look else start, y=base))
                break
    return drawn


def shortened(value: float) -> str:
    """1.2 M for 1,200,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:.4g}"


def alone(chart: Markup) -> str:
    """A chart of one drawing as a file of its own, in the colours of the page by day."""
    attributes, _, body = str(chart).partition("<svg")[2].partition("</svg>")[0].partition(">")
    page = "--soft:#5c6779;--line:#e4e8ee;--faint:#b3bcc9;--ink:#17202e;--sans:sans-serif"
    style = f"<style>:root{{{page}}}{DAY}\n{RULES}</style>"
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="chart"{attributes}>{style}{ground}{body}</svg>\n'


def edge_chart(
    epochs: Sequence[float],
    weights: Sequence[Sequence[Mapping[str, float]]],
    chosen: Mapping[tuple[int, int], str],
    label: str,
    inputs: Sequence[int],
    states: Sequence[str],
) -> Markup:
    """A cell's softmax weights over epochs: one stacked area an edge, nodes in rows, their inputs in columns.

    `weights[epoch][edge]` maps operation to weight, the edges in the order of the alphas (by node, then by input).
    `chosen[node, input]` is the operation that the genotype keeps there: a frame, and its name in full ink. On other
    edges the strongest is named. `inputs` and `states` are those of the search space.
    """
    left, top = 44, 34
    names = [
        name.replace("_{", "(").replace("}", ")").replace("-", "−") if "_" in name else f"node {name}"
        for name in states
    ]
    columns, rows = names[:-1], names[len(states) - len(inputs) :]
    parts = [
        tag("text", name, look="mid", x=left + ACROSS * i + WIDE / 2, y=top - 22) for i, name in enumerate(columns)
    ]
    for edge, (node, source) in enumerate((i, j) for i, n in enumerate(inputs) for j in range(n)):
        if source == 0:
            parts.append(tag("text", rows[node], x=0, y=top + DOWN * node + HIGH / 2, dy=".32em"))
        stack = _stack(epochs, [frame[edge] for frame in weights], chosen.get((node, source)))
        parts.append(tag("g", *stack, transform=f"translate({left + ACROSS * source} {top + DOWN * node})"))
    used = {name for frame in weights for edge_weights in frame for name in edge_weights}
    for i, (short, place) in enumerate(OPERATIONS[name] for name in OPERATIONS if name in used):
        # the key stands in the empty corner
        x, y = left + ACROSS * (len(columns) - 2 + i // 4) + 16, top - 4 + 16 * (i % 4)
        parts.append(tag("rect", look=f"o{place}", x=x, y=y, width=11, height=11, rx=2))
        parts.append(tag("text", short, x=x + 17, y=y + 9))
    width, height = left + ACROSS * (len(columns) - 1) + WIDE, top + DOWN * len(rows) - 22
    return tag("div", drawing(parts, width, height, label), look="chart edges scroll")


def _stack(epochs: Sequence[float], history: Sequence[Mapping[str, float]], chosen: str | None) -> list[Markup]:
    """One edge: its operations' shares stacked from the floor up, a name above, all last weights as the hover text."""
    if len(epochs) == 1:  # before the first step: level bands
        epochs, history = [0, 1], [history[0], history[0]]
    x_at = scale(epochs[0], epochs[-1], 0, WIDE)
    names = [name for name in OPERATIONS if any(name in frame for frame in history)]
    sums = [[0.0, *accumulate(frame.get(name, 0.0) for name in names)] for frame in history]
    edges = [[(x_at(x), HIGH * (1 - at[i])) for x, at in zip(epochs, sums, strict=True)] for i in range(len(names) + 1)]
    areas = [
        tag("path", look=f"o{OPERATIONS[name][1]}", d=_path([*edges[i + 1], *reversed(edges[i])]) + "Z")
        for i, name in enumerate(names)
    ]
    last = history[-1]
    ranked = sorted(last, key=lambda name: -last[name])
    kept = chosen if chosen is not None and chosen in last else ranked[0]
    return [
        tag("title", "\n".join(f"{name} {100 * last[name]:.1f} %" for name in ranked)),
        *areas,
        tag("rect", look="box chosen" if chosen else "box", x=0, y=0, width=WIDE, height=HIGH, rx=2),
        tag(
            "text",
            f"{OPERATIONS[kept][0] if kept in OPERATIONS else kept} {100 * last[kept]:.0f} %",
            look="mid strong" if chosen else "mid",
            x=WIDE / 2,
            y=-4,
        ),
    ]
