"""matplotlib figures as inline SVG that lives in the page.

Its colours are the page's variables, light or dark, and its text is the page's font. Points show their numbers when the
mouse is over them, and a title and a description are there for readers who cannot see. Colours are Okabe and Ito's,
which people with any common colour blindness can tell apart, darkened where a line of them would vanish on white;
markers and dashes repeat what they say.
"""

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from markupsafe import Markup, escape

from configs.files import make_folder

matplotlib.use("Agg")
from matplotlib.figure import Figure

INK = "#123456"
"""Stands for the colour of the page's text until the SVG is written."""
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b0568c", "#b97d00", "#2e9bd6", "#7a4a1e", "#7a7f85")
"""The page's variables `--s1` ... `--s8`: darker on white, lighter on black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.")
"""Another one where the colours come round again."""
LEGEND_COLUMNS = 3
SMALL = 9.5
"""Points of figures beside marks; a phone shows a point as about a pixel."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "notewright",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.6,
}


def colour(number: int) -> str:
    """The colour of the series of that number."""
    return SERIES[number % len(SERIES)]


@contextmanager
def canvas(height: float, legend: int = 0) -> Iterator["Canvas"]:
    """A figure to be drawn in the page's style, `height` inches high, and more for a legend of so many entries."""
    with matplotlib.rc_context(STYLE):
        yield Canvas(height, legend)


class Canvas:
    """One figure while it is drawn, no wider than a phone can show at a readable size."""

    def __init__(self, height: float, legend: int) -> None:
        self.figure = Figure(figsize=(5.0, height + 0.2 * math.ceil(legend / LEGEND_COLUMNS)), layout="constrained")
        self.legend = legend
        self.axes = self.figure.add_subplot()
        self.figure.patch.set_alpha(0)
        self.axes.patch.set_alpha(0)
        self._tips: dict[str, str] = {}

    def grid(self, axis: Literal["x", "y"]) -> None:
        """Faint lines across one axis."""
        self.axes.grid(axis=axis, alpha=0.18, color=INK, linewidth=0.6)

    def tip(self, x: float, y: float, text: str) -> None:
        """What is shown when the place is pointed at."""
        name = f"tip{len(self._tips)}"
        # Nearly clear, for a wholly clear one is not written.
        self.axes.plot([x], [y], "o", markersize=13, color=INK, alpha=0.001, gid=name, zorder=9)
        self._tips[name] = text

    def write_png(self, path: Path, title: str) -> None:
        """The figure with its title, on white."""
        self.axes.set_title(title, fontsize=11)
        self.figure.patch.set_alpha(1)
        make_folder(path.parent)
        self.figure.savefig(path, dpi=200, facecolor="white")

    def svg(self, name: str, title: str, description: str) -> Markup:
        """The figure; `name` makes its ids unique on the page."""
        if self.legend:  # below the axes, so that no curve loses width to it
            self.figure.legend(loc="outside lower center", ncols=LEGEND_COLUMNS, handlelength=2.0, columnspacing=1.2)
        out = io.StringIO()
        self.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        drawn = out.getvalue()
        drawn = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", drawn, flags=re.DOTALL)
        view = re.search(r'viewBox="[^"]*"', drawn)
        assert view, "matplotlib gives every figure a viewBox"
        drawn = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
        for id, text in self._tips.items():
            drawn = drawn.replace(f'<g id="{id}">', f'<g id="{id}"><title>{escape(text)}</title>')
        drawn = re.sub(r'( id="|url\(#|href="#)', rf"\1{name}-", drawn)
        drawn = drawn.replace(INK, "currentColor")
        for number, hex in enumerate(SERIES, 1):
            drawn = drawn.replace(hex, f"var(--s{number})")
        head = (
            f'<svg {view[0]} role="img" aria-labelledby="{name}-title {name}-desc" xmlns="http://www.w3.org/2000/svg"'
            f' xmlns:xlink="http://www.w3.org/1999/xlink"><title id="{name}-title">{escape(title)}</title>'
            f'<desc id="{name}-desc">{escape(description)}</desc>'
        )
        return Markup(head + re.sub(r"\n\s*", "\n", drawn))
