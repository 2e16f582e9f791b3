"""Plain stacks of layers: one `nn.Sequential`, or `features` and `classifier` as in VGGs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family
from canon.models.families.example_inputs import generator
from canon.models.families.functional import Tensors


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
    weight = tensors[f"{_layers(tensors)[0]}.weight"]
    return torch.randn(2, weight.shape[1], *([4] * (weight.dim() - 2)), generator=generator())


def _stack(tensors: Tensors, x: Tensor, heads: int) -> Tensor:
    # GELU stands for an activation that is not known: it bears permutations and no scale.
    known = _stacks(tensors) == ["features.", "classifier."]
    activation = F.relu if known else F.gelu
    layers = _layers(tensors)
    for number, layer in enumerate(layers):
        weight = tensors[f"{layer}.weight"]
        if weight.dim() > 2:
            if x.dim() != weight.dim() or x.shape[1] != weight.shape[1]:
                raise ValueError(f"{layer} takes {weight.shape[1]} channels and is given {x.shape[1]}")
            x = tensors.conv(layer, x)
        elif weight.dim() == 2:
            x = tensors.linear(layer, _flat(x, weight.shape[1], layer))
        elif f"{layer}.running_mean" in tensors:
            x = tensors.batch_norm(layer, x)
        elif x.dim() == 2 and f"{layer}.bias" in tensors:
            x = tensors.layer_norm(layer, x)
        else:
            raise ValueError(f"{layer} is a norm or slope that shapes do not tell apart")
        if number < len(layers) - 1:
            x = activation(x)
    return x


def _flat(x: Tensor, features: int, layer: str) -> Tensor:
    """Channels times positions, as many of those as the linear layer takes."""
    if x.dim() > 2:
        positions, rest = divmod(features, x.shape[1])
        if rest:
            raise ValueError(f"{layer} takes {features} features, no multiple of {x.shape[1]} channels")
        x = F.adaptive_avg_pool1d(x.flatten(2), positions).flatten(1)
    return x


SEQUENTIAL = Family(_stack, _is_stack, _stack_input)
