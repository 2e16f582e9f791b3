"""Stacks of numbered layers: an `nn.Sequential`, or `features` and `classifier` as in VGGs.

A list of layers has the same keys, whether they follow one another, stand side by side or have skips; and
between two layers of an `nn.Sequential` may stand any module without parameters, which may mix channels.
So nothing moves, unless the stack is one of torchvision's, key for key and shape for shape, or a person
says that it is a chain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family
from canon.models.families.convolution_readings import Reading, readings
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
    return chain_input(tensors, _layers(tensors))


def chain_input(tensors: Tensors, layers: Sequence[str]) -> Tensor:
    """A batch of two of what the first layer takes."""
    weight = tensors[f"{layers[0]}.weight"]
    found = readings(tensors, layers).get(layers[0])
    takes = min(found).takes if found else weight.shape[min(1, weight.dim() - 1)]
    return torch.randn(2, takes, *([4] * (weight.dim() - 2)), generator=generator())


def _stack(tensors: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    layers = _layers(tensors)
    apply = Layers(tensors, layers, given, plain=name_of(tensors) is not None)
    for number, layer in enumerate(layers):
        x = apply(layer, x)
        if number < len(layers) - 1:
            x = given.activate(x)
    return x


class Layers:
    """Applies linear layers, convolutions and norms of a chain, as the tensors of all of them show.

    With `plain`, or where a person assumed plain convolutions, none is transposed or has groups. Otherwise the units of
    a convolution that may be are bound to what holds for all readings.
    """

    def __init__(
        self, tensors: Tensors, layers: Sequence[str], given: Hyperparameters, plain: bool = False
    ) -> None:
        self._tensors, self._given = tensors, given
        self._plain = plain or given.plain_convolutions
        self._first = layers[0]
        self._readings = {} if self._plain else readings(tensors, layers)

    def __call__(self, layer: str, x: Tensor) -> Tensor:
        """The output of a layer; `ValueError` where `x` does not fit it."""
        tensors, weight = self._tensors, self._tensors[f"{layer}.weight"]
        if weight.dim() > 2:
            return self._convolve(layer, x)
        if weight.dim() == 2:
            return tensors.linear(layer, _flat(x, weight.shape[1], layer))
        if f"{layer}.running_mean" in tensors:
            return tensors.batch_norm(layer, x)
        if f"{layer}.bias" in tensors:
            return _norm(tensors, layer, x, self._given)
        # slopes of a PReLU, or the gain of an RMSNorm: a number for each unit, or one for all
        if x.dim() > 2 and len(weight) > 1:
            x = opaque(x, f"{layer} may hold a number for each channel or for each position; give --model")
        return F.gelu(x) * _by_channel(weight, x)

    def _convolve(self, layer: str, x: Tensor) -> Tensor:
        tensors, weight = self._tensors, self._tensors[f"{layer}.weight"]
        as_it_is = Reading(False, 1, weight.shape[1], weight.shape[0])
        found = self._readings.get(layer) or {as_it_is}
        first = layer == self._first and not self._plain
        if len({(first or reading.takes, reading.gives) for reading in found}) > 1:
            raise ValueError(
                f"{layer} may be a convolution or a transposed one, or have groups; {_SAY_PLAIN}"
            )
        simplest, *others = sorted(found)
        if x.dim() != weight.dim() or x.shape[1] != simplest.takes:
            raise ValueError(f"{layer} takes {simplest.takes} channels and is given {x.shape[1]}")
        if simplest.transposed and simplest.groups > 1:
            raise ValueError(f"{layer} is a transposed convolution with groups")
        if others and simplest.groups > 1:
            x = opaque(x, f"{layer} may be a transposed convolution; {_SAY_PLAIN}")
        h = tensors.conv(layer, x, transposed=simplest.transposed)
        if first and not simplest.transposed:
            return opaque(h, f"{layer} takes the input, so it may have groups; {_SAY_PLAIN}")
        if others and simplest.groups > 1:
            return opaque(h, f"{layer} may be a transposed convolution; {_SAY_PLAIN}")
        # what holds for a convolution and a transposed one
        return h + tensors.conv(layer, x, transposed=True) if others else h


_SAY_PLAIN = "--assume plain-convolutions says that no convolution is transposed or has groups"


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
        if positions == 2:
            x = opaque(x, f"{layer} may take two poolings of each channel side by side; give --model")
        x = F.adaptive_avg_pool1d(x.flatten(2), positions).flatten(1)
    return x


SEQUENTIAL = Family(
    _stack,
    _is_stack,
    _stack_input,
    name_of,
    takes=("chain", "activation", "norm", "plain_convolutions"),
    decisive="chain",
    unknown="keys do not tell how these layers are joined, or what stands between them; --assume chain says that "
    "each feeds the next, once, through element-wise activations, pooling over positions and flattening alone",
)
