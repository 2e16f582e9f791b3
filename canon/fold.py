r"""Folding what a norm learned into the linear layers that read it.

A norm's gain and bias stand before linear layers and say nothing that these could not say themselves:

    W (g * n + b) + c  =  (W g) n + (W b + c).

Two networks that differ only in where this scale is kept become one. A gain is any product with a
learned vector along the last axis, so that norms written by hand count too. It is folded where only
linear layers read it, with weights that nothing else reads; otherwise it stays, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from canon.last_axis import entries, keeps_last_axis, shape_of
from canon.program import Program, Slot, label, operation


@dataclass(frozen=True)
class Folded:
    """`folded` has the weights that took each gain, `kept` why the others stay."""

    state: dict[str, Tensor]
    folded: dict[str, tuple[str, ...]]
    kept: dict[str, str]


@dataclass(frozen=True)
class _Reader:
    """A linear layer; its weight's axis `inputs` reads the gain."""

    node: Node
    weight: Slot
    bias: Slot | None
    inputs: int


@dataclass
class _Gain:
    """A learned product along the last axis, and the nodes that carry it out."""

    weight: Slot
    biases: dict[str, Slot] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)


class _Stays(Exception):
    """Why a gain cannot be folded."""


def fold_norms(
    network: nn.Module | ExportedProgram,
    example_inputs: Any = None,
    state: Mapping[str, Tensor] | None = None,
) -> Folded:
    """Gains become one and biases zero wherever linear layers can take them; the function stays.

    `state` is a state of the network, its own if not given; keys, order and dtypes are kept, products
    are taken in float64. Raises `InputError` where torch.export cannot follow the network.
    """
    if state is None:
        state = network.state_dict() if isinstance(network, nn.Module) else network.state_dict
    folder = _Folder(Program.of(network, example_inputs), dict(state))
    folded, kept = {}, {}
    for gain in folder.gains():
        try:
            folded[gain.weight.name] = folder.fold(gain)
        except _Stays as reason:
            kept[gain.weight.name] = str(reason)
    return Folded(folder.state, folded, kept)


