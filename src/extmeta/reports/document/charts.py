"""Draws charts with matplotlib, as SVG and PNG.

Series differ by marker and dash as well as by colour, so that they can be told apart in
grey. The colours of an inline SVG are CSS variables that the page sets for light and
dark.
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import NullLocator

from extmeta.reports.document.pictures import Cell, Chart, Curves, Dots, Strip
from extmeta.reports.figures import size

# Pixels of a chart, 72 to the inch. A phone of 390 pixels shows it at 5/6 of that, with
# text of 10 pixels.
WIDTH = 430
DPI = 72
PNG_DPI = 200
FONT = 12
TITLE_CHARS = 56

# A longer label is cut, so that there is room for the values.
LABEL_CHARS = 24

# The colour on a light page, and on a dark one. c0 to c7 are Okabe and Ito's, made darker
# or lighter until they have a contrast of 3 to 1. People who are red-green or blue-yellow
# blind can tell them apart.
PALETTE = {
    "ink": ("#1b1f24", "#e6e8eb"),
    "soft": ("#5a626c", "#a9b1bb"),
    "grid": ("#d9dde2", "#3a414a"),
    "band": ("#c9ced5", "#4a525c"),
    "paper": ("#fefefe", "#14171b"),
    "c0": ("#1b1f25", "#e6e8ea"),
    "c1": ("#0066a8", "#5cb3ee"),
    "c2": ("#b84a00", "#f08a3c"),
    "c3": ("#00785a", "#2fc79b"),
    "c4": ("#9b3f7f", "#e08bc0"),
    "c5": ("#7a6400", "#e3cf3f"),
    "c6": ("#3a7d9c", "#93d3f5"),
    "c7": ("#6b4fa3", "#b9a2ee"),
}
LIGHT = {name: light for name, (light, _dark) in PALETTE.items()}
COLOURS = tuple(name for name in PALETTE if name[1:].isdigit())
MARKERS = "osD^vPX<>*hp"
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))

# A curve has a mark at each fifth of its points. The next curve has its marks one point
# later, so the marks of five curves that coincide can be seen.
MARK_EVERY = 5

# Pixels left of curves, for ticks such as "10,000" and the label.
CURVES_LEFT = 68

# A row of dots has DOT_HEIGHT pixels for each series, and ROW_GAP more.
DOT_HEIGHT = 9
ROW_GAP = 10

# A map has CELLS_ACROSS cells in a line, and a gap takes GAP of a cell. A line has
# LINE_HEIGHT pixels. Bars reach UP pixels above its axis, and DOWN below.
CELLS_ACROSS = 48
GAP = 0.4
LINE_HEIGHT = 62
UP = 26
DOWN = 15

RC = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": FONT,
    "text.parse_math": False,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["soft"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["soft"],
    "ytick.color": LIGHT["soft"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": FONT - 1,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.2,
}


def svg(chart: Chart, encodings: Sequence[str], inline: bool = False) -> str:
    """Return a chart as SVG with a title and a description.

    Parameters
    ----------
    chart : Chart
    encodings : sequence of str
        See `Document.encodings`.
    inline : bool, optional
        The SVG is part of a page that sets the colours and shows the title; otherwise
        it has both, with colours for light and dark.
    """
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    drawn = _saved(
        chart, encodings, {"svg.hashsalt": chart.name}, not inline, metadata=nothing
    )
    return _accessible(drawn.decode(), chart, "" if inline else variables())


def png(chart: Chart, encodings: Sequence[str]) -> bytes:
    """Return a chart as PNG on white, with its title."""
    white = {"figure.facecolor": "#ffffff"}
    nothing = {"Software": None}
    return _saved(
        chart, encodings, white, True, format="png", dpi=PNG_DPI, metadata=nothing
    )


class Drawing(Figure):  # type: ignore[misc]
    """A figure that a notebook shows, also if pyplot was not imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=2 * DPI, bbox_inches="tight")
        return out.getvalue()


def drawing(chart: Chart, encodings: Sequence[str]) -> Drawing:
    """Return a chart on white, with its title, as a matplotlib Figure."""
    with mpl.rc_context(RC):
        figure = _figure(chart, encodings)
        _add_title(figure, chart)
    figure.set_facecolor("#ffffff")
    return figure


def _add_title(figure: Figure, chart: Chart) -> None:
    title = textwrap.fill(chart.title, TITLE_CHARS)
    figure.suptitle(title, y=1.01, va="bottom", fontsize=FONT)


