"""The report's kinds of plots. Each takes numbers with their intervals and gives an inline SVG; see `svg`. `name` makes
its ids unique on the page."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from configs.format import interval
from curation.report.svg import DASHES, INK, MARKERS, SERIES, SMALL, canvas, colour

Interval = tuple[float, float | None, float | None]
"""Mean, low, high; bounds are None where the data make none possible."""

MINUS = "\N{MINUS SIGN}"
MOST_MARKED = 50
"""Points of a curve that have a marker and a tooltip; of a longer one only every so many have them."""


class Curve(NamedTuple):
    """Points in the order of x; None is a gap."""

    x: Sequence[float]
    y: Sequence[Interval | None]


class Row(NamedTuple):
    """A line of a forest plot; `accent` draws it in the first colour, others are ink."""

    name: str
    value: Interval
    accent: bool = False


def interval_text(value: Interval, digits: int = 2, *, sign: bool = False) -> str:
    """`1.25 [0.88, 1.50]`, with a real minus sign."""
    return interval(*value, digits, sign=sign).replace("-", MINUS)


def curves(
    name: str,
    title: str,
    series: Mapping[str, Curve],
    *,
    xlabel: str,
    ylabel: str,
    share: bool = False,
    log_x: bool = False,
    floor: float | None = None,
    named: bool = False,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Curves with 95% bands, a whisker where a point stands alone. `share` fixes the axis to 0 ... 1, `floor` lets it
    begin there, `named` names a single curve too, `mark` points out a place on the x axis with a word."""
    named = named or len(series) > 1
    with canvas(3.1, legend=len(series) if named else 0) as drawing:
        axes, descriptions = drawing.axes, []
        drawing.grid("y")
        for n, (label, curve) in enumerate(series.items()):
            points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None and (x > 0 or not log_x)]
            if not points:
                continue
            # A tooltip is a mark of its own: a thousand of them would make the page slow.
            xs, means = [x for x, _ in points], [y[0] for _, y in points]
            every = math.ceil(len(points) / MOST_MARKED)
            dash, marker = DASHES[n // len(SERIES) % len(DASHES)], MARKERS[n % len(MARKERS)]
            axes.plot(xs, means, dash, marker=marker, markevery=every, color=colour(n), label=label, zorder=3)
            bounded = [(x, y[1], y[2]) for x, y in points if y[1] is not None and y[2] is not None]
            if len(bounded) > 1:
                x_N, low_N, high_N = zip(*bounded, strict=True)
                axes.fill_between(x_N, low_N, high_N, color=colour(n), alpha=0.18, linewidth=0, zorder=2)
            elif bounded:
                axes.vlines(*bounded[0], color=colour(n), linewidth=1.4, zorder=2)
            for x, y in points[::every]:
                drawing.tip(x, y[0], f"{label}, {xlabel} {x:g}: {interval_text(y)}")
            (x, first), (last_x, last) = points[0], points[-1]
            at_last = f", {interval_text(last)} at {last_x:g}" if len(points) > 1 else ""
            descriptions.append(f"{label}: {interval_text(first)} at {xlabel} {x:g}{at_last}")
        if log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if share:
            axes.set_ylim(-0.02, 1.02)
        elif floor is not None:
            top = max((y[0] for curve in series.values() for y in curve.y if y is not None), default=1.0)
            axes.set_ylim(floor, floor + 1.15 * max(top - floor, 1e-9))
        if mark is not None:
            axes.axvline(mark[0], color=INK, linewidth=0.8, alpha=0.5, linestyle=(0, (2, 3)))
            axes.annotate(
                mark[1], (mark[0], 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
                ha="center", fontsize=SMALL,
            )  # fmt: skip
        axes.set(xlabel=xlabel, ylabel=ylabel)
        return drawing.svg(name, title, "; ".join(descriptions))


def _wrapped(name: str) -> str:
    return textwrap.fill(name, 24, break_on_hyphens=False)


def forest(
    name: str, title: str, rows: Sequence[Row], *, xlabel: str, sign: bool = False, share: bool = False,
    picture: Path | None = None,
) -> Markup:  # fmt: skip
    """A point with its whisker a row, the figures beside; a line at zero, or `share` for an axis from 0 to 1. A
    `picture` is written there, too, with the title."""
    names = [_wrapped(row.name) for row in rows]
    with canvas(0.8 + sum(0.15 + 0.16 * (wrapped.count("\n") + 1) for wrapped in names)) as drawing:
        axes = drawing.axes
        drawing.grid("x")
        if share:
            axes.set_xlim(-0.02, 1.02)
        else:
            axes.axvline(0, color=INK, linewidth=0.8, alpha=0.6)
        for y, row in enumerate(rows):
            mean, low, high = row.value
            shade = SERIES[0] if row.accent else INK
            if low is not None and high is not None:
                axes.hlines(y, low, high, color=shade, linewidth=2.2 if row.accent else 1.4)
            axes.plot(mean, y, "D" if row.accent else "o", color=shade, markersize=6.5 if row.accent else 5.5)
            words = interval_text(row.value, sign=sign)
            drawing.tip(mean, y, f"{row.name}: {words}")
            axes.text(1.02, y, words, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
        if picture is not None:
            drawing.write_png(picture, title)
        return drawing.svg(name, title, "; ".join(f"{row.name}: {interval_text(row.value, sign=sign)}" for row in rows))


def heatmap(
    name: str,
    title: str,
    values: Sequence[Sequence[Interval]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    ylabel: str,
    pale: Sequence[tuple[int, int]] = (),
) -> Markup:
    """Shares 0 ... 1 as shaded cells with the mean in each and its interval at the pointer; `pale` cells (row, column)
    have their figure in italics. A shade is the first colour thinned by the value, so that the ink stays readable upon
    it, light or dark."""
    with canvas(0.9 + 0.3 * len(rows)) as drawing:
        axes, descriptions = drawing.axes, []
        for r, row in enumerate(values):
            for c, (value, *_) in enumerate(row):
                shade = 0.04 + 0.58 * min(1.0, max(0.0, value))
                axes.add_patch(Rectangle((c - 0.48, r - 0.46), 0.96, 0.92, color=SERIES[0], alpha=shade, lw=0))
                style, alpha = ("italic", 0.75) if (r, c) in pale else ("normal", 1.0)
                axes.text(c, r, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, fontstyle=style, alpha=alpha)
                drawing.tip(c, r, f"{rows[r]}, {columns[c]}: {interval_text(row[c])}")
            filled = [f"{column} {interval_text(value)}" for column, value in zip(columns, row, strict=True)]
            descriptions.append(f"{rows[r]}: {', '.join(filled)}")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel, ylabel=ylabel)
        return drawing.svg(name, title, "; ".join(descriptions))
