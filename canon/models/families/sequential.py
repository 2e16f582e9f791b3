"""Stacks of numbered layers: an `nn.Sequential`, or `features` and `classifier` as in VGGs.

A list of layers has the same keys, whether they follow one another, stand side by side or have skips; and
between two layers of an `nn.Sequential` may stand any module without parameters, which may mix channels.
So nothing moves, unless the stack is one of torchvision's, key for key and shape for shape, or a person
says that it is a chain.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family
from canon.models.families.example_inputs import generator
from canon.models.families.functional import Tensors
from canon.models.families.hyperparameters import Hyperparameters
from canon.models.families.vgg import name_of
from canon.tracing.operations.opaque import opaque


def _stacks(tensors: Tensors) -> list[str]:
    """The prefixes of the stacks: one `nn.Sequential`, or `features` and `classifier`."""
    names = tensors.children()
    if names and all(name.isdigit() for name in names):
        return [""]
    if set(names) == {"features", "classifier"}:
        return ["features.", "classifier."]
    return [f"{names[0]}."] if len(names) == 1 else []


def _is_stack(tensors: Tensors) -> bool:
    stacks = _stacks(tensors)
    return bool(stacks) and all(
        name.isdigit() and all("." not in leaf for leaf in _leaves(tensors, f"{stack}{name}."))
        for stack in stacks
        for name in tensors.children(stack)
    )


def _leaves(tensors: Tensors, prefix: str) -> list[str]:
    return [
        f"{a}.{b}" if b else a
        for a in tensors.children(prefix)
        for b in (tensors.children(f"{prefix}{a}.") or [""])
    ]


def _layers(tensors: Tensors) -> list[str]:
    return [f"{stack}{name}" for stack in _stacks(tensors) for name in tensors.children(stack)]


def _stack_input(tensors: Tensors) -> Tensor:
    first, *others = _layers(tensors)
    weight = tensors[f"{first}.weight"]
    if others and weight.dim() == 2 and weight.shape[0] == weight.shape[1] and f"{first}.bias" not in tensors:
        raise ValueError(f"{first} may be an embedding or a linear layer")
    return torch.randn(2, weight.shape[1], *([4] * (weight.dim() - 2)), generator=generator())


def _stack(tensors: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    layers = _layers(tensors)
    for number, layer in enumerate(layers):
        x = apply_layer(tensors, layer, x, given)
        if number < len(layers) - 1:
            x = given.activate(x)
    return x


def apply_layer(tensors: Tensors, layer: str, x: Tensor, given: Hyperparameters) -> Tensor:
    """A linear layer, a convolution or a norm, as its tensors show; `ValueError` where `x` does not fit it."""
    weight = tensors[f"{layer}.weight"]
    if weight.dim() > 2:
        if x.dim() != weight.dim() or x.shape[1] != weight.shape[1]:
            raise ValueError(f"{layer} takes {weight.shape[1]} channels and is given {x.shape[1]}")
        h = tensors.conv(layer, x)
        if weight.shape[0] == weight.shape[1] and any(size % 2 == 0 for size in weight.shape[2:]):
            # May be transposed, as decoders are, which no shape tells: what holds for both.
            h = h + tensors.conv(layer, x, transposed=True)
        return h
    if weight.dim() == 2:
        return tensors.linear(layer, _flat(x, weight.shape[1], layer))
    if f"{layer}.running_mean" in tensors:
        return tensors.batch_norm(layer, x)
    if f"{layer}.bias" in tensors:
        return _norm(tensors, layer, x, given)
    # slopes of a PReLU, or the gain of an RMSNorm: a number for each unit, or one for all
    return F.gelu(x) * _by_channel(weight, x)


def _norm(tensors: Tensors, layer: str, x: Tensor, given: Hyperparameters) -> Tensor:
    """A weight and a bias are a layer norm, or a group norm, whose groups no shape tells."""
    if given.norm == "layer" and x.dim() == 2:
        return tensors.layer_norm(layer, x)
    reason = f"{layer} is a norm, over all units or over groups of them; --assume norm=layer says over all"
    x = opaque(x, reason)
    return x * _by_channel(tensors[f"{layer}.weight"], x) + _by_channel(tensors[f"{layer}.bias"], x)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.dim() - 2))


def _flat(x: Tensor, features: int, layer: str) -> Tensor:
    """Channels times positions, as many of those as the linear layer takes."""
    if x.dim() > 2:
        positions, rest = divmod(features, x.shape[1])
        if rest:
            raise ValueError(f"{layer} takes {features} features, no multiple of {x.shape[1]} channels")
        x = F.adaptive_avg_pool1d(x.flatten(2), positions).flatten(1)
    return x


SEQUENTIAL = Family(
    _stack,
    _is_stack,
    _stack_input,
    name_of,
    takes=("chain", "activation", "norm"),
    decisive="chain",
    unknown="keys do not tell how these layers are joined, or what stands between them; --assume chain says that "
    "each feeds the next through element-wise activations, pooling and flattening alone",
)
