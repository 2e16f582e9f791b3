"""Contractions (layers, attention, lookups): the contracted units of both factors are the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor

from canon.tracing.axis_unification import Structure
from canon.tracing.operations.context import Context, Traced, handles, unknown


def spread(rank: int) -> list[str]:
    return [f"batch{n}" for n in range(rank, 0, -1)]


def matmul_axes(c: Context, left: list[Structure], right: list[Structure]) -> list[Structure]:
    a = ["inner"] if len(left) == 1 else [*spread(len(left) - 2), "row", "inner"]
    b = ["inner"] if len(right) == 1 else [*spread(len(right) - 2), "inner", "column"]
    batch = spread(max(len(left), len(right), 2) - 2)
    out = [*batch, *(["row"] if len(left) > 1 else []), *(["column"] if len(right) > 1 else [])]
    return c.contract([left, right], [a, b], out)


@handles("mm", "bmm", "matmul", "mv", "dot", "vdot")
def matmul(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    left, right = [x for x in vars(a).values() if isinstance(x, Traced)][:2]
    return matmul_axes(c, c.axes(left), c.axes(right))


@handles("outer", "ger")
def outer(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return [*c.axes(a.self), *c.axes(a.vec2)]


def _biased(c: Context, result: list[Structure], bias: Traced | None) -> list[Structure]:
    if bias is None:
        return result
    axes = c.axes(bias)
    joined, owners = c.broadcast([result, axes])
    for place, having in zip(range(-len(joined), 0), owners, strict=True):
        if len(having) == 2:
            c.units.equate(result[place], axes[place])
        else:
            c.still([joined[place]])
    return joined


@handles("addmm", "baddbmm", "addmv")
def addmm(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    left, right = [x for x in vars(a).values() if isinstance(x, Traced)][1:3]
    return _biased(c, matmul_axes(c, c.axes(left), c.axes(right)), a.self)


@handles("addbmm")
def addbmm(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """The sum of a batch of products."""
    result = c.contract(
        [c.axes(a.batch1), c.axes(a.batch2)],
        [["batch", "row", "inner"], ["batch", "inner", "column"]],
        ["row", "column"],
    )
    return _biased(c, result, a.self)


@handles("bilinear")
def bilinear(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    left, right, weight = c.axes(a.input1), c.axes(a.input2), c.axes(a.weight)
    batch = spread(len(left) - 1)
    result = c.contract(
        [left, right, weight],
        [[*batch, "left"], [*batch, "right"], ["out", "left", "right"]],
        [*batch, "out"],
    )
    return _biased(c, result, a.bias)


@handles("linear")
def linear(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes, weight = c.axes(a.input), c.axes(a.weight)
    batch = [f"batch{n}" for n in range(len(axes) - 1)]
    result = c.contract([axes, weight], [[*batch, "in"], ["out", "in"]], [*batch, "out"])
    return _biased(c, result, a.bias)


@handles("grouped_mm_fallback", "_grouped_mm", "grouped_mm")
def grouped(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """Rows sorted by expert times the matrix of their expert; `offs` says where the rows of each end."""
    rows, weight, *_ = [x for x in vars(a).values() if isinstance(x, Traced)]
    offsets = getattr(a, "offs", None)
    if rows.value.dim() != 2 or weight.value.dim() != 3 or offsets is None:
        return unknown(c, a, out)
    axes, given = c.axes(rows), c.axes(weight)
    if offsets.numbers is None:
        c.units.freeze_axis(given[0], c.because("experts are looked up by number"))
    else:
        c.units.unify(offsets.numbers.axis, given[0], c.because("sizes do not match"))
        offsets.numbers.use()
        c.carry(axes[:1], given[0])
    c.units.freeze_axis(axes[0], c.because("rows are sorted by expert"))
    result = c.contract([axes, given], [["row", "in"], ["expert", "in", "out"]], ["row", "out"])
    bias = getattr(a, "bias", None)
    return result if bias is None else unknown(c, a, out)


@handles("einsum")
def einsum(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    equation = a.equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = [c.axes(x) for x in a.tensors]
    labels: list[list[str]] = []
    for term, axes in zip(left.split(","), operands, strict=True):
        before, dots, after = term.partition("...")
        extra = len(axes) - len(before) - len(after)
        labels.append([*before, *(spread(extra) if dots else []), *after])
    if arrow:
        before, dots, after = right.partition("...")
        extra = len(out.shape) - len(before) - len(after)
        names = [*before, *(spread(extra) if dots else []), *after]
    else:
        flat = [name for term in labels for name in term]
        names = sorted({n for n in flat if flat.count(n) == 1 or n.startswith("batch")})
    return c.contract(operands, labels, names)


@handles(
    "conv1d",
    "conv2d",
    "conv3d",
    "convolution",
    "_convolution",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
)
def convolution(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    spatial = a.weight.value.dim() - 2
    transposed = getattr(a, "transposed", None) or "transpose" in c.name
    axes = c.axes(a.input)
    (batch, channels, places), weight = (
        (axes[: -spatial - 1], axes[-spatial - 1], axes[-spatial:]),
        c.axes(a.weight),
    )
    for axis in (*places, *weight[2:]):
        c.units.freeze_axis(axis, c.because("positions of a convolution"))
    own = [f"batch{n}" for n in range(len(batch))]
    if a.groups == 1:
        names = ["in", "out"] if transposed else ["out", "in"]
        result = c.contract([[*batch, channels], weight[:2]], [[*own, "in"], names], [*own, "out"])
    else:
        why = c.because(f"{a.groups} groups do not divide it")
        group, inside = c.units.split(channels, (a.groups, c.units.size(channels) // a.groups), why)
        w_group, rest = c.units.split(weight[0], (a.groups, c.units.size(weight[0]) // a.groups), why)
        names = ["group", "in", "out"] if transposed else ["group", "out", "in"]
        *kept, group, rest = c.contract(
            [[*batch, group, inside], [w_group, rest, weight[1]]],
            [[*own, "group", "in"], names],
            [*own, "group", "out"],
        )
        result = [*kept, c.units.product([group, rest])]
    result = _biased(c, result, a.bias)
    return [*result, *c.fixed(out.shape[len(result) :], "positions of a convolution")]


@handles(
    "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_cudnn_attention",
)
def attention(c: Context, a: SimpleNamespace, out: Any) -> Any:
    query, key, value = c.axes(a.query), c.axes(a.key), c.axes(a.value)
    repeats = [1, 1]
    if getattr(a, "enable_gqa", False):
        sizes = [c.units.size(axes[-3]) for axes in (query, key, value)]
        for axes, size, n in ((key, sizes[1], 0), (value, sizes[2], 1)):
            repeats[n] = sizes[0] // size
            axes[-3] = c.units.product([axes[-3], c.units.free(repeats[n])])
    batch = spread(len(query) - 2)
    scores = c.contract(
        [query, key],
        [[*batch, "row", "inner"], [*spread(len(key) - 2), "column", "inner"]],
        [*batch, "row", "column"],
    )
    c.still(scores)
    if getattr(a, "is_causal", False):
        for axis in scores[-2:]:
            c.units.freeze_axis(axis, c.because("the order of a causal mask"))
    mask = getattr(a, "attn_mask", None) or getattr(a, "attn_bias", None)
    if mask is not None:
        c.still(c.axes(mask))
        scores, _ = c.broadcast([scores, c.axes(mask)])
    c.mix(scores, [len(scores) - 1])
    result = c.contract(
        [scores, value],
        [[*batch, "row", "column"], [*spread(len(value) - 2), "column", "inner"]],
        [*batch, "row", "inner"],
    )
    return result if isinstance(out, Tensor) else [result, *([None] * (len(out) - 1))]


@handles("cdist", "_cdist_forward", "_euclidean_dist")
def distances(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Between all rows of one and of the other: the coordinates may be in any order, the same for both."""
    left, right = [c.axes(x) for x in vars(a).values() if isinstance(x, Traced)][:2]
    c.still([*left, *right])
    result = matmul_axes(c, left, [*right[:-2], right[-1], right[-2]])
    c.still(result)
    return result