def _saved(
    chart: Chart,
    encodings: Sequence[str],
    settings: dict[str, str],
    titled: bool,
    format: str = "svg",
    **how: Any,
) -> bytes:
    """Return a chart as matplotlib writes it."""
    out = io.BytesIO()
    with mpl.rc_context({**RC, **settings}):
        figure = _figure(chart, encodings)
        if titled:
            _add_title(figure, chart)
            how["bbox_inches"] = "tight"
        figure.savefig(out, format=format, **how)
    return out.getvalue()


def variables() -> str:
    """Return CSS that sets the colours, for light and dark."""

    def rules(which: int) -> str:
        return "".join(f"--{name}:{both[which]};" for name, both in PALETTE.items())

    # Print is light.
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{rules(1)}}}}}"
    return f":root{{{rules(0)}}}{dark}"


def _accessible(drawn: str, chart: Chart, style: str) -> str:
    """Return matplotlib's SVG with variables for colours, a title and own ids."""
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    head, _, body = body[body.index("<svg") :].partition(">")
    wide, high = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)[0]
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', body))

    # Only tags are rewritten: the text between them may be anything.
    def rewritten(found: re.Match[str]) -> str:
        tag = re.sub(r"#[0-9a-f]{6}\b", _variable, found[0])
        tag = re.sub(r'(href="|url\()#', rf"\1#{chart.name}.", tag)
        # Ids that nothing refers to go; the others are no other chart's.
        tag = re.sub(
            r' id="([\w.-]+)"',
            lambda id: f' id="{chart.name}.{id[1]}"' if id[1] in used else "",
            tag,
        )
        tag = re.sub(r"'DejaVu Sans'[^;\"]*|sans-serif[^;\"]*", "sans-serif", tag)
        return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)

    body = re.sub(r"\n\s*", "\n", re.sub(r"<[^<>]+>", rewritten, body))
    given = f"<style>{style}svg{{background:var(--paper)}}</style>" if style else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {wide} {high}" '
        f'width="{wide}" height="{high}" role="img" aria-labelledby="{chart.name}-title '
        f'{chart.name}-desc"><title id="{chart.name}-title">{escape(chart.title)}'
        f'</title><desc id="{chart.name}-desc">{escape(chart.alt)}</desc>'
        f"{given}{body}"
    )


def _variable(colour: re.Match[str]) -> str:
    name = next((n for n, light in LIGHT.items() if light == colour[0]), "")
    return f"var(--{name})" if name else colour[0]


def _figure(chart: Chart, encodings: Sequence[str]) -> Drawing:
    match chart.picture:
        case Dots() as dots:
            return _dots(dots, encodings)
        case Curves() as curves:
            return _curves(curves, encodings)
        case strip:
            return _strip(strip)


def _cut(label: str) -> str:
    return label if len(label) <= LABEL_CHARS else f"{label[: LABEL_CHARS - 3]}..."


def _look(name: str, encodings: Sequence[str]) -> dict[str, Any]:
    """Return colour, marker and dash of an encoding."""
    at = encodings.index(name)
    return {
        "color": LIGHT[COLOURS[at % len(COLOURS)]],
        "marker": MARKERS[at % len(MARKERS)],
        "linestyle": DASHES[at % len(DASHES)],
    }


# -- dots -------------------------------------------------------------------------


def _dots(dots: Dots, encodings: Sequence[str]) -> Drawing:
    looks = {
        name: {**look, "linestyle": "none"}
        for at, name in enumerate(dots.series)
        for look in [_look(name, encodings) if dots.encodings else _point_look(at)]
    }
    row_height = ROW_GAP + DOT_HEIGHT * len(looks)
    rows = [_cut(row) for row in dots.rows]
    labels = 10 + 7 * max(map(len, rows), default=0)
    figure, (axes,) = _panels([row_height * len(dots.rows)], labels, looks)
    edges = [row_height * at for at in range(len(dots.rows) + 1)]
    axes.set_ylim(edges[-1], 0)
    axes.set_yticks([edge + row_height / 2 for edge in edges[:-1]], rows)
    axes.tick_params(axis="y", length=0)
    axes.hlines(edges[1:-1], 0, 1, LIGHT["grid"], transform=axes.get_yaxis_transform())
    place = _scale(axes, dots)
    axes.xaxis.set_minor_locator(NullLocator())
    for edge, floor in zip(edges, dots.floor, strict=False):
        if floor:
            ends = [edge, edge + row_height]
            band = {"color": LIGHT["band"], "linewidth": 0, "zorder": 1}
            axes.fill_betweenx(ends, floor.low, floor.high, **band)
    for at, (name, look) in enumerate(looks.items()):
        there = [
            (edge + ROW_GAP / 2 + (at + 0.5) * DOT_HEIGHT, value)
            for edge, value in zip(edges, dots.series[name], strict=False)
            if value
        ]
        ys = [y for y, _value in there]
        low, x, high = ([place(getattr(v, end)) for _y, v in there] for end in ENDS)
        if low != high:
            axes.hlines(ys, low, high, look["color"], linewidth=1.6, zorder=2)
        axes.plot(x, ys, zorder=3, clip_on=False, **look)
    axes.set_xlabel(dots.axis)
    return figure