class _Folder:
    def __init__(self, program: Program, state: dict[str, Tensor]) -> None:
        self.program, self.state = program, state
        nodes = list(program.graph.graph.nodes)
        places = [node for node in nodes if node.op == "placeholder"]
        self.calls = [node for node in nodes if node.op == "call_function"]
        self.learned = {n: s for n, s in zip(places, program.slots, strict=True) if s.learned}
        self.users: dict[Any, set[Node]] = {}
        for node, slot in self.learned.items():
            self.users.setdefault(slot.identity, set()).update(node.users)

    def gains(self) -> list[_Gain]:
        found: dict[Any, _Gain] = {}
        for node in self.calls:
            weight, bias = self._affine(node)
            if weight is not None:
                gain = found.setdefault(weight.identity, _Gain(weight))
                gain.nodes.append(node)
                if bias is not None:
                    gain.biases[bias.name] = bias
        return list(found.values())

    def _affine(self, node: Node) -> tuple[Slot | None, Slot | None]:
        """The gain and the bias of a node, where it has a learned gain along the last axis."""
        name, args = operation(node), node.args
        if name in ("layer_norm", "rms_norm") and len(args) > 2 and len(entries(args[1])) == 1:
            bias = args[3] if name == "layer_norm" and len(args) > 3 else None
            return self._slot(args[2]), self._slot(bias)
        if name == "mul" and len(args) == 2:
            for vector, other in (args, args[::-1]):
                slot = self._slot(vector)
                if slot is not None and slot.value.dim() == 1 and slot.value.numel() > 1:
                    own = shape_of(other)
                    if own and own[-1] == slot.value.numel() and self._slot(other) is None:
                        return slot, None
        return None, None

    def _slot(self, node: Any) -> Slot | None:
        return self.learned.get(node) if isinstance(node, Node) else None

    def fold(self, gain: _Gain) -> tuple[str, ...]:
        """Fold one gain into its readers; their weights' names. Raises `_Stays`."""
        readers = {reader.node: reader for node in gain.nodes for reader in self._readers(node)}
        if not readers:
            raise _Stays("nothing reads it")
        for own in (gain.weight, *gain.biases.values()):
            self._only(own, set(gain.nodes))
        for reader in readers.values():
            for slot in (reader.weight, reader.bias):
                if slot is not None:
                    self._only(slot, set(readers))
        if len(gain.biases) > 1:
            raise _Stays("it goes with several biases")
        shared = {r.bias.identity: set[Any]() for r in readers.values() if r.bias is not None}
        for reader in readers.values():
            if reader.bias is not None:
                shared[reader.bias.identity].add(reader.weight.identity)
        if any(len(weights) > 1 for weights in shared.values()):
            raise _Stays("two of its readers share a bias")
        return self._take(gain, list(readers.values()))

    def _readers(self, node: Node) -> Iterator[_Reader]:
        for user in node.users:
            if keeps_last_axis(user, node):
                yield from self._readers(user)
            else:
                yield self._reader(user, node)

    def _reader(self, node: Node, given: Node) -> _Reader:
        if node.op == "output":
            raise _Stays("it is an output of the network")
        name, args = operation(node), list(node.args)
        layouts = {
            "linear": (0, 1, 2, 1),
            "addmm": (1, 2, 0, 0),
            "mm": (0, 1, None, 0),
            "matmul": (0, 1, None, 0),
        }
        if name not in layouts or node.kwargs:
            raise _Stays(f"{label(node)} reads it, which is no linear layer")
        at, weight_at, bias_at, inputs = layouts[name]
        bias = args[bias_at] if bias_at is not None and bias_at < len(args) else None
        weight, slot = self._slot(args[weight_at]), self._slot(bias)
        if (
            args[at] is not given
            or weight is None
            or weight.value.dim() != 2
            or (bias is not None and slot is None)
        ):
            raise _Stays(f"{label(node)} reads it, with a weight or bias that is not a parameter")
        if slot is not None and slot.value.dim() != 1:
            raise _Stays(f"{label(node)} reads it, whose bias is no vector")
        return _Reader(node, weight, slot, inputs)

    def _only(self, slot: Slot, nodes: set[Node]) -> None:
        others = self.users[slot.identity] - nodes
        if others:
            raise _Stays(f"{slot.name} is used by {', '.join(sorted(label(node) for node in others))} too")

    def _take(self, gain: _Gain, readers: list[_Reader]) -> tuple[str, ...]:
        g = self.state[gain.weight.name].double()
        bias = next(iter(gain.biases.values()), None)
        b = torch.zeros_like(g) if bias is None else self.state[bias.name].double()
        moves = all(reader.bias is not None for reader in readers)
        if not moves and b.any() and not g.all():
            raise _Stays("some gain is zero, and a reader without a bias cannot take the norm's bias")
        weights = {reader.weight.identity: reader for reader in readers}
        shifted = {r.bias.identity: (r.bias, r) for r in readers if moves and r.bias is not None}
        for c, reader in shifted.values():
            w = self.state[reader.weight.name].double()
            shift = w @ b if reader.inputs == 1 else b @ w
            self._set(c, self.state[c.name].double() + shift)
        for reader in weights.values():
            w = self.state[reader.weight.name].double()
            self._set(reader.weight, w * (g if reader.inputs == 1 else g[:, None]))
        self._set(gain.weight, torch.ones_like(g))
        if bias is not None:
            self._set(bias, torch.zeros_like(b) if moves or not b.any() else b / g)
        return tuple(reader.weight.name for reader in weights.values())

    def _set(self, slot: Slot, value: Tensor) -> None:
        """Under every name of a tied tensor."""
        for name, (identity, _) in self.program.state_identities.items():
            if identity == slot.identity and name in self.state:
                self.state[name] = value.to(self.state[name].dtype)
