"""Elementwise operations: units move together; the effect on their scale depends on the function."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, Dim, Traced, handles, marked, unknown

_LINEAR = "neg clone contiguous alias detach detach_ _to_copy to dropout feature_dropout alpha_dropout lift_fresh_copy type_as positive real imag conj _conj resolve_conj conj_physical"
_ODD = "tanh sin atan erf asinh sinh asin tan hardshrink softshrink tanhshrink sign"
_POINTWISE = "hardswish hardsigmoid hardtanh relu6 gelu silu mish elu selu celu softplus log_sigmoid sigmoid logit rrelu threshold masked_fill where clamp exp expm1 log log1p log2 erfc softsign bernoulli nan_to_num complex polar angle __and__ __or__ __xor__"


@handles(*_LINEAR.split())
def same(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    return list(a.self.dims if hasattr(a, "self") else a.input.dims)


@handles("relu", "leaky_relu", "abs")
def homogeneous(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return marked(c, c.axes(a.self), c.units.positive)


_TABLE = "a table of sines and cosines made without parameters, as rotary embeddings use"


@handles(*_ODD.split())
def odd(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if not a.self.learned and c.name == "sin":
        c.freeze(a.self, _TABLE)
        return c.fixed(out.shape, _TABLE)
    return marked(c, c.axes(a.self), c.units.odd)


@handles("cos")
def even(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if not a.self.learned:
        c.freeze(a.self, _TABLE)
        return c.fixed(out.shape, _TABLE)
    c.still(c.axes(a.self))
    return c.axes(a.self)


@handles("prelu", "_prelu_kernel")
def prelu(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes, (slope, *_) = c.axes(a.self), c.axes(a.weight)
    if a.weight.value.dim() == a.self.value.dim():
        axes, _ = c.broadcast([axes, c.axes(a.weight)])
        c.still(c.axes(a.weight))
    elif c.units.size(slope) != 1 and len(axes) > 1:
        c.units.unify(axes[1], slope, c.because("slopes"))
        c.still([slope])
    return marked(c, axes, c.units.positive)


@handles("bucketize", "searchsorted")
def bucket(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """The number of the interval that each entry lies in; the intervals, one after the other, are the same for all."""
    boundaries = a.boundaries if hasattr(a, "boundaries") else a.sorted_sequence
    if not isinstance(a.self, Traced) or boundaries.value.dim() != 1:
        return unknown(c, a, out)
    c.freeze(boundaries, "its order matters")
    c.still(c.axes(a.self))
    return c.axes(a.self)


@handles("add", "sub", "rsub")
def add(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    operands = [x for x in (a.self, a.other) if isinstance(x, Traced)]
    if len(operands) == 1:
        scalar = a.other if operands[0] is a.self else a.self
        if scalar != 0:
            c.still(c.axes(operands[0]))
        return c.axes(operands[0])
    zeros = [x.zeros for x in operands]
    axes = [c.axes(x) for x in operands]
    result, owners = c.broadcast(axes)
    for place, having in zip(range(-len(result), 0), owners, strict=True):
        if len(having) == 2:
            c.units.equate(axes[0][place], axes[1][place])
        elif not any(zeros):
            c.still([axes[n][place] for n in having])
    return result


def _product(c: Context, a: SimpleNamespace, sign: float) -> list[Structure]:
    operands = [x for x in (a.self, a.other) if isinstance(x, Traced)]
    if len(operands) == 1:
        if operands[0] is a.self:
            return c.axes(a.self)
        return [c.units.relate(axis, [(sign, axis)]) for axis in c.axes(a.other)]
    axes = [c.axes(x) for x in operands]
    result, owners = c.broadcast(axes)
    signs = (1.0, sign)
    for number, having in enumerate(owners):
        place = number - len(result)
        if having and having != [0]:
            result[number] = c.units.relate(result[number], [(signs[n], axes[n][place]) for n in having])
    return result


@handles("mul")
def multiply(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _product(c, a, 1.0)


@handles("div", "true_divide")
def divide(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _product(c, a, -1.0)


def _power(c: Context, axes: list[Structure], exponent: float) -> list[Structure]:
    if exponent != int(exponent) or exponent % 2 == 0:
        marked(c, axes, c.units.positive)
    return [c.units.relate(axis, [(exponent, axis)]) for axis in axes]


@handles("pow")
def power(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if isinstance(a.self, Traced) and isinstance(a.exponent, int | float) and a.exponent:
        return _power(c, c.axes(a.self), float(a.exponent))
    return pointwise(c, a, out)


_EXPONENTS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0, "reciprocal": -1.0}


@handles(*_EXPONENTS)
def root(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _power(c, c.axes(a.self), _EXPONENTS[c.name])


@handles(*_POINTWISE.split())
def pointwise(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """An elementwise function without scale symmetry: its units move together."""
    if not isinstance(out, Tensor):  # the places where a condition holds
        return unknown(c, a, out)
    axes = [c.axes(x) for x in vars(a).values() if isinstance(x, Traced)]
    for operand in axes:
        c.still(operand)
    return c.broadcast(axes)[0]
