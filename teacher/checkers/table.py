"""All checkers, by the names under which `gates.verify` takes them."""

from teacher.checkers import algebra, constraints, programs
from teacher.checkers.problem import Checker

CHECKERS: dict[str, Checker] = {
    "sympy": algebra.CHECKER,
    "z3": constraints.CHECKER,
    "python": programs.CHECKER,
}
