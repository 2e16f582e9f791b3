"""Chains of named layers: `conv1`, `fc1`, `fc2`, or `embedding`, `lstm`, `head`.

Keys do not tell how they are joined, so nothing moves unless a person says that they are a chain. Their order is that
in which the file lists them: that of construction. Files that list keys by the alphabet, or by dtype and then by the
alphabet as safetensors does, have lost it; there it has to follow from the shapes, or from the numbers in names that
are otherwise alike.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from canon.models.families.base import Family
from canon.models.families.example_inputs import generator
from canon.models.families.functional import Tensors
from canon.models.families.hyperparameters import Hyperparameters
from canon.models.families.sequential import Layers, chain_input

# More layers than these are not tried in every order.
MOST = 8
_LAST = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_RECURRENT = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)_l(\d+)(_reverse)?$")


def _is_chain(tensors: Tensors) -> bool:
    """Whether every tensor belongs to a layer at the root, or in a Sequential there."""
    layers = _in_file(tensors)
    return len(layers) > 1 and all(
        re.fullmatch(r"[A-Za-z_]\w*(\.\d+)?", layer)
        and (f"{layer}.weight" in tensors or f"{layer}.weight_ih_l0" in tensors)
        and all(leaf in _LAST or _RECURRENT.match(leaf) for leaf in tensors.children(f"{layer}."))
        for layer in layers
    )


def _in_file(tensors: Tensors) -> list[str]:
    return list(dict.fromkeys(key.rpartition(".")[0] for key in tensors))


def _layers(tensors: Tensors) -> list[str]:
    """The layers in the order in which they are called; `ValueError` where the file does not tell."""
    listed = _in_file(tensors)
    if _in_construction_order(tensors):
        _check_numbers(tensors, listed)
        return listed
    numbered = [re.fullmatch(r"(.*?)(\d+)", layer) for layer in listed]
    if len({found[1] for found in numbered if found}) == 1 and all(numbered):
        return sorted(listed, key=lambda layer: int(re.findall(r"\d+", layer)[-1]))
    if len(listed) <= MOST:
        fitting = _orders(tensors, listed, [])
        first, second = next(fitting, None), next(fitting, None)
        if first is not None and second is None:
            return first
    raise ValueError(
        f"sorted keys do not tell the order of {', '.join(listed[:4])}, and shapes leave it open"
    )


def _check_numbers(tensors: Tensors, listed: list[str]) -> None:
    """Raise `ValueError` where the order of construction contradicts the numbers in names.

    Layers that are alike but for their numbers are called in the order of these, and `bn2` behind layer 2.
    """
    reached: dict[str, tuple[int, str]] = {}
    for layer in listed:
        stem, number = _stem_and_number(layer)
        if number is None:
            continue
        last, other = reached.get(stem, (-1, ""))
        if number < last:
            raise ValueError(f"the file lists {layer} behind {other}, so it does not tell the order of calls")
        reached[stem] = number, layer
    for layer in listed:
        if _dims(tensors, layer) == 1 and "." not in layer:
            _check_norm(tensors, listed, layer)


def _check_norm(tensors: Tensors, listed: list[str], layer: str) -> None:
    """Raise `ValueError` for a norm apart from the layer of its number, or behind all layers if an earlier one fits.

    In front of its layer it is where it would not fit behind.
    """
    place, number = listed.index(layer), _stem_and_number(layer)[1]
    size = len(tensors[f"{layer}.weight"])
    layers = [other for other in listed if _dims(tensors, other) > 1]
    own = [other for other in layers if number is not None and _stem_and_number(other)[1] == number]
    before, behind = listed[max(place - 1, 0) : place], listed[place + 1 : place + 2]
    if own and before and _stem_and_number(before[0])[1] == number:
        return
    if own and not (set(own) & set(behind) and _gives(tensors, behind[0]) != size):
        raise ValueError(
            f"the file does not list {layer} behind layer {number}, so it does not tell the order"
        )
    earlier = [other for other in layers[:-1] if size > 1 and _gives(tensors, other) == size]
    if earlier and place > listed.index(layers[-1]):
        raise ValueError(f"the file lists {layer} behind all layers, and it may stand behind {earlier[-1]}")


def _stem_and_number(layer: str) -> tuple[str, int | None]:
    """`fc2` is ("fc", 2); a name without a number at its end has None."""
    found = re.fullmatch(r"(.*?)(\d+)", layer)
    return (found[1], int(found[2])) if found else (layer, None)


def _in_construction_order(tensors: Tensors) -> bool:
    """Whether the file lists keys as modules do: each layer's together, and not sorted."""
    keys = list(tensors)
    names = [key.rpartition(".")[0] for key in keys]
    leaves = [
        [leaf for _, leaf in found]
        for _, found in groupby(zip(names, keys, strict=True), lambda pair: pair[0])
    ]
    apart = len(leaves) > len(set(names))
    return (
        not apart and keys != sorted(keys) and not any(len(own) > 1 and own == sorted(own) for own in leaves)
    )


def _orders(tensors: Tensors, left: list[str], taken: list[str]) -> Iterator[list[str]]:
    """Every order of the layers in which each takes what the one before gives."""
    if not left:
        yield taken
    for layer in left:
        if not taken or _follows(tensors, taken[-1], layer, first=len(taken) == 1):
            yield from _orders(tensors, [other for other in left if other != layer], [*taken, layer])


def _follows(tensors: Tensors, before: str, layer: str, first: bool) -> bool:
    taken, gives = _takes(tensors, layer), _gives(tensors, before)
    as_table = first and _may_be_table(tensors, before) and taken == tensors[f"{before}.weight"].shape[1]
    flat = _dims(tensors, before) != 2 and _dims(tensors, layer) == 2 and taken % gives == 0
    return as_table or taken == gives or flat