@handles("_pdist_forward")
def distances_of_pairs(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Between all pairs of rows, which have an order."""
    rows, coordinates = c.axes(a.self)
    c.units.freeze_axis(rows, c.because("pairs of rows have an order"))
    c.still([coordinates])
    return c.fixed(out.shape, "pairs of rows have an order")


@handles("linalg_inv_ex", "linalg_pinv")
def inverse(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """Rows of the inverse are columns of the matrix."""
    given = a.A if hasattr(a, "A") else a.self
    *batch, row, column = c.axes(given)
    c.still([*batch, row, column])
    result = [*batch, column, row]
    return result if isinstance(out, Tensor) else [result, batch]


@handles("_linalg_solve_ex")
def solve(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """`X` of `A X = B`: rows of B are those of A, rows of X are columns of A."""
    matrix, right = c.axes(a.A), c.axes(a.B)
    if not a.left or len(matrix) != len(right):
        return unknown(c, a, out)
    c.still([*matrix, *right])
    c.units.unify(matrix[-2], right[-2], c.because("sizes do not match"))
    result = [*right[:-2], matrix[-1], right[-1]]
    return [result, *([None] * (len(out) - 1))]


@handles("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(c: Context, a: SimpleNamespace, out: Any) -> list[Any]:
    """Sums, means or maxima of rows, one for each bag."""
    rows, width = c.axes(a.weight)
    c.units.freeze_axis(rows, c.because("rows are looked up by number"))
    c.still([width])
    bags = c.fixed([out[0].shape[0]], "bags have an order")[0]
    return [[bags, width], *([None] * (len(out) - 1))]


@handles("embedding")
def embedding(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    rows, width = c.axes(a.weight)
    c.units.freeze_axis(rows, c.because("rows are looked up by number"))
    return [*c.axes(a.indices), width]
