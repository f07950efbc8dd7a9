"""Puzzles of whole numbers, proven by z3: the answer meets every formula, and nothing else does.

`Two whole numbers: $x + y = 10$, $x * y = 21$ and $x < y$.`, answer `x = 3, y = 7`.
"""

import importlib.util
import re
from typing import Any

from teacher.checkers.formulas import compared, names_in, read_relation
from teacher.checkers.problem import Checker, Problem, Unproven

MILLISECONDS = 2000
"""For one question to the solver."""
MOST_UNKNOWNS = 12
_ASSIGNED = re.compile(r"\s*([A-Za-z]\w{0,7})\s*=\s*([-−]?\d{1,12})\s*")


def missing() -> str | None:
    """What has to be installed."""
    return None if importlib.util.find_spec("z3") else "z3-solver (pip install 'notewright[verify]')"


def prove(problem: Problem) -> str:
    """The kind of a problem whose answer is right. Raises `Unproven`."""
    import z3  # an extra of the project

    formulas = problem.formulas
    unknown = sorted({name for formula in formulas for name in names_in(formula)})
    if not formulas or not unknown or len(unknown) > MOST_UNKNOWNS:
        raise Unproven("no formulas with unknowns between dollar signs" if not unknown else "too many unknowns")
    claimed = _claimed(problem.answer)
    if sorted(claimed) != unknown:
        raise Unproven(f"the answer does not give each of {', '.join(unknown)} once")
    context = z3.Context()  # of its own: z3's global one is not for threads
    symbols = {name: z3.Int(name, context) for name in unknown}

    def number(digits: str) -> Any:
        if "." in digits:
            raise Unproven("a number that is not whole")
        return z3.IntVal(digits, context)

    for formula in formulas:
        if "/" in formula or "÷" in formula or "frac" in formula:
            raise Unproven("a division: multiply it out")
    relations = [sides for formula in formulas for sides in read_relation(formula, number, symbols.__getitem__)]
    given = [symbols[name] == claimed[name] for name in unknown]
    solver = z3.Solver(ctx=context)
    solver.set("timeout", MILLISECONDS)
    solver.add(*map(compared, relations))
    if solver.check(*given) != z3.sat:
        raise Unproven("the answer does not meet all formulas")
    if solver.check(z3.Not(z3.And(*given, context))) != z3.unsat:
        raise Unproven("other numbers may meet all formulas too")
    return "whole numbers"


def _claimed(answer: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for part in re.split(r",|\band\b", answer.rstrip(" .")):
        found = _ASSIGNED.fullmatch(part)
        if not found or found[1] in values:
            raise Unproven(f"{part.strip()!r:.40} is no value of an unknown")
        values[found[1]] = int(found[2].replace("−", "-"))
    return values


CHECKER = Checker(prove, missing)