def _dims(tensors: Tensors, layer: str) -> int:
    """2 for linear and recurrent layers, more for convolutions, 1 for norms."""
    key = f"{layer}.weight"
    return tensors[key].dim() if key in tensors else 2


def _takes(tensors: Tensors, layer: str) -> int:
    key = f"{layer}.weight" if f"{layer}.weight" in tensors else f"{layer}.weight_ih_l0"
    return int(tensors[key].shape[min(1, tensors[key].dim() - 1)])


def _gives(tensors: Tensors, layer: str) -> int:
    if f"{layer}.weight" in tensors:
        return int(tensors[f"{layer}.weight"].shape[0])
    return int(tensors[f"{layer}.weight_hh_l0"].shape[1]) * (1 + (f"{layer}.weight_hh_l0_reverse" in tensors))


def _may_be_table(tensors: Tensors, layer: str) -> bool:
    return _dims(tensors, layer) == 2 and {f"{layer}.weight"} == {
        k for k in tensors if k.startswith(f"{layer}.")
    }


def _embeds(tensors: Tensors, layers: list[str]) -> bool:
    """Whether the first layer is a table whose rows are looked up; `ValueError` where it may be either."""
    first, second = layers[:2]
    if not _may_be_table(tensors, first) or f"{first}.weight" not in tensors:
        return False
    rows, width = tensors[f"{first}.weight"].shape
    taken = _takes(tensors, second)
    if taken == width == rows:
        raise ValueError(f"{first} may be an embedding or a linear layer")
    return bool(taken == width)


def _input(tensors: Tensors) -> Tensor:
    layers = _layers(tensors)
    if _embeds(tensors, layers):
        return torch.arange(6).reshape(2, 3) % len(tensors[f"{layers[0]}.weight"])
    if f"{layers[0]}.weight" not in tensors:
        return torch.randn(2, 3, _takes(tensors, layers[0]), generator=generator())
    return chain_input(tensors, layers)


def _chain(tensors: Tensors, x: Tensor, given: Hyperparameters) -> Tensor:
    layers = _layers(tensors)
    steps = _embeds(tensors, layers)  # whether units are on the last axis, behind that of steps
    if steps:
        x = given.activate(tensors[f"{layers[0]}.weight"][x])
        layers = layers[1:]
    apply = Layers(tensors, layers, given)
    for number, layer in enumerate(layers):
        if f"{layer}.weight_ih_l0" in tensors:
            x, steps = _recurrent(tensors, layer, x), True
        else:
            x = _at_each_step(tensors, layer, x, apply) if steps else apply(layer, x)
        if number < len(layers) - 1:
            x = given.activate(x)
    return x


def _at_each_step(tensors: Tensors, layer: str, x: Tensor, apply: Layers) -> Tensor:
    weight = tensors[f"{layer}.weight"]
    if weight.dim() > 2:
        raise ValueError(f"{layer} is a convolution and is given steps")
    if weight.dim() == 2 and weight.shape[1] != x.shape[2]:
        raise ValueError(f"{layer} takes {weight.shape[1]} features and is given {x.shape[2]}")
    return apply(layer, x.flatten(0, 1)).unflatten(0, x.shape[:2])


def _recurrent(tensors: Tensors, layer: str, x: Tensor) -> Tensor:
    """An LSTM, GRU or RNN with the layers and directions that its keys name."""
    names = [key.rpartition(".")[2] for key in tensors if key.startswith(f"{layer}.")]
    depth = 1 + max(int(found[2]) for name in names if (found := _RECURRENT.match(name)))
    both, biases = f"{layer}.weight_ih_l0_reverse" in tensors, f"{layer}.bias_ih_l0" in tensors
    projected = f"{layer}.weight_hr_l0" in tensors
    rows, width = tensors[f"{layer}.weight_hh_l0"].shape
    if x.dim() != 3 or x.shape[2] != _takes(tensors, layer):
        raise ValueError(
            f"{layer} takes sequences of {_takes(tensors, layer)} features and is given {x.shape[1:]}"
        )
    kinds = (
        "weight_ih",
        "weight_hh",
        *(("bias_ih", "bias_hh") if biases else ()),
        *(("weight_hr",) if projected else ()),
    )
    weights = [
        tensors[f"{layer}.{kind}_l{n}{end}"]
        for n in range(depth)
        for end in ("", "_reverse")[: 1 + both]
        for kind in kinds
    ]
    hidden = rows // 4 if projected else width
    start = x.new_zeros(depth * (1 + both), len(x), width)
    options: tuple[Any, ...] = (weights, biases, depth, 0.0, False, both, True)
    if rows == 4 * hidden:
        cell = x.new_zeros(depth * (1 + both), len(x), hidden)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # projections take a slower path
            return torch.lstm(x, (start, cell), *options)[0]
    if rows == 3 * hidden:
        return torch.gru(x, start, *options)[0]
    if rows != hidden:
        raise ValueError(
            f"{layer} has {rows} rows for {hidden} units; an LSTM has four times as many, a GRU three"
        )
    # tanh or ReLU, which keys do not tell: what holds for both
    return torch.rnn_tanh(x, start, *options)[0] + torch.rnn_relu(x, start, *options)[0]


CHAIN = Family(
    _chain,
    _is_chain,
    _input,
    lambda tensors: None,
    takes=("chain", "activation", "norm", "plain_convolutions"),
    decisive="chain",
    unknown="keys do not tell how these layers are joined, or what stands between them; --assume chain says that "
    "each feeds the next, once, through element-wise activations, pooling over positions and flattening alone, and --model gives any other code",
)
