"""What the page is put together from: verdicts, tables, figures, sections."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from curation.report.plots import Interval, spoken, written

Kind = Literal["better", "worse", "same", "note"]


class Verdict(NamedTuple):
    """A claim in words; `same` is "no detectable difference", `note` claims nothing."""

    words: str
    kind: Kind


class Tile(NamedTuple):
    """A figure to see first."""

    name: str
    value: str
    detail: str = ""


class Table(NamedTuple):
    """Cells are text or markup. `align` has a letter a column: l, r, or w for text that may wrap. A `folded` one shows
    its title alone until it is opened."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Markup]]
    align: str
    title: str = ""
    folded: bool = False


class Figure(NamedTuple):
    """A plot, what its intervals and n are, and its figures for who would rather read or copy them."""

    title: str
    svg: Markup
    caption: str
    table: Table | None = None


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


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """A dash for what is not known."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return written(value, digits, sign)


def count(value: float) -> str:
    """`12,345`."""
    return f"{round(value):,}"


def cell(value: Interval | None, digits: int = 2, sign: str = "") -> Markup:
    """A mean with its interval in small print."""
    if value is None:
        return Markup("\N{EN DASH}")
    mean, _, bounds = spoken(value, digits, sign).partition(" ")
    return Markup(f"{mean} <small>{bounds}</small>") if bounds else Markup(mean)


def prose(text: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def slug(label: str) -> str:
    """A label as part of an id."""
    return "".join(character if character.isalnum() else "-" for character in label.lower())


def shares(found: Sequence[tuple[str, float]], most: int = 4) -> str:
    """`question-answer 90%, copy 10%`."""
    shown = [f"{name} {share:.0%}" for name, share in found if share >= 0.005][:most]
    return ", ".join(shown)


def marked(text: str, other: str, tag: Literal["ins", "del"]) -> Markup:
    """The text with the words marked that the other one does not hold anywhere, whatever their order, case or
    punctuation: a rewrite reorders, and that alone is no new content."""
    known = {_bare(word) for word in other.split()}
    found: list[str] = []
    inside = False
    for piece in _pieces(text):
        new = bool(_bare(piece)) and _bare(piece) not in known
        if not piece.isspace() and new != inside:
            found.append(f"<{tag}>" if new else f"</{tag}>")
            # The space before a mark stays outside of it.
            if not new and len(found) > 1 and found[-2].isspace():
                found[-2:] = [found[-1], found[-2]]
            inside = new
        found.append(str(escape(piece)))
    return Markup("".join(found) + (f"</{tag}>" if inside else ""))


def _pieces(text: str) -> list[str]:
    """Words and the white space between them."""
    found: list[str] = []
    for character in text:
        if found and found[-1][-1].isspace() == character.isspace():
            found[-1] += character
        else:
            found.append(character)
    return found


def _bare(word: str) -> str:
    return "".join(character for character in word.casefold() if character.isalnum())
