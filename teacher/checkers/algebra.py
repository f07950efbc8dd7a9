r"""Arithmetic, equations and units, proven by sympy.

* one formula without a sign between sides: `Compute $3 \times (4 + 5)$.`, answer `27`
* two, the second a unit: `How many $m$ are $3 km + 200 m$?` in either order, answer `3200 m`
* equations: `Solve $x^2 = 9$.`, answer `x = 3 or x = -3`; `$x + y = 5$ and $x - y = 1$`, answer `x = 3, y = 2`. The
  answer names all real solutions, `no solution` where there is none. Several equations are linear ones.

What is proven is what the formulas say; the words around them are not read.
"""

import re

import sympy
from sympy.physics import units
from sympy.polys.polyerrors import PolynomialError

from teacher.checkers.formulas import is_relation, names_in, read_formula, read_relation
from teacher.checkers.problem import Checker, Problem, Unproven

UNITS = {
    "mm": units.millimeter, "cm": units.centimeter, "m": units.meter, "km": units.kilometer, "inch": units.inch,
    "ft": units.foot, "mile": units.mile, "mg": units.milligram, "g": units.gram, "kg": units.kilogram,
    "s": units.second, "min": units.minute, "h": units.hour, "day": units.day, "week": units.day * 7,
    "ml": units.milliliter, "l": units.liter, "N": units.newton, "J": units.joule, "W": units.watt, "V": units.volt,
    "A": units.ampere, "Pa": units.pascal, "Hz": units.hertz,
}  # fmt: skip
HIGHEST_DEGREE = 4
NO_SOLUTION = "no solution"
_OR = re.compile(r"\s*(?:\bor\b|;)\s*")
_AND = re.compile(r"\s*(?:,|\band\b)\s*")


def prove(problem: Problem) -> str:
    """The kind of a problem whose answer is right. Raises `Unproven`."""
    formulas = problem.formulas
    if not formulas:
        raise Unproven("no formula between dollar signs")
    relations = [is_relation(formula) for formula in formulas]
    if all(relations):
        return _prove_equations(formulas, problem.answer)
    if any(relations):
        raise Unproven("equations beside other formulas")
    if len(formulas) == 2 and len(wanted := [formula for formula in formulas if formula in UNITS]) == 1:
        other = next(formula for formula in formulas if formula not in UNITS)
        return _prove_unit(other, wanted[0], problem.answer)
    if len(formulas) > 1:
        raise Unproven("several formulas")
    if _number(problem.answer) != _number(formulas[0]):
        raise Unproven("the answer is not what the formula gives")
    return "arithmetic"


def _no_name(word: str) -> sympy.Expr:
    raise Unproven(f"a name {word!r:.20} where numbers alone are expected")


def _number(text: str) -> sympy.Expr:
    return _finite(read_formula(text, sympy.Rational, _no_name))


def _finite(value: sympy.Expr) -> sympy.Expr:
    if value.has(sympy.zoo, sympy.nan, sympy.oo):
        raise Unproven("a division by zero")
    return value


def _symbol(word: str) -> sympy.Symbol:
    if len(word) > 2:
        raise Unproven(f"a name {word!r:.20} longer than an unknown's")
    return sympy.Symbol(word, real=True)


def _unit(word: str) -> sympy.Expr:
    if word not in UNITS:
        raise Unproven(f"an unknown unit {word!r:.20}")
    return UNITS[word]


def _prove_unit(given: str, wanted: str, answer: str) -> str:
    values = [_finite(read_formula(text, sympy.Rational, _unit)) for text in (given, answer)]
    if not names_in(answer) <= {wanted}:
        raise Unproven(f"the answer is not in {wanted}")
    target = UNITS[wanted]
    ratios = [sympy.nsimplify(units.convert_to(value / target, target).simplify()) for value in values]
    if not all(ratio.is_number and not ratio.has(units.Quantity) for ratio in ratios):
        raise Unproven("sides of different dimensions")
    if ratios[0] != ratios[1]:
        raise Unproven("the answer is not the same quantity")
    return "units"


def _equations(texts: list[str]) -> list[sympy.Expr]:
    """Left minus right of each; real unknowns."""
    sides = [one for text in texts for one in read_relation(text, sympy.Rational, _symbol)]
    if any(sign.__name__ != "Eq" for _, sign, _ in sides):
        raise Unproven("an inequality")
    return [_finite(sympy.sympify(left - right)) for left, _, right in sides]


def _prove_equations(formulas: list[str], answer: str) -> str:
    unknown = sorted({name for formula in formulas for name in names_in(formula)})
    if not unknown:
        raise Unproven("equations without an unknown")
    symbols = [_symbol(name) for name in unknown]
    claimed = _claimed(answer, unknown)
    try:
        truth, kind = _solutions(_equations(formulas), symbols)
    except (PolynomialError, NotImplementedError):
        raise Unproven("equations that are beyond this checker") from None
    if truth != claimed:
        raise Unproven("the answer is not all real solutions" if claimed < truth else "the answer is not a solution")
    return kind


def _solutions(equations: list[sympy.Expr], symbols: list[sympy.Symbol]) -> tuple[set[tuple[sympy.Expr, ...]], str]:
    """All real solutions, each the values of the symbols in their order, and the kind of the problem."""
    if len(symbols) == 1 and len(equations) == 1:
        above, below = sympy.fraction(sympy.together(equations[0]))
        degree = sympy.degree(above, symbols[0]) if above.has(symbols[0]) else 0
        if degree > HIGHEST_DEGREE or sympy.degree(below, symbols[0]) > HIGHEST_DEGREE:
            raise Unproven(f"an equation of a degree above {HIGHEST_DEGREE}")
        found = sympy.solveset(equations[0], symbols[0], sympy.S.Reals)
        if found not in (sympy.S.EmptySet,) and not isinstance(found, sympy.FiniteSet):
            raise Unproven("an equation without a finite number of solutions")
        return {(sympy.nsimplify(value),) for value in found}, "linear equation" if degree < 2 else "equation"
    if any(sympy.Poly(equation, *symbols).total_degree() > 1 for equation in equations):
        raise Unproven("several equations that are not linear")
    found = sympy.linsolve(equations, *symbols)
    if any(value.free_symbols for solution in found for value in solution):
        raise Unproven("equations without a finite number of solutions")
    return {tuple(solution) for solution in found}, "linear system"


def _claimed(answer: str, unknown: list[str]) -> set[tuple[sympy.Expr, ...]]:
    """The solutions that an answer names; numbers alone where there is one unknown."""
    if answer.strip(" .").lower() == NO_SOLUTION:
        return set()
    solutions = []
    for one in _OR.split(answer.rstrip(" .")):
        parts = _AND.split(one)
        if len(unknown) == 1 and not any("=" in part for part in parts):
            solutions += [{unknown[0]: _number(part)} for part in parts]
            continue
        names, values = zip(*(_assigned(part) for part in parts), strict=True)
        if len(unknown) == 1 and set(names) == set(unknown):
            solutions += [{unknown[0]: value} for value in values]  # x = 3, x = -3
        elif sorted(names) == unknown:
            solutions.append(dict(zip(names, values, strict=True)))
        else:
            raise Unproven(f"the answer does not give each of {', '.join(unknown)} once")
    return {tuple(solution[name] for name in unknown) for solution in solutions}


def _assigned(text: str) -> tuple[str, sympy.Expr]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip().isidentifier():
        raise Unproven(f"{text!r:.40} is no value of an unknown")
    return name.strip(), _number(value)


CHECKER = Checker(prove)
