"""Licences that a text joins: expressions as SPDX writes them, and lists by signs.

No parser of SPDX's grammar alone would do: corpora join by slashes and commas, and names have blanks and brackets.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

Expression = str | tuple[str, tuple["Expression", ...]]
"""One licence, or `AND` or `OR` with what it joins."""

_SIGN = re.compile(
    r"(?P<url>(?<![^\s(])(?:(?:https?:)?//|www\.)[^\s,;()]+)|(?P<bracket>[()])|(?P<list>[,;]+)(?!\s*(?:and|or)\b)"
    r"|(?P<or>(?<![\w.-])(?:and/or|or)(?![\w.-]))|(?P<and>(?<![\w.-])and(?![\w.-])|&+)|(?P<slash>[/|]+)",
    re.I,
)
"""What joins licences. The slashes of a URL are its own."""
_LEVELS = {"list": "AND", "or": "OR", "and": "AND", "slash": "OR"}
"""From the weakest to the strongest: a list's parts all hold, and `MIT/Apache-2.0`, Cargo's older way to write OR, is
one of them."""


@lru_cache(maxsize=4096)
def parse_expression(text: str) -> Expression:
    """The expression that a text is, or the text itself, without brackets that hold all of it."""
    text = _balanced(text)
    for level, operator in _LEVELS.items():
        depth, ends = 0, [0]
        for sign in _SIGN.finditer(text):
            if sign.lastgroup == "bracket":
                depth += 1 if sign[0] == "(" else -1
            elif sign.lastgroup == level and not depth:
                ends += [sign.start(), sign.end()]
        if len(ends) == 1:
            continue
        ends.append(len(text))
        pieces = (text[begin:end].strip(" ,;") for begin, end in zip(ends[::2], ends[1::2], strict=True))
        parts = tuple(dict.fromkeys(map(parse_expression, filter(None, pieces))))
        if len(parts) > 1:
            # One level for each operator.
            inner = (part[1] if isinstance(part, tuple) and part[0] == operator else (part,) for part in parts)
            return operator, tuple(dict.fromkeys(itertools.chain(*inner)))
        if parts:
            return parts[0]
    if text.startswith("(") and text.endswith(")") and _balanced(text[1:-1]) == text[1:-1].strip():
        return parse_expression(text[1:-1].strip())
    return text


def _balanced(text: str) -> str:
    """The text with blanks for brackets that have no partner."""
    kept, opened = list(text), list[int]()
    for place, sign in enumerate(text):
        if sign == "(":
            opened.append(place)
        elif sign == ")" and opened:
            opened.pop()
        elif sign == ")":
            kept[place] = " "
    for place in opened:
        kept[place] = " "
    return "".join(kept).strip()


def leaves(expression: Expression) -> Iterator[str]:
    """Its single licences."""
    if isinstance(expression, str):
        yield expression
    else:
        for part in expression[1]:
            yield from leaves(part)


def map_leaves(expression: Expression, name_of: Callable[[str], str]) -> Expression:
    """The expression of `name_of` each licence."""
    if isinstance(expression, str):
        return name_of(expression)
    parts = tuple(dict.fromkeys(map_leaves(part, name_of) for part in expression[1]))
    return (expression[0], parts) if len(parts) > 1 else parts[0]


def all_of(names: Iterable[str]) -> str:
    """The expression of licences that all hold."""
    parts = tuple(parse_expression(name) for name in dict.fromkeys(names))
    return write_expression(("AND", parts) if len(parts) > 1 else parts[0]) if parts else ""


def write_expression(expression: Expression) -> str:
    """As a text that `parse_expression` reads back."""
    if isinstance(expression, str):
        return expression
    parts = (_part(part) if isinstance(part, str) else f"({write_expression(part)})" for part in expression[1])
    return f" {expression[0]} ".join(parts)


def _part(name: str) -> str:
    """A name as a part of an expression, which has brackets and operators of its own."""
    name = name.translate(str.maketrans("()", "[]"))
    return name if parse_expression(name) == name else re.sub(r"[\s,;&|/]+", "-", name).strip("-")
