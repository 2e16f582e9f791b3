r"""Remove the scale of a layer that the following batch norm absorbs.

A convolution and the batch norm after it compute

    gamma (W x + c - mu) / sqrt(var + eps) + beta,

which is the same for (s W, s c, s mu, s^2 (var + eps) - eps) with any s > 0, in each channel apart. Here s
is chosen such that the running variance is one: s^2 = (1 + eps) / (var + eps). In evaluation mode that is
exact, eps included; in training mode, where eps meets another variance, it holds as far as eps is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from canon.folding.axis_flow import shape_of
from canon.folding.norm_folding import Folded
from canon.tracing.exported_graph import GraphInput, Program, label, named_arguments, operation

_NORMS = ("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
# The axis of a layer's weight that its output channels are on.
_LAYERS = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), 0),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 1),
}


def absorb_scales(
    network: nn.Module | ExportedProgram, example_inputs: Any, state: Mapping[str, Tensor]
) -> Folded:
    """Set every running variance to one where the preceding layer can absorb the scale; the function is
    unchanged.

    `folded` names the weight that took each running variance, `kept` why others stay. Keys, order and
    dtypes of `state` are kept, products are taken in float64.
    """
    absorber = _Absorber(Program.of(network, example_inputs), dict(state))
    folded: dict[str, tuple[str, ...]] = {}
    kept: dict[str, str] = {}
    for node in absorber.calls:
        if operation(node) not in _NORMS:
            continue
        given = named_arguments(node)
        variance = absorber.slots.get(given.get("running_var"))
        if variance is None:
            continue
        reason = absorber.reason(node, given)
        if reason is None:
            folded[variance.name] = (absorber.absorb(given),)
        else:
            kept[variance.name] = reason
    return Folded(absorber.state, folded, kept)


class _Absorber:
    def __init__(self, program: Program, state: dict[str, Tensor]) -> None:
        self.program, self.state = program, state
        nodes = list(program.graph.graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        self.calls = [node for node in nodes if node.op == "call_function"]
        self.slots: dict[Any, GraphInput] = {
            node: slot for node, slot in zip(places, program.slots, strict=True) if slot.kind == "state"
        }
        self.users: dict[Any, set[Node]] = {}
        for node, slot in self.slots.items():
            self.users.setdefault(slot.identity, set()).update(node.users)

    def reason(self, norm: Node, given: Mapping[str, Any]) -> str | None:
        """Why the layer before a norm cannot take its scale, or None where it can."""
        layer = given["input"]
        name = operation(layer)
        if layer.op != "call_function" or name not in _LAYERS or (name == "linear" and _rank(layer) != 2):
            return f"no convolution stands right before it, but {label(layer)}"
        if set(layer.users) != {norm}:
            return f"{label(layer)} is read by others too"
        taken = named_arguments(layer)
        if _LAYERS[name] == 1 and taken.get("groups", 1) != 1:
            return f"{label(layer)} has groups"
        for owner, tensors in (
            (layer, (taken.get("weight"), taken.get("bias"))),
            (norm, (given.get("running_mean"), given.get("running_var"))),
        ):
            for tensor in tensors:
                if tensor is None:
                    continue
                if tensor not in self.slots:
                    return f"{label(owner)} has a weight or bias that is not a parameter"
                others = self.users[self.slots[tensor].identity] - {owner}
                if others:
                    names = ", ".join(sorted(label(other) for other in others))
                    return f"{self.slots[tensor].name} is used by {names} too"
        return None

    def absorb(self, given: Mapping[str, Any]) -> str:
        """Bring a norm's running variance to one; the name of the weight that took the scale."""
        layer, variance = given["input"], self.slots[given["running_var"]]
        eps = float(given.get("eps", given.get("epsilon", 1e-5)))
        var = self.state[variance.name].double()
        scale = ((1 + eps) / (var + eps)).sqrt()
        taken = named_arguments(layer)
        weight = self.slots[taken["weight"]]
        axis = _LAYERS[operation(layer)]
        shape = [-1 if n == axis else 1 for n in range(weight.value.dim())]
        self._set(weight, self.state[weight.name].double() * scale.reshape(shape))
        for tensor in (taken.get("bias"), given.get("running_mean")):
            if tensor is not None:
                slot = self.slots[tensor]
                self._set(slot, self.state[slot.name].double() * scale)
        self._set(variance, torch.ones_like(var))
        return weight.name

    def _set(self, slot: GraphInput, value: Tensor) -> None:
        """Under every name of a tied tensor."""
        for name, (identity, _) in self.program.state_identities.items():
            if identity == slot.identity and name in self.state:
                self.state[name] = value.to(self.state[name].dtype)


def _rank(node: Node) -> int:
    shape = shape_of(node)
    return 0 if shape is None else len(shape)
