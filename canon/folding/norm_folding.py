r"""Fold gains and biases of norms into the linear layers and convolutions that follow.

A norm's gain and bias stand before linear layers and compute nothing that these could not compute themselves
(`canon.folding.linear_consumers`). Two networks that differ only in where this scale is kept become one. A gain is any product
with a learned vector along the last axis, so that norms written by hand count too, or that of a batch, group
or instance norm. It is folded where only linear layers, or only convolutions, read it, with weights that
nothing else reads; otherwise it stays, with the reason. So does a bias that a reader cannot take: it is then
divided by the gain that went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from canon.folding.axis_flow import entries, keeps_last_axis, keeps_shape, shape_of
from canon.folding.linear_consumers import NotLinear, Reader, reader_of
from canon.tracing.exported_graph import GraphInput, Program, label, named_arguments, operation

# Norms that learn along the second axis.
_CHANNEL_NORMS = ("batch_norm", "group_norm", "instance_norm")


@dataclass(frozen=True)
class Folded:
    """`folded` has the weights that took each gain, `kept` why other gains and biases stay."""

    state: dict[str, Tensor]
    folded: dict[str, tuple[str, ...]]
    kept: dict[str, str]


@dataclass
class _Gain:
    """A learned product along the last axis, or along the channels, and the nodes that carry it out."""

    weight: GraphInput
    channels: bool
    biases: dict[str, GraphInput] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)


class _CannotFold(Exception):
    """Why a gain cannot be folded."""


def fold_norms(
    network: nn.Module | ExportedProgram,
    example_inputs: Any = None,
    state: Mapping[str, Tensor] | None = None,
) -> Folded:
    """Fold the gains and biases of norms into the following linear layers and convolutions.

    Gains become one and biases zero wherever the layers that read them can take them; the function is kept.

    Args:
        network: a module, or an exported program.
        example_inputs: a tensor, a tuple of positional or a dict of named inputs; a program brings its own.
        state: a state dict of the network, its own if not given.

    Returns:
        The state, which layers took each gain, and why other gains and biases stay. Keys, order and dtypes are
        kept; products are taken in float64.

    Raises:
        InputError: torch.export cannot follow the network.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        >>> canon.fold_norms(net, torch.randn(1, 4)).folded
        {'0.weight': ('1.weight',)}
    """
    if state is None:
        state = network.state_dict() if isinstance(network, nn.Module) else network.state_dict
    folder = _Folder(Program.of(network, example_inputs), dict(state))
    folded, kept = {}, {}
    for gain in folder.gains():
        try:
            folded[gain.weight.name] = folder.fold(gain)
        except _CannotFold as reason:
            kept[gain.weight.name] = str(reason)
    return Folded(folder.state, folded, kept | folder.left)


class _Folder:
    def __init__(self, program: Program, state: dict[str, Tensor]) -> None:
        self.program, self.state = program, state
        self.left: dict[str, str] = {}
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
                channels = operation(node) in _CHANNEL_NORMS and len(shape_of(node)) > 2
                gain = found.setdefault(weight.identity, _Gain(weight, channels))
                gain.nodes.append(node)
                if bias is not None:
                    gain.biases[bias.name] = bias
        return list(found.values())

    def _affine(self, node: Node) -> tuple[GraphInput | None, GraphInput | None]:
        """The gain and the bias of a node, where it has a learned gain along the last axis or the channels."""
        name, args = operation(node), node.args
        if name in _CHANNEL_NORMS:
            named = named_arguments(node)
            return self._slot(named.get("weight")), self._slot(named.get("bias"))
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

    def _slot(self, node: Any) -> GraphInput | None:
        return self.learned.get(node) if isinstance(node, Node) else None

    def fold(self, gain: _Gain) -> tuple[str, ...]:
        """Fold one gain into its readers; their weights' names. Raises `_CannotFold`."""
        readers = {
            reader.node: reader for node in gain.nodes for reader in self._readers(node, gain.channels)
        }
        if not readers:
            raise _CannotFold("nothing reads it")
        for own in (gain.weight, *gain.biases.values()):
            self._only(own, set(gain.nodes))
        for reader in readers.values():
            for slot in (reader.weight, reader.bias):
                if slot is not None:
                    self._only(slot, set(readers))
        if len(gain.biases) > 1:
            raise _CannotFold("it goes with several biases")
        shared = {r.bias.identity: set[Any]() for r in readers.values() if r.bias is not None}
        for reader in readers.values():
            if reader.bias is not None:
                shared[reader.bias.identity].add(reader.weight.identity)
        if any(len(weights) > 1 for weights in shared.values()):
            raise _CannotFold("two of its readers share a bias")
        return self._take(gain, list(readers.values()))

    def _readers(self, node: Node, channels: bool) -> Iterator[Reader]:
        for user in node.users:
            if user.op == "output":
                raise _CannotFold("it is an output of the network")
            if keeps_shape(user, node) if channels else keeps_last_axis(user, node):
                yield from self._readers(user, channels)
                continue
            try:
                yield reader_of(user, node, self.learned, channels)
            except NotLinear as reason:
                raise _CannotFold(str(reason)) from None

    def _only(self, slot: GraphInput, nodes: set[Node]) -> None:
        others = self.users[slot.identity] - nodes
        if others:
            raise _CannotFold(
                f"{slot.name} is used by {', '.join(sorted(label(node) for node in others))} too"
            )

    def _take(self, gain: _Gain, readers: list[Reader]) -> tuple[str, ...]:
        g = self.state[gain.weight.name].double()
        bias = next(iter(gain.biases.values()), None)
        b = torch.zeros_like(g) if bias is None else self.state[bias.name].double()
        still = next((why for reader in readers if (why := _cannot_shift(reader))), None)
        if still and b.any() and not g.all():
            raise _CannotFold(f"some gain is zero, and {still}")
        weights = {reader.weight.identity: reader for reader in readers}
        shifted = {r.bias.identity: (r.bias, r) for r in readers if not still and r.bias is not None}
        for c, reader in shifted.values():
            shift = reader.shift(self.state[reader.weight.name].double(), b)
            self._set(c, self.state[c.name].double() + shift)
        for reader in weights.values():
            self._set(reader.weight, reader.scaled(self.state[reader.weight.name].double(), g))
        self._set(gain.weight, torch.ones_like(g))
        if bias is not None:
            moves = not still or not b.any()
            self._set(bias, torch.zeros_like(b) if moves else b / g)
            if still and not moves:
                self.left[bias.name] = f"{still}; it was divided by the gain"
        return tuple(reader.weight.name for reader in weights.values())

    def _set(self, slot: GraphInput, value: Tensor) -> None:
        """Under every name of a tied tensor."""
        for name, (identity, _) in self.program.state_identities.items():
            if identity == slot.identity and name in self.state:
                self.state[name] = value.to(self.state[name].dtype)


def _cannot_shift(reader: Reader) -> str | None:
    if reader.bias is None:
        return f"{label(reader.node)} has no bias to take the norm's"
    return reader.uneven
