"""The headings of a text in Markdown's two forms, of which reStructuredText's usual one is the second."""

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

TITLE_CHARACTERS = 200
"""A longer line is a paragraph, whatever stands below it."""
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(?=[\w-]+[ \t]*:)(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")
"""A page's settings above its text, as Jekyll and pandoc read them."""
_HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)")
_INK = re.compile(r"\S")


class Heading(NamedTuple):
    """A heading of a text."""

    place: int
    level: int
    title: str


def fence_after(line: str, fence: str) -> str:
    """The fence of the code that is open behind the line, "" where none is; `fence` is that before it. One that names a
    language opens code and never ends it (CommonMark 0.31, section 4.5)."""
    mark = _FENCE.match(line)
    if mark is None:
        return fence
    if fence:
        return "" if mark[1].startswith(fence) and not mark[2].strip() else fence
    return mark[1]


def find_headings(text: str) -> Iterator[Heading]:
    """The headings of a text, outside of its fenced code and of the settings above it."""
    settings = FRONT_MATTER.match(text)
    place, fence = settings.end() if settings else 0, ""
    title, title_place, alone = "", 0, True  # the line before, and whether it stands alone
    for line in text[place:].splitlines(keepends=True):
        bare = line.rstrip()
        before, fence = fence, fence_after(bare, fence)
        if before or fence:
            bare = ""
        elif match := _HEADING.fullmatch(bare):
            yield Heading(place, len(match[1]), match[2])
            bare = ""
        elif match := _UNDERLINE.fullmatch(bare):
            if title and alone and len(title) < TITLE_CHARACTERS:
                yield Heading(title_place, 1 if match[1][0] == "=" else 2, title)
            bare = ""
        title, title_place, alone = bare.strip(), place, not title
        place += len(line)


def heading_paths(headings: Iterable[Heading], text: str, starts: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """For each of the places, in order, the headings under which the text stands there, the outermost first. A heading
    that begins there is not among them, and closes those that it does not belong to."""
    open_: list[Heading] = []
    coming = deque(headings)
    for start in starts:
        while coming and coming[0].place < start:
            while open_ and open_[-1].level >= coming[0].level:
                open_.pop()
            open_.append(coming.popleft())
        first = _INK.search(text, start)
        at_heading = coming and first is not None and coming[0].place <= first.start()
        level = coming[0].level if at_heading else math.inf
        yield tuple(heading.title for heading in open_ if heading.level < level)
