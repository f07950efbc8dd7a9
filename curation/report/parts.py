"""What the page is put together from: verdicts, tables, figures, sections."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from markupsafe import Markup, escape

from configs import format
from curation.console.tables import Table
from curation.report.plots import MINUS, Interval, interval_text

UNKNOWN = "\N{EN DASH}"
Kind = Literal["better", "worse", "same", "note"]


class Verdict(NamedTuple):
    """What was found, in words; `same` is "no detectable difference", `note` says nothing about gains."""

    words: str
    kind: Kind


class Tile(NamedTuple):
    """A number to see first."""

    name: str
    value: str
    detail: str = ""


class Figure(NamedTuple):
    """A plot, what its intervals and n are, and its numbers for who would rather read or copy them."""

    title: str
    plot: Callable[[], Markup]
    caption: str
    table: Table | None = None

    @property
    def svg(self) -> Markup:
        """The plot, drawn now: a terminal shows tables alone."""
        return self.plot()


class Block(NamedTuple):
    """Figures and tables that belong together, such as those of one student."""

    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    title: str = ""


class Section(NamedTuple):
    """A heading, what to see there, and what shows it. `name` is the anchor, `link` what leads there."""

    name: str
    link: str
    title: str
    text: str
    blocks: Sequence[Block] = ()


def draw(
    plot: Callable[..., Markup],
    title: str,
    data: Any,
    caption: str,
    table: Table | None = None,
    *,
    within: str = "",
    **options: Any,
) -> Figure:
    """A figure by one of the kinds of `plots`. `within` tells figures of one title on a page apart."""
    name = slug(f"{within}-{title}" if within else title)
    return Figure(title, partial(plot, name, title, data, **options), caption, table)


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """With a real minus sign; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return format.number(value, digits, sign=sign).replace("-", MINUS)


def count(value: float) -> str:
    """`12,345`."""
    return f"{round(value):,}"


def cell(value: Interval | None, *, sign: bool = False) -> Markup:
    """A mean with its interval in small print."""
    if value is None:
        return Markup(UNKNOWN)
    mean, _, bounds = interval_text(value, sign=sign).partition(" ")
    return Markup(f"{mean} <small>{bounds}</small>") if bounds else Markup(mean)


def prose(text: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def slug(label: str) -> str:
    """A label as part of an id."""
    return "".join(character if character.isalnum() else "-" for character in label.lower())


def shares(by_name: Sequence[tuple[str, float]]) -> str:
    """The first four: `question-answer 90%, copy 10%`."""
    return ", ".join([f"{name} {share:.0%}" for name, share in by_name if share >= 0.005][:4])


def marked(text: str, other: str, tag: Literal["ins", "del"]) -> Markup:
    """The text with the words marked that the other one does not hold anywhere, whatever their order, case or
    punctuation: a rewrite reorders, and that alone is no new content."""
    known = {_bare(word) for word in other.split()}
    html = Markup(text[: len(text) - len(text.lstrip())])
    words = re.findall(r"(\S+)(\s*)", text)
    for new, group in itertools.groupby(words, key=lambda pair: bool(_bare(pair[0])) and _bare(pair[0]) not in known):
        run = "".join(word + space for word, space in group)
        words_alone = run.rstrip()
        # The space after a mark stays outside of it.
        html += Markup(f"<{tag}>{{}}</{tag}>{{}}").format(words_alone, run[len(words_alone) :]) if new else escape(run)
    return html


def _bare(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())
