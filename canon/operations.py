"""What each ATen operation says about the axes it touches. One handler per kind of operation.

A handler receives the tracer and the operation's arguments by name and returns the axes of the result
(one tuple of axes per result). What has no handler here freezes everything it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from canon.units import ONE, Structure, Units


@dataclass(eq=False)
class Split:
    """A view of one axis as several, not yet carried out: q, k, v are told apart by what comes next."""

    source: Structure
    sizes: tuple[int, ...]
    axes: list[Structure] | None = None


@dataclass(frozen=True)
class Part:
    """Axis `number` of a split."""

    split: Split
    number: int


Dim = Structure | Part


@dataclass
class Traced:
    """A tensor of the network with the structure of its axes."""

    value: Tensor
    dims: list[Dim]
    learned: bool = True
    """Whether a parameter has entered it."""
    zeros: bool = field(default=False)


class Context:
    """The units, and the operation being read."""

    def __init__(self) -> None:
        self.units = Units()
        self.name = ""
        self.where = ""
        self.statistics: set[int] = set()
        self.seen: list[list[Dim]] = []
        self.read: list[Dim] = []
        self.learned = True

    def because(self, text: str) -> str:
        return f"{text} ({self.where})"

    def axis(self, dim: Dim) -> Structure:
        if not isinstance(dim, Part):
            return dim
        split = dim.split
        if split.axes is None:
            split.axes = self.units.split(
                split.source, split.sizes, self.because("the view does not divide it")
            )
        return split.axes[dim.number]

    def mention(self, dim: Dim) -> Structure:
        """The axis as far as it was needed: a view that nothing used is not carried out."""
        if isinstance(dim, Part):
            return dim.split.source if dim.split.axes is None else dim.split.axes[dim.number]
        return dim

    def axes(self, traced: Traced) -> list[Structure]:
        return [self.axis(dim) for dim in traced.dims]

    def freeze(self, traced: Traced, text: str) -> None:
        for axis in self.axes(traced):
            self.units.freeze_axis(axis, self.because(text))

    def still(self, axes: Sequence[Structure]) -> None:
        for axis in axes:
            self.units.still(axis)

    def fixed(self, shape: Sequence[int], text: str) -> list[Structure]:
        return [self.units.fixed(size, self.because(text)) for size in shape]

    def mix(self, axes: Sequence[Structure], over: Sequence[int]) -> None:
        """The axes `over` are mixed with one another and kept: nothing else may nest within them."""
        for number, axis in enumerate(axes):
            if number in over:
                continue
            for inner, _ in self.units.moving(axis):
                for outer in over:
                    self.units.apart |= {(inner, unit) for unit, _ in self.units.moving(axes[outer])}

    def broadcast(self, operands: Sequence[list[Structure]]) -> tuple[list[Structure], list[list[int]]]:
        """Unify axes from the right; returns the axes, and for each which operands have it."""
        rank = max(len(axes) for axes in operands)
        result: list[Structure] = []
        owners: list[list[int]] = []
        for place in range(-rank, 0):
            having = [
                n
                for n, axes in enumerate(operands)
                if len(axes) >= -place and self.units.size(axes[place]) != 1
            ]
            for other in having[1:]:
                self.units.unify(
                    operands[having[0]][place], operands[other][place], self.because("sizes do not match")
                )
            result.append(operands[having[0]][place] if having else ONE)
            owners.append(having)
        return result, owners

    def contract(
        self, operands: Sequence[list[Structure]], labels: Sequence[Sequence[Any]], out: Sequence[Any]
    ) -> list[Structure]:
        """Sum of products over every label that `out` does not name (as einsum)."""
        mentions: dict[Any, list[Structure]] = {}
        for axes, names in zip(operands, labels, strict=True):
            for axis, name in zip(axes, names, strict=True):
                if self.units.size(axis) != 1:
                    mentions.setdefault(name, []).append(axis)
        kept: dict[Any, Structure] = {}
        for name, axes in mentions.items():
            for other in axes[1:]:
                self.units.unify(axes[0], other, self.because("sizes do not match"))
            kept[name] = axes[0] if len(axes) == 1 else self.units.relate(axes[0], [(1.0, a) for a in axes])
            if name not in out:
                self.units.still(kept[name])
        return [kept.get(name, ONE) for name in out]


_MOVES = (
    "slice select split split_with_sizes chunk unbind narrow view reshape _unsafe_view flatten unflatten permute "
    "transpose t squeeze unsqueeze clone contiguous alias detach _to_copy to expand"
)
MOVES = frozenset(_MOVES.split())
"""Operations that only hand entries on: what they are given is not yet read."""

Handler = Callable[[Context, SimpleNamespace, Any], list[Dim]]
HANDLERS: dict[str, Callable[[Context, SimpleNamespace, Any], Any]] = {}


def handles(*names: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        for name in names:
            HANDLERS[name] = function
        return function

    return register


# elementwise

_LINEAR = "neg clone contiguous alias detach detach_ _to_copy to dropout feature_dropout alpha_dropout lift_fresh_copy type_as positive"
_ODD = "tanh sin atan erf asinh sinh asin tan hardshrink softshrink tanhshrink sign"
_POINTWISE = "hardswish hardsigmoid hardtanh relu6 gelu silu mish elu selu celu softplus log_sigmoid sigmoid logit rrelu threshold masked_fill where clamp exp expm1 log log1p log2 erfc softsign bernoulli nan_to_num"


@handles(*_LINEAR.split())
def same(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    return list(a.self.dims if hasattr(a, "self") else a.input.dims)


def _marked(c: Context, axes: list[Structure], kind: list[Any]) -> list[Structure]:
    for axis in axes:
        kind += c.units.moving(axis)
    return axes


@handles("relu", "leaky_relu", "abs")
def homogeneous(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _marked(c, c.axes(a.self), c.units.positive)


_TABLE = "a table of sines and cosines made without parameters, as rotary embeddings use"


@handles(*_ODD.split())
def odd(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if not a.self.learned and c.name == "sin":
        c.freeze(a.self, _TABLE)
        return c.fixed(out.shape, _TABLE)
    return _marked(c, c.axes(a.self), c.units.odd)


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
    return _marked(c, axes, c.units.positive)


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
        elif not any(zeros) and any(x.value.numel() for x in operands):
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
        _marked(c, axes, c.units.positive)
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
def pointwise(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    """Any function applied entry by entry: its units move together, and bear no scale."""
    axes = [c.axes(x) for x in vars(a).values() if isinstance(x, Traced)]
    for operand in axes:
        c.still(operand)
    return c.broadcast(axes)[0]


# sums of products


def _spread(rank: int) -> list[str]:
    return [f"batch{n}" for n in range(rank, 0, -1)]


def matmul_axes(c: Context, left: list[Structure], right: list[Structure]) -> list[Structure]:
    a = ["inner"] if len(left) == 1 else [*_spread(len(left) - 2), "row", "inner"]
    b = ["inner"] if len(right) == 1 else [*_spread(len(right) - 2), "inner", "column"]
    batch = _spread(max(len(left), len(right), 2) - 2)
    out = [*batch, *(["row"] if len(left) > 1 else []), *(["column"] if len(right) > 1 else [])]
    return c.contract([left, right], [a, b], out)


@handles("mm", "bmm", "matmul", "mv", "dot")
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


@handles("linear")
def linear(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes, weight = c.axes(a.input), c.axes(a.weight)
    batch = [f"batch{n}" for n in range(len(axes) - 1)]
    result = c.contract([axes, weight], [[*batch, "in"], ["out", "in"]], [*batch, "out"])
    return _biased(c, result, a.bias)


@handles("einsum")
def einsum(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    equation = a.equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    operands = [c.axes(x) for x in a.tensors]
    labels: list[list[str]] = []
    for term, axes in zip(left.split(","), operands, strict=True):
        before, dots, after = term.partition("...")
        extra = len(axes) - len(before) - len(after)
        labels.append([*before, *(_spread(extra) if dots else []), *after])
    if arrow:
        before, dots, after = right.partition("...")
        extra = len(out.shape) - len(before) - len(after)
        names = [*before, *(_spread(extra) if dots else []), *after]
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
    batch = _spread(len(query) - 2)
    scores = c.contract(
        [query, key],
        [[*batch, "row", "inner"], [*_spread(len(key) - 2), "column", "inner"]],
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
        [[*batch, "row", "column"], [*_spread(len(value) - 2), "column", "inner"]],
        [*batch, "row", "inner"],
    )
    return result if isinstance(out, Tensor) else [result, *([None] * (len(out) - 1))]


@handles("embedding")
def embedding(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    rows, width = c.axes(a.weight)
    c.units.freeze_axis(rows, c.because("rows are looked up by number"))
    return [*c.axes(a.indices), width]


# normalisation


def _affine(c: Context, axis: Structure, tensors: Sequence[Traced | None]) -> Structure:
    """A normalised axis times a weight plus a bias: the scale before it is gone."""
    c.still([axis])
    given = [c.axes(t)[0] for t in tensors if t is not None]
    for other in given:
        c.units.unify(axis, other, c.because("sizes do not match"))
        c.units.equate(given[0], other)
    return given[0] if tensors[0] is not None else axis


@handles(
    "batch_norm",
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
    "instance_norm",
)
def batch_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.input)
    for statistic in (a.running_mean, a.running_var):
        if statistic is not None:
            axis = c.axes(statistic)[0]
            c.units.unify(axes[1], axis, c.because("sizes do not match"))
            c.still([axis])
            c.statistics.add(id(statistic.value))
    c.still(axes)
    axes[1] = _affine(c, axes[1], (a.weight, a.bias))
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]


@handles("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.input)
    rank = len(a.normalized_shape)
    over = range(len(axes) - rank, len(axes))
    c.still(axes)
    c.mix(axes, list(over))
    given = [c.axes(t) for t in (a.weight, getattr(a, "bias", None)) if t is not None]
    for affine in given:
        for place in range(-rank, 0):
            c.units.unify(axes[place], affine[place], c.because("sizes do not match"))
            c.units.equate(given[0][place], affine[place])
    if given and a.weight is not None:
        axes[-rank:] = given[0]
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]


@handles("group_norm", "native_group_norm")
def group_norm(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.input)
    groups = a.num_groups if hasattr(a, "num_groups") else a.group
    c.units.split(
        axes[1], (groups, c.units.size(axes[1]) // groups), c.because(f"{groups} groups do not divide it")
    )
    c.still(axes)
    axes[1] = _affine(c, axes[1], (a.weight, a.bias))
    return axes if isinstance(out, Tensor) else [axes, *([None] * (len(out) - 1))]


# reductions


def _places(dims: Any, rank: int) -> list[int]:
    if dims is None or dims == []:
        return list(range(rank))
    return [d % rank if rank else 0 for d in (dims if isinstance(dims, list | tuple) else [dims])]


def _reduce(c: Context, a: SimpleNamespace, kind: str, names: tuple[str, ...] = ("dim",)) -> list[Structure]:
    axes = c.axes(a.self)
    over = _places(next((getattr(a, n) for n in names if hasattr(a, n)), None), len(axes))
    if kind == "still":
        c.still(axes)
    elif kind == "positive":
        _marked(c, axes, c.units.positive)
    c.still([axes[n] for n in over])
    keep = getattr(a, "keepdim", False)
    return [ONE if n in over else axis for n, axis in enumerate(axes) if keep or n not in over]


@handles("sum", "mean")
def reduce_sum(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _reduce(c, a, "linear")


@handles("amax", "amin")
def reduce_max(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _reduce(c, a, "positive")


@handles("var", "std", "prod", "logsumexp", "all", "any", "linalg_vector_norm", "norm", "argmax", "argmin")
def reduce_still(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return _reduce(c, a, "still")


@handles("max", "min", "var_mean")
def reduce_pair(c: Context, a: SimpleNamespace, out: Any) -> Any:
    if isinstance(getattr(a, "other", None), Traced):
        return pointwise(c, a, out)
    axes = _reduce(c, a, "still")
    return axes if isinstance(out, Tensor) else [axes, axes]


@handles("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def softmax(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.self)
    c.still(axes)
    c.mix(axes, _places(a.dim, len(axes)))
    return axes


@handles("cumsum", "cumprod", "flip", "roll", "sort", "topk", "tril", "triu")
def ordered(c: Context, a: SimpleNamespace, out: Any) -> Any:
    axes = c.axes(a.self)
    where = getattr(a, "dim", getattr(a, "dims", None))
    over = range(len(axes) - 2, len(axes)) if c.name.startswith("tri") else _places(where, len(axes))
    c.still(axes)
    c.mix(axes, list(over))
    results = [out] if isinstance(out, Tensor) else list(out)
    for place in over:
        c.units.freeze_axis(axes[place], c.because("its order matters"))
        axes[place] = c.fixed([results[0].shape[place]], "its order matters")[0]
    return axes if isinstance(out, Tensor) else [axes for _ in results]


# pooling and resizing: leading axes are kept, trailing ones are positions


@handles(
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "_upsample_nearest_exact2d",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "max_pool1d_with_indices",
)
def pool(c: Context, a: SimpleNamespace, out: Any) -> Any:
    given = a.self if hasattr(a, "self") else a.input
    axes = c.axes(given)
    spatial = int(next(ch for ch in c.name if ch.isdigit()))
    first = out if isinstance(out, Tensor) else out[0]
    for axis in axes[-spatial:]:
        c.units.freeze_axis(axis, c.because("positions of a window"))
    if "max" in c.name:
        _marked(c, axes, c.units.positive)
    result = [*axes[:-spatial], *c.fixed(first.shape[-spatial:], "positions of a window")]
    return result if isinstance(out, Tensor) else [result for _ in out]


@handles("pixel_shuffle", "pixel_unshuffle")
def pixel_shuffle(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = c.axes(a.self)
    *batch, channels, rows, columns = axes
    why = c.because("channels become positions")
    if hasattr(a, "upscale_factor"):
        kept, *moved = c.units.split(
            channels, (c.units.size(channels) // a.upscale_factor**2, a.upscale_factor, a.upscale_factor), why
        )
    else:
        moved = []
        kept = c.units.product([channels, c.units.fixed(a.downscale_factor**2, why)])
    for axis in (*moved, rows, columns):
        c.units.freeze_axis(axis, why)
    return [*batch, kept, *c.fixed(out.shape[-2:], "positions")]


# moving entries about


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten", "_reshape_alias", "view_as", "reshape_as")
def reshape(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    old, new = list(a.self.value.shape), list(out.shape)
    if 0 in old:
        return [*c.fixed(new, "an empty tensor")]
    dims, result, i, j = a.self.dims, [], 0, 0
    while i < len(old) or j < len(new):
        stop_i, stop_j = i + (i < len(old)), j + (j < len(new))
        while prod(old[i:stop_i]) != prod(new[j:stop_j]):
            if prod(old[i:stop_i]) < prod(new[j:stop_j]):
                stop_i += 1
            else:
                stop_j += 1
        block = [d for d, size in zip(dims[i:stop_i], old[i:stop_i], strict=True) if size != 1]
        result += _reblock(c, block, tuple(new[j:stop_j]))
        i, j = stop_i, stop_j
    return result


def _reblock(c: Context, block: list[Dim], sizes: tuple[int, ...]) -> list[Dim]:
    many = tuple(size for size in sizes if size != 1)
    if len(block) == 1 and len(many) == 1:
        made: list[Dim] = list(block)
    else:
        merged = c.units.product([c.axis(dim) for dim in block])
        split = Split(merged, many)
        made = [merged] if len(many) == 1 else [Part(split, n) for n in range(len(many))]
    rest = iter(made)
    return [next(rest) if size != 1 else ONE for size in sizes]


@handles("permute")
def permute(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    return [a.self.dims[d] for d in a.dims]


@handles("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "matrix_H")
def transpose(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims = list(a.self.dims)
    pair = (a.dim0, a.dim1) if hasattr(a, "dim0") else (-2, -1)
    if len(dims) > 1:
        dims[pair[0]], dims[pair[1]] = dims[pair[1]], dims[pair[0]]
    return dims


@handles("movedim", "moveaxis")
def movedim(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    order = torch.empty(tuple(range(2, 2 + len(a.self.dims)))).movedim(a.source, a.destination).shape
    return [a.self.dims[size - 2] for size in order]


@handles("squeeze")
def squeeze(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    shape = a.self.value.shape
    over = _places(getattr(a, "dim", None), len(shape))
    return [d for n, d in enumerate(a.self.dims) if n not in over or shape[n] != 1]


@handles("unsqueeze")
def unsqueeze(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims = list(a.self.dims)
    dims.insert(a.dim % (len(dims) + 1), ONE)
    return dims


def _copies(c: Context, size: int) -> Structure:
    """A new axis along which every entry is the same: its units may go anywhere."""
    axis = c.units.free(size)
    c.units.still(axis)
    return axis


@handles("expand", "expand_as", "broadcast_to")
def expand(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims: list[Dim] = [ONE] * (out.dim() - len(a.self.dims)) + list(a.self.dims)
    shape = [1] * (out.dim() - a.self.value.dim()) + list(a.self.value.shape)
    return [
        dim if old == new else _copies(c, new) for dim, old, new in zip(dims, shape, out.shape, strict=True)
    ]


@handles("repeat", "tile")
def repeat(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    axes = [ONE] * (out.dim() - len(a.self.dims)) + c.axes(a.self)
    return [
        c.units.product([_copies(c, new // c.units.size(x)), x])
        for x, new in zip(axes, out.shape, strict=True)
    ]


@handles("repeat_interleave")
def repeat_interleave(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    if not hasattr(a, "self") or not isinstance(a.repeats, int) or a.dim is None:
        return unknown(c, a, out)
    dims: list[Dim] = list(a.self.dims)
    dims[a.dim] = c.units.product([c.axis(dims[a.dim]), _copies(c, a.repeats)])
    return dims


@handles(
    "full",
    "zeros",
    "ones",
    "full_like",
    "zeros_like",
    "ones_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "scalar_tensor",
)
def constant(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    return [_copies(c, size) for size in out.shape]


@handles("constant_pad_nd", "pad")
def pad(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    if getattr(a, "mode", "constant") != "constant":
        return unknown(c, a, out)
    axes = c.axes(a.self)
    amounts = list(getattr(a, "pad", []))
    if getattr(a, "value", 0):
        c.still(axes)
    for n in range(len(amounts) // 2):
        place, (before, after) = -1 - n, amounts[2 * n : 2 * n + 2]
        size = c.units.size(axes[place])
        kept = c.units.slice(axes[place], max(0, -before), size + min(0, after), c.because("it is cut off"))
        ends = [c.units.free(extra) if extra > 0 else () for extra in (before, after)]
        axes[place] = ends[0] + kept + ends[1]
    return axes


@handles("cat", "concat", "concatenate")
def cat(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = [c.axes(x) for x in a.tensors if x.value.numel() or x.value.dim() > 1]
    place = a.dim % len(out.shape)
    joined: Structure = ()
    for other in axes:
        joined += other[place]
        for n, axis in enumerate(other):
            if n != place:
                c.units.unify(axes[0][n], axis, c.because("sizes do not match"))
                c.units.equate(axes[0][n], axis)
    return [joined if n == place else axis for n, axis in enumerate(axes[0])]


@handles("stack")
def stack(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    axes = [c.axes(x) for x in a.tensors]
    for other in axes[1:]:
        for one, two in zip(axes[0], other, strict=True):
            c.units.unify(one, two, c.because("sizes do not match"))
            c.units.equate(one, two)
    result = list(axes[0])
    result.insert(a.dim % len(out.shape), c.fixed([len(axes)], "a stack of different tensors")[0])
    return result


def take(c: Context, traced: Traced, dim: int, start: int, stop: int) -> list[Dim]:
    """Positions start to stop of one axis. On the outer axis of a view not yet carried out this
    divides what was viewed, so that fused q, k and v stay independent."""
    dims = list(traced.dims)
    size, here = traced.value.shape[dim], dims[dim]
    if (start, stop) == (0, size):
        return dims
    why = c.because("it is taken apart by position")
    if not (isinstance(here, Part) and here.number == 0 and here.split.axes is None):
        dims[dim] = c.units.slice(c.axis(here), start, stop, why)
        return dims
    split = here.split
    inner = prod(split.sizes[1:])
    source = c.units.slice(split.source, start * inner, stop * inner, why)
    count = stop - start
    kept = split.sizes[1:] if count == 1 else (count, *split.sizes[1:])
    piece = Split(source, kept)
    for n, other in enumerate(dims):
        if isinstance(other, Part) and other.split is split:
            number = other.number - (count == 1)
            if number < 0:
                dims[n] = ONE
            else:
                dims[n] = source if len(kept) == 1 else Part(piece, number)
    return dims


@handles("slice")
def slice_(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    size, step = a.self.value.shape[a.dim], a.step
    start, stop, _ = slice(a.start, a.end, None).indices(size)
    if step == 1:
        return take(c, a.self, a.dim % a.self.value.dim(), start, max(start, stop))
    dims: list[Dim] = list(a.self.dims)
    axis = c.axis(dims[a.dim])
    why = c.because("every so many are taken")
    if c.units.moving(axis) and size % step == 0 and (stop - start) > size - step and start < step:
        many, steps = c.units.split(axis, (size // step, step), why)
        c.units.freeze_axis(steps, why)
        dims[a.dim] = many
    else:
        c.units.freeze_axis(axis, why)
        dims[a.dim] = c.fixed([out.shape[a.dim]], "every so many are taken")[0]
    return dims


@handles("select")
def select(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    place = a.dim % a.self.value.dim()
    index = a.index % a.self.value.shape[place]
    dims = take(c, a.self, place, index, index + 1)
    c.still([c.axis(d) for d in dims[place : place + 1]])
    return dims[:place] + dims[place + 1 :]


@handles("unbind")
def unbind(c: Context, a: SimpleNamespace, out: Any) -> list[list[Dim]]:
    place = a.dim % a.self.value.dim()
    pieces = [take(c, a.self, place, n, n + 1) for n in range(len(out))]
    return [dims[:place] + dims[place + 1 :] for dims in pieces]


@handles(
    "split",
    "split_with_sizes",
    "chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
    "tensor_split",
    "split_copy",
    "split_with_sizes_copy",
)
def split(c: Context, a: SimpleNamespace, out: Any) -> list[list[Dim]]:
    place, start, pieces = a.dim % a.self.value.dim(), 0, []
    for piece in out:
        pieces.append(take(c, a.self, place, start, start + piece.shape[place]))
        start += piece.shape[place]
    return pieces


@handles("index")
def index(c: Context, a: SimpleNamespace, out: Any) -> list[Structure]:
    used = [n for n, i in enumerate(a.indices) if i is not None]
    if any(a.indices[n].value.dtype in (torch.bool, torch.uint8) for n in used):
        return unknown(c, a, out)
    axes = c.axes(a.self)
    for n in used:
        c.units.freeze_axis(axes[n], c.because("it is indexed by number"))
    placed, _ = c.broadcast([c.axes(a.indices[n]) for n in used])
    rest = [axis for n, axis in enumerate(axes) if n not in used]
    at = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    return [*rest[:at], *placed, *rest[at:]]


@handles("index_select")
def index_select(c: Context, a: SimpleNamespace, out: Any) -> list[Dim]:
    dims: list[Dim] = list(a.self.dims)
    c.units.freeze_axis(c.axis(dims[a.dim]), c.because("it is indexed by number"))
    dims[a.dim] = c.axes(a.index)[0] if a.index.value.dim() else ONE
    return dims


def unknown(c: Context, a: SimpleNamespace, out: Any) -> Any:
    """Nothing is known of the operation: all that it touches stays where it is."""
    for argument in vars(a).values():
        for x in argument if isinstance(argument, list | tuple) else [argument]:
            if isinstance(x, Traced):
                c.freeze(x, "an operation that canon does not know")
    if isinstance(out, Tensor):
        return c.fixed(out.shape, "an operation that canon does not know")
    return [
        c.fixed(x.shape, "an operation that canon does not know") if isinstance(x, Tensor) else None
        for x in out
    ]