ENDS = ("low", "at", "high")


def _point_look(at: int) -> dict[str, Any]:
    """Return the look of a point, which no encoding has."""
    fill = ("none", LIGHT["soft"], LIGHT["ink"])[at % 3]
    return {
        "color": LIGHT["ink"],
        "markerfacecolor": fill,
        "marker": MARKERS[at % len(MARKERS)],
        "linestyle": DASHES[at % len(DASHES)],
    }


def _panels(
    heights: Sequence[float], left: float, looks: dict[str, dict[str, Any]]
) -> tuple[Drawing, list[Axes]]:
    """Return a figure with panels below each other, and a legend below them.

    ``heights`` and ``left``, the place for labels, are in pixels.
    """
    longest = max((len(_cut(name)) for name in looks), default=0)
    across = max(1, min(len(looks), int((WIDTH - 10) / (52 + 6.3 * longest))))
    below = 50 + 18 * max(1, math.ceil(len(looks) / across))
    top = 8.0
    total = top + sum(heights) + 16 * (len(heights) - 1) + below
    figure = Drawing(figsize=(WIDTH / DPI, total / DPI), dpi=DPI)
    panels = []
    for height in heights:
        bottom = total - top - height
        box = (left, bottom, WIDTH - left - 18, height)
        sizes = (WIDTH, total, WIDTH, total)
        panels.append(figure.add_axes([a / b for a, b in zip(box, sizes, strict=True)]))
        top += height + 16
    handles = [Line2D([], [], label=_cut(name), **look) for name, look in looks.items()]
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=across)
    return figure, panels


def _scale(axes: Axes, dots: Dots) -> Callable[[float], float]:
    """Set the axis of values, and return where it has a value."""
    values = [
        getattr(v, end) for of in dots.series.values() for v in of if v for end in ENDS
    ]
    values += [getattr(v, end) for v in dots.floor if v for end in ENDS]
    axes.grid(axis="x")
    if dots.scale == "percent":
        axes.set_xscale("symlog", linthresh=1)
        ticks = [t for t in PERCENTS if min(*values, -1) * 2 < t < max(*values, 1) * 2]
        axes.set_xticks(ticks, [f"{tick:+,g}%" if tick else "0" for tick in ticks])
        axes.set_xlim(min(*values, -1) * 1.2, max(*values, 1) * 1.2)
        axes.axvline(0, color=LIGHT["ink"], linewidth=1.2)
        return lambda value: value
    least = min((v for v in values if v > 0), default=1.0)
    most = max((v for v in values if v > 0), default=1.0)
    axes.set_xscale("log")
    if dots.scale == "bytes":
        # Zero has a place left of the smallest.
        zero = least / (most / least) ** 0.12 / 2
        step = 32.0 if most / least > 64 else 2.0
        ticks = [step**power for power in range(64)]
        ticks = [tick for tick in ticks if least / 2 <= tick <= most * 2]
        axes.set_xticks([zero, *ticks], ["0", *map(size, ticks)])
        axes.set_xlim(zero / 1.5, most * 1.6)
        return lambda value: max(value, zero)
    axes.axvline(1, color=LIGHT["ink"], linewidth=1.2)
    least, most = min(least, 0.9), max(most, 1.1)
    steps = (1, 2, 5) if most / least < 80 else (1,)
    ticks = [step * 10.0**power for power in range(-6, 9) for step in steps]
    ticks = [tick for tick in ticks if least / 1.1 <= tick <= most * 1.1]
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.set_xlim(least / 1.15, most * 1.15)
    return lambda value: value


