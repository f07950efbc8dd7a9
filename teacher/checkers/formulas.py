"""Formulas that a stranger wrote, read without running them.

A formula is parsed by Python's own parser and evaluated over whatever numbers the caller brings (sympy's, z3's): only
arithmetic, comparisons and names that the caller knows. `2x` is a product and `^` a power.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

from teacher.checkers.problem import Unproven

LONGEST = 200
"""Characters of a formula."""
MOST_DIGITS = 15
MOST_EXPONENT = 12
_SIGNS = str.maketrans({"^": "**", "×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "≤": "<=", "≥": ">=", "≠": "!="})
_LATEX = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\leq": "<=",
    r"\geq": ">=",
    r"\neq": "!=",
    r"\left": "",
    r"\right": "",
}
_FRACTION = re.compile(r"\\frac\{([^{}]+)\}\{([^{}]+)\}")
_PRODUCT = re.compile(r"(?<=[0-9)])\s*(?=[A-Za-z(])|(?<=\))\s*(?=\d)")
_EQUALS = re.compile(r"(?<![<>!=])=(?!=)")
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

Sides = tuple[Any, type[ast.cmpop], Any]


def read_formula(text: str, number: Callable[[str], Any], name: Callable[[str], Any]) -> Any:
    """The value of an expression: `number` makes one of its digits (`12`, `0.5`), `name` of a name. Raises `Unproven`
    for what is none."""
    tree = _parse(text)
    if isinstance(tree, ast.Compare):
        raise Unproven(f"{text!r:.60} is no expression")
    return _value(tree, number, name)


def read_relation(text: str, number: Callable[[str], Any], name: Callable[[str], Any]) -> list[Sides]:
    """The sides of an equation or of a chain of inequalities (`0 < x <= 5` is two), with the kind of sign between them.
    Raises `Unproven` for what is none."""
    tree = _parse(text)
    if not isinstance(tree, ast.Compare):
        raise Unproven(f"{text!r:.60} is no equation")
    values = [_value(side, number, name) for side in (tree.left, *tree.comparators)]
    for sign in tree.ops:
        if type(sign) not in _OPERATORS:
            raise Unproven(f"{text!r:.60} holds what is no arithmetic")
    return [(left, type(sign), right) for left, sign, right in zip(values, tree.ops, values[1:], strict=False)]


def compared(sides: Sides) -> Any:
    """What the numbers' own operators make of two sides."""
    left, sign, right = sides
    return _OPERATORS[sign](left, right)


def is_relation(text: str) -> bool:
    """Whether a formula holds a sign between two sides."""
    return isinstance(_parse(text), ast.Compare)


def names_in(text: str) -> set[str]:
    """The names of a formula."""
    return {node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)}


def _parse(text: str) -> ast.expr:
    if len(text) > LONGEST:
        raise Unproven("a formula longer than a formula may be")
    plain = _FRACTION.sub(r"((\1)/(\2))", text)
    for latex, sign in _LATEX.items():
        plain = plain.replace(latex, sign)
    plain = _PRODUCT.sub("*", _EQUALS.sub("==", plain.translate(_SIGNS)).strip())
    try:
        return ast.parse(plain, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Unproven(f"{text!r:.60} is no formula") from None


def _value(node: ast.expr, number: Callable[[str], Any], name: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            digits = repr(value)
            if len(digits) > MOST_DIGITS or not re.fullmatch(r"\d+(\.\d+)?", digits):
                raise Unproven("a number with too many digits")
            return number(digits)
        case ast.Name(id=word):
            return name(word)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(operand, number, name))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, number, name), right)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            values = _value(left, number, name), _value(right, number, name)
            try:
                return _OPERATORS[type(sign)](*values)
            except ZeroDivisionError:
                raise Unproven("a division by zero") from None
    raise Unproven("a formula with more than arithmetic")


def _power(base: Any, exponent: ast.expr) -> Any:
    """Powers are products, which all numbers know, of a bounded size."""
    times = exponent.value if isinstance(exponent, ast.Constant) else None
    if type(times) is not int or not 1 <= times <= MOST_EXPONENT:
        raise Unproven(f"an exponent that is no whole number from 1 to {MOST_EXPONENT}")
    result = base
    for _ in range(times - 1):
        result = result * base
    return result
