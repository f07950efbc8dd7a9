"""The report's plots: matplotlib figures as inline SVG whose text and axes take the page's colour, light or dark.

Colours are Okabe and Ito's, told apart by people with any common colour blindness.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#999999"]
INK = "#123456"
"""Stands for the page's text colour until the SVG is written."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "notewright",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

Line = tuple[Sequence[float], Sequence[float | None]]
Interval = tuple[float, float, float]
"""Mean, low, high."""


def _figure(width: float = 6.4, height: float = 3.4) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(axis="y", alpha=0.2, color=INK)
    return figure, axes


def _svg(figure: Figure, label: str) -> str:
    with io.StringIO() as out:
        figure.savefig(out, format="svg", metadata={"Date": None})
        svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def curve_with_interval(x: Sequence[float], intervals: Sequence[Interval], *, xlabel: str, ylabel: str) -> str:
    """One curve with its 95% band."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        mean, low, high = zip(*intervals, strict=True)
        axes.plot(x, mean, color=PALETTE[0], marker="o", markersize=4)
        axes.fill_between(x, low, high, color=PALETTE[0], alpha=0.2, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, ylabel)


def lines(series: Mapping[str, Line], *, xlabel: str, ylabel: str, ylim: tuple[float, float] | None = None) -> str:
    """Several curves with a legend; None in a curve is a gap."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        for (name, (x, y)), colour in zip(series.items(), PALETTE * 4, strict=False):
            values = [math.nan if value is None else value for value in y]
            axes.plot(x, values, label=name, color=colour, marker="o", markersize=4)
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=ylim)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        return _svg(figure, ylabel)


def bars_with_interval(values: Mapping[str, Interval], *, xlabel: str) -> str:
    """Horizontal points with 95% whiskers, one row a name."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=0.9 + 0.5 * len(values))
        for row, ((name, (mean, low, high)), colour) in enumerate(zip(values.items(), PALETTE * 4, strict=False)):
            whisker = [[mean - low], [high - mean]]
            axes.errorbar(mean, row, xerr=whisker, fmt="o", color=colour, capsize=4, label=name, markersize=7)
        axes.set_yticks(range(len(values)), list(values))
        axes.set(xlabel=xlabel, ylim=(len(values) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", alpha=0.2, color=INK)
        axes.axvline(0, color=INK, linewidth=0.8, alpha=0.5)
        return _svg(figure, xlabel)


def bars(values: Mapping[str, float], *, xlabel: str) -> str:
    """Plain horizontal bars."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=0.9 + 0.35 * len(values))
        axes.barh(list(values), list(values.values()), color=PALETTE[0])
        axes.invert_yaxis()
        axes.set(xlabel=xlabel)
        axes.grid(axis="y", visible=False)
        return _svg(figure, xlabel)