# Ticks of an axis in percent.
PERCENTS = (-1e3, -100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


# -- curves -----------------------------------------------------------------------


def _curves(curves: Curves, encodings: Sequence[str]) -> Drawing:
    looks = {name: _look(name, encodings) for name, of in curves.curves.items() if of}
    points = {name: _point_look(at) for at, name in enumerate(curves.shares)}
    for look in points.values():
        look["marker"] = ""
    heights = [90, 300] if points else [300]
    figure, panels = _panels(heights, CURVES_LEFT, {**looks, **points})
    main = panels[-1]
    most = max((x for of in curves.curves.values() for x, _y in of), default=1)
    for at, (name, look) in enumerate(looks.items()):
        # A logarithmic axis has no 0.
        there = [(x, y) for x, y in curves.curves[name] if y > 0]
        every = (at % MARK_EVERY, MARK_EVERY) if len(there) > MARK_EVERY else None
        xs, ys = [x for x, _y in there], [y for _x, y in there]
        main.plot(xs, ys, markevery=every, **look)
    main.set_yscale("log")
    main.set_ylabel("bytes a flagged PTE")
    main.set_xlabel("flagged PTEs in a PTE table, log scale")
    ticks = [2**power for power in range(most.bit_length())]
    for panel in panels:
        panel.set_xscale("log", base=2)
        panel.set_xlim(0.9, most * 1.4)
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_minor_locator(NullLocator())
        panel.grid()
    main.yaxis.set_major_formatter(lambda y, _at: f"{y:,g}")
    if points:
        panels[0].tick_params(labelbottom=False)
        panels[0].set_ylim(0, 100)
        panels[0].set_yticks([0, 50, 100])
        panels[0].set_ylabel("% of tables")
    for name, look in points.items():
        shares = [100 * share for share in curves.shares[name][1:]]
        edges = [2.0**power for power in range(len(shares))] + [2.0 ** len(shares)]
        line = {"color": look["color"], "linestyle": look["linestyle"]}
        if shares:
            panels[0].stairs(shares, edges, linewidth=1.8, **line)
    return figure


# -- maps -------------------------------------------------------------------------


def _strip(strip: Strip) -> Drawing:
    lines: list[list[tuple[float, Cell]]] = [[]]
    x = 0.0
    for cell in strip.cells:
        x += GAP * cell.gap
        if x + 1 > CELLS_ACROSS and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1].append((x, cell))
        x += 1
    figure, (axes,) = _panels([LINE_HEIGHT * len(lines)], 12, {})
    axes.set_axis_off()
    axes.set_xlim(0, CELLS_ACROSS)
    axes.set_ylim(LINE_HEIGHT * len(lines), 0)
    up, down, gaps = [], [], []
    for at, line in enumerate(lines):
        zero = at * LINE_HEIGHT + LINE_HEIGHT - DOWN - 4
        for x, cell in line:
            up.append((x, zero, -UP * cell.mapped))
            if cell.flagged:
                depth = math.log2(1 + cell.flagged) / math.log2(1 + strip.most)
                down.append((x, zero, DOWN * min(depth, 1)))
            if cell.gap and x:
                gaps.append((x - GAP / 2, zero))
        axes.text(
            0,
            zero - UP - 4,
            f"{line[0][1].address:#x}" if line else "",
            fontsize=FONT - 2,
        )
        end = line[-1][0] + 1 if line else 0
        axes.hlines(zero, 0, end, LIGHT["ink"], linewidth=0.8)
    for bars, colour in ((up, "soft"), (down, "c2")):
        axes.add_patch(PathPatch(_bars(bars), facecolor=LIGHT[colour], linewidth=0))
    if gaps:
        xs, zeros = np.array(gaps).T
        dots = {"linestyle": ":", "linewidth": 1}
        axes.vlines(xs, zeros - UP, zeros + DOWN, LIGHT["soft"], **dots)
    figure.text(
        0.5,
        8 / (figure.get_figheight() * DPI),
        f"a bar: {strip.scale}\n"
        "up: mapped, 0 to 100% of entries\n"
        f"down: flagged PTEs a table, 0 to {strip.most:,}, log scale",
        ha="center",
        va="bottom",
    )
    return figure


def _bars(bars: Sequence[tuple[float, float, float]]) -> Path:
    """Return one path of bars, each given by its left, its foot and its height."""
    left, foot, height = np.array(bars, float).reshape(-1, 3).T
    right, top = left + 0.85, foot + height
    corners = [(left, foot), (right, foot), (right, top), (left, top), (left, foot)]
    points = np.array(corners).transpose(2, 0, 1).reshape(-1, 2)
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(left)
    return Path(points, np.array(codes, np.uint8))
