"""Symbolic sizes of an exported program, as text: checked before torch hands them to sympy.

torch reads such text with `sympy.sympify`, which evaluates it as Python. Here it is parsed, not
evaluated, and refused unless it is arithmetic on symbols and whole numbers.
"""

from __future__ import annotations

import ast
import re

from canon.validation import Invalid, shown

MAX_LENGTH = 10_000
MAX_DEPTH = 60
MAX_POWER = 16
MAX_NESTED_POWERS = 3

_SYMBOL = re.compile(r"[a-z]{1,4}[0-9]{1,6}")
_FUNCTIONS = frozenset(
    [
        "Add",
        "Mul",
        "Pow",
        "Mod",
        "Max",
        "Min",
        "Abs",
        "floor",
        "ceiling",
        "Integer",
        "Rational",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "And",
        "Or",
        "Not",
        "Equality",
        "Unequality",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "FloorDiv",
        "ModularIndexing",
        "Where",
        "PythonMod",
        "CleanDiv",
        "CeilToInt",
        "FloorToInt",
        "CeilDiv",
        "PowByNatural",
        "FloatPow",
        "FloatTrueDiv",
        "IntTrueDiv",
        "IsNonOverlappingAndDenseIndicator",
        "TruncToFloat",
        "TruncToInt",
        "RoundToInt",
        "RoundDecimal",
        "ToFloat",
        "Identity",
    ]
)
_POWERS = frozenset({"Pow", "PowByNatural", "FloatPow"})
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ASSUMPTIONS = frozenset({"positive", "nonnegative", "negative", "nonpositive", "integer", "real", "finite"})


def check(value: object) -> str:
    """`value`, if it is text of such an expression; `Invalid` otherwise."""
    if not isinstance(value, str) or len(value) > MAX_LENGTH:
        raise Invalid(f"expected a symbolic expression, found {shown(value)}")
    try:
        tree = ast.parse(value.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Invalid(f"'{shown(value)}' is not a symbolic expression") from None
    _check(tree, value, MAX_DEPTH, MAX_NESTED_POWERS)
    return value


def _check(node: ast.expr, whole: str, depth: int, powers: int) -> None:
    refusal = Invalid(f"'{shown(whole)}' is not arithmetic on symbols and whole numbers")
    if depth == 0 or powers < 0:
        raise refusal
    inner: list[ast.expr] = []
    if isinstance(node, ast.Constant):
        allowed = isinstance(node.value, bool | int | float) and abs(node.value) < 2**64
    elif isinstance(node, ast.Name):
        allowed = bool(_SYMBOL.fullmatch(node.id)) or node.id in ("true", "false")
    elif isinstance(node, ast.UnaryOp):
        allowed, inner = isinstance(node.op, ast.USub | ast.UAdd), [node.operand]
    elif isinstance(node, ast.BinOp):
        allowed, inner = isinstance(node.op, _OPERATORS), [node.left, node.right]
        if isinstance(node.op, ast.Pow):
            allowed, powers = allowed and _small(node.right), powers - 1
    elif isinstance(node, ast.Compare):
        allowed = all(isinstance(operator, _COMPARISONS) for operator in node.ops)
        inner = [node.left, *node.comparators]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name = node.func.id
        if name == "Symbol":
            allowed = _is_symbol(node)
        elif name == "Float":
            allowed = _is_float(node)
        else:
            allowed, inner = name in _FUNCTIONS and not node.keywords, node.args
            if name in _POWERS:
                allowed, powers = allowed and len(node.args) == 2 and _small(node.args[1]), powers - 1
    else:
        allowed = False
    if not allowed:
        raise refusal
    for part in inner:
        _check(part, whole, depth - 1, powers)


def _small(node: ast.expr) -> bool:
    """Whether an exponent is a small whole number: towers of powers cost more than their text."""
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("Integer", "Rational")
    ):
        return len(node.args) <= 2 and not node.keywords and all(_small(part) for part in node.args)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _small(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) <= MAX_POWER


def _is_symbol(node: ast.Call) -> bool:
    """`Symbol('s0', positive=True, integer=True)`."""
    named = len(node.args) == 1 and isinstance(node.args[0], ast.Constant)
    return (
        named
        and isinstance(node.args[0].value, str)  # type: ignore[attr-defined]
        and bool(_SYMBOL.fullmatch(node.args[0].value))  # type: ignore[attr-defined]
        and all(
            k.arg in _ASSUMPTIONS and isinstance(k.value, ast.Constant) and isinstance(k.value.value, bool)
            for k in node.keywords
        )
    )


def _is_float(node: ast.Call) -> bool:
    """`Float('0.5', precision=53)`."""
    value = node.args[0].value if len(node.args) == 1 and isinstance(node.args[0], ast.Constant) else None
    digits = isinstance(value, str) and re.fullmatch(
        r"-?[0-9]{1,40}(\.[0-9]{0,60})?(e[+-]?[0-9]{1,3})?", value
    )
    return bool(digits or isinstance(value, int | float)) and all(
        k.arg in ("precision", "dps")
        and isinstance(k.value, ast.Constant)
        and isinstance(k.value.value, int)
        and 0 < k.value.value <= 200
        for k in node.keywords
    )
