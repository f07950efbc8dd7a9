"""Problems with solutions, as a teacher writes them, and what it is to prove one.

    Problem: Solve $2x + 3 = 11$ for x.
    Solution: Subtract 3, then divide by 2.
    Answer: x = 4

The statement may hold formulas between dollar signs, and the solution may hold a program in a fence. Everything before
`Problem:` and after the answer's line is refused: it would reach students unproven.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

LONGEST = 4000
"""Characters of a problem."""
_FORMULA = re.compile(r"\$([^$\n]+)\$")
_PARTS = re.compile(
    r"\s*Problem:(?P<statement>.+?)\n\s*(?:Solution:(?P<solution>.*?)\n\s*)?Answer:[ \t]*(?P<answer>\S[^\n]*?)\s*",
    re.DOTALL,
)
_PROGRAM = re.compile(r"^```(?:python|py)?[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and the solution that is to be proven."""

    statement: str
    answer: str
    solution: str = ""

    @property
    def formulas(self) -> list[str]:
        """What stands between dollar signs in the statement."""
        return [formula.strip() for formula in _FORMULA.findall(self.statement)]

    @property
    def programs(self) -> list[str]:
        """What stands in fences in the solution."""
        return _PROGRAM.findall(self.solution + "\n")


class Unproven(ValueError):
    """A solution that a checker did not prove; its text is the reason, in a few words."""


class Checker(NamedTuple):
    """One way to prove solutions."""

    prove: Callable[[Problem], str]
    """Returns the kind of the problem, e.g. `linear equation`. Raises `Unproven` for a solution that is wrong, and for
    a problem that it knows nothing of."""
    missing: Callable[[], str | None] = lambda: None
    """What has to be installed before it can prove anything, in words; None where all is there."""


def read_problem(text: str) -> Problem:
    """The problem that a text is. Raises `Unproven` for a text that is none."""
    if len(text) > LONGEST:
        raise Unproven("longer than a problem may be")
    for word in ("Problem", "Answer"):
        if (count := len(re.findall(rf"^\s*{word}:", text, re.MULTILINE))) != 1:
            raise Unproven(f"has {count or 'no'} '{word}:'")
    found = _PARTS.fullmatch(text)
    if not found:
        raise Unproven("is no 'Problem:', 'Solution:' and 'Answer:' in this order, the answer one line at its end")
    return Problem(found["statement"].strip(), found["answer"], (found["solution"] or "").strip())
