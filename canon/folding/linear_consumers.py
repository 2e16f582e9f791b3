r"""Linear layers and convolutions that can absorb the gain and bias of a preceding norm.

A gain g and a shift b of the input, channel by channel, are the same as another weight and bias:

    W (g n + b) + c  =  (W g) n + (W b + c).

For a convolution W b is a sum over its window as well, so it is the same number everywhere only where no
window hangs over the edge: zeros that are padded around the input are not shifted. Its gain goes in anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Node

from canon.tracing.exported_graph import GraphInput, label, named_arguments, operation

# Where a linear operation has its input, its weight, its bias, and the axis of the weight that reads.
_LINEAR = {"linear": (0, 1, 2, 1), "addmm": (1, 2, 0, 0), "mm": (0, 1, None, 0), "matmul": (0, 1, None, 0)}
_CONVOLUTIONS = {f"conv{n}d": 1 for n in (1, 2, 3)} | {f"conv_transpose{n}d": 0 for n in (1, 2, 3)}


@dataclass(frozen=True)
class Reader:
    """A layer whose weight reads channels on axis `inputs`, in `groups` parts where that is the second axis.

    `uneven` says why a shift of its input is not a shift of its output, where it is none.
    """

    node: Node
    weight: GraphInput
    bias: GraphInput | None
    inputs: int
    groups: int = 1
    uneven: str | None = None

    def scaled(self, weight: Tensor, gain: Tensor) -> Tensor:
        """The weight that takes `gain`, (channels,)."""
        return weight * self._along(weight, gain)

    def shift(self, weight: Tensor, bias: Tensor) -> Tensor:
        """What `bias`, (channels,), adds to every output."""
        summed = (weight * self._along(weight, bias)).movedim(self.inputs, -1)
        return summed.flatten(1).sum(1)

    def _along(self, weight: Tensor, vector: Tensor) -> Tensor:
        if self.inputs == 0:
            return vector.reshape(-1, *[1] * (weight.dim() - 1))
        rows = vector.reshape(self.groups, -1).repeat_interleave(len(weight) // self.groups, 0)
        return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


class NotLinear(Exception):
    """Why a node is not a layer that could take a gain."""


def reader_of(node: Node, given: Node, slots: dict[Node, GraphInput], channels: bool) -> Reader:
    """The layer that reads `given`: a convolution of its `channels`, or a linear layer of its last axis.

    `slots` are the learned tensors by their nodes. Raises `NotLinear`.
    """
    name = operation(node)
    if name not in (_CONVOLUTIONS if channels else _LINEAR) or (node.kwargs and not channels):
        raise NotLinear(f"{label(node)} reads it, which is not a linear layer")
    return _convolution(node, given, slots) if channels else _linear(node, given, slots)


def _linear(node: Node, given: Node, slots: dict[Node, GraphInput]) -> Reader:
    args = list(node.args)
    at, weight_at, bias_at, inputs = _LINEAR[operation(node)]
    bias = args[bias_at] if bias_at is not None and bias_at < len(args) else None
    weight, slot = _learned(node, args[at] is given, args[weight_at], bias, slots)
    if weight.value.dim() != 2:
        raise NotLinear(f"{label(node)} reads it, with a weight or bias that is not a parameter")
    if slot is not None and slot.value.dim() != 1:
        raise NotLinear(f"{label(node)} reads it, whose bias is not a vector")
    return Reader(node, weight, slot, inputs)


def _convolution(node: Node, given: Node, slots: dict[Node, GraphInput]) -> Reader:
    named = named_arguments(node)
    weight, slot = _learned(node, named["input"] is given, named["weight"], named.get("bias"), slots)
    inputs, padding = _CONVOLUTIONS[operation(node)], named.get("padding", 0)
    uneven = None
    if inputs == 0:
        uneven = f"{label(node)} adds up more of its input in the middle than at the edges"
    elif padding == "same" or (not isinstance(padding, str) and any(_numbers(padding))):
        uneven = f"{label(node)} pads with zeros, which it does not shift"
    return Reader(node, weight, slot, inputs, int(named.get("groups", 1)), uneven)


def _numbers(padding: Any) -> list[int]:
    return list(padding) if isinstance(padding, list | tuple) else [padding]


def _learned(
    node: Node, reads: bool, weight: Any, bias: Any, slots: dict[Node, GraphInput]
) -> tuple[GraphInput, GraphInput | None]:
    if not reads or weight not in slots or (bias is not None and bias not in slots):
        raise NotLinear(f"{label(node)} reads it, with a weight or bias that is not a parameter")
    return slots[weight], None if bias is None else slots[bias]
