"""A network as one graph in float64: exported, with its state apart and its inputs beside it."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from canon.errors import InputError

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_STATE = (InputKind.PARAMETER, InputKind.BUFFER)


@dataclass(frozen=True)
class Slot:
    """One argument of the graph: a tensor of the state, a constant, or an input."""

    kind: str
    name: str
    value: Any
    identity: Any = None
    learned: bool = False


@dataclass(frozen=True)
class Program:
    """A graph that runs in float64, its arguments in order, and which outputs the user sees.

    `state_identities` gives, for every key of the `state_dict`, which tensor it is (tied keys share
    one) and its shape.
    """

    graph: torch.fx.GraphModule
    slots: tuple[Slot, ...]
    outputs: tuple[int, ...]
    state_identities: dict[str, tuple[Any, tuple[int, ...]]]

    @classmethod
    def of(cls, network: nn.Module | ExportedProgram, example_inputs: Any = None) -> Program:
        if isinstance(network, ExportedProgram):
            program, inputs, state = network, network.example_inputs, dict(network.state_dict)
            if example_inputs is not None:
                inputs = _arguments(example_inputs)
            if inputs is None:
                raise InputError("the exported program carries no example inputs: pass example_inputs")
            args, kwargs = inputs
        else:
            if example_inputs is None:
                raise InputError("a module needs example inputs: canon.trace(module, (tensor, ...))")
            args, kwargs = _arguments(example_inputs)
            # A state_dict holds more than export's: keys of modules that forward never calls, and every
            # name of a tied tensor.
            state = dict(network.state_dict(keep_vars=True))
            program = _export(network, args, kwargs)
        if any(_training(node) for node in program.graph.nodes):
            program = copy.deepcopy(program)
            for node in program.graph.nodes:
                for number in _training(node):
                    node.update_arg(number, False)
        if not _functional(program.graph_module):
            with _quiet():
                program = program.run_decompositions({})
        return cls._lift(program, state, args, kwargs)

    @classmethod
    def _lift(cls, program: ExportedProgram, state: Mapping[str, Tensor], args: Any, kwargs: Any) -> Program:
        identities = {name: (_identity(t), tuple(t.shape)) for name, t in state.items()}
        given = iter(pytree.tree_leaves((args, kwargs)))
        slots = []
        for spec in program.graph_signature.input_specs:
            if spec.kind in _STATE and spec.target in identities:
                slots.append(
                    Slot(
                        "state",
                        spec.target,
                        _double(state[spec.target].detach()),
                        identities[spec.target][0],
                        spec.kind is InputKind.PARAMETER,
                    )
                )
            elif spec.kind is InputKind.USER_INPUT:
                slots.append(Slot("input", spec.arg.name, _varied(_double(next(given, None)))))
            else:
                value = program.constants.get(spec.target, program.state_dict.get(spec.target))
                slots.append(Slot("constant", spec.target or spec.arg.name, _double(value)))
        outputs = tuple(
            n
            for n, out in enumerate(program.graph_signature.output_specs)
            if out.kind is OutputKind.USER_OUTPUT
        )
        return cls(_in_double(program.graph_module), tuple(slots), outputs, identities)

    @property
    def used(self) -> set[Any]:
        """Identities of the tensors of the state that some operation reads."""
        nodes = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        return {
            s.identity for s, node in zip(self.slots, nodes, strict=True) if s.kind == "state" and node.users
        }

    def run(self, state: Mapping[str, Tensor], *, grad: bool = False) -> list[Tensor]:
        """The outputs with this float64 state in place of the network's own."""
        with torch.set_grad_enabled(grad):
            results = torch.fx.Interpreter(self.graph).run(*self.arguments(state))
        return [results[n] for n in self.outputs if isinstance(results[n], Tensor)]

    def arguments(self, state: Mapping[str, Tensor]) -> list[Any]:
        """What the graph is called with for this state."""
        return [state[slot.name] if slot.kind == "state" else slot.value for slot in self.slots]


def module_of(node: torch.fx.Node) -> str:
    """The name of the innermost module that an operation belongs to, empty for the network itself."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return stack[-1][0] if stack else ""


def operation(node: torch.fx.Node) -> str:
    """The name of an ATen operation, as `linear`."""
    schema = getattr(node.target, "_schema", None)
    return node.name if schema is None else schema.name.rpartition("::")[2]


def named_arguments(node: torch.fx.Node) -> dict[str, Any]:
    """The arguments of an ATen operation by their names."""
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in getattr(schema, "arguments", ())]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def label(node: torch.fx.Node) -> str:
    """An operation and its module, as `linear in blocks.0.fc1`."""
    module = module_of(node)
    return f"{operation(node)} in {module}" if module else operation(node)


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, list | tuple):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _export(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    module = copy.deepcopy(network).double().eval()
    args, kwargs = pytree.tree_map(_double, (args, kwargs))
    try:
        with _quiet():
            return torch.export.export(module, args, kwargs, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"torch.export cannot follow {type(network).__name__} with these example inputs: {reason}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Export without the fused attention of evaluation mode, and without its talk."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _identity(tensor: Tensor) -> Any:
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return id(tensor)
    return (
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
    )


def _double(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype.is_floating_point and value.dtype.itemsize < 8:
        return value.double()
    return value


def _varied(value: Any) -> Any:
    """An input of zeros, or of any one number, would hide what the first layer does."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1 and value.std() == 0:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        return value + noise.to(value.device) - 0.5
    return value


def _training(node: torch.fx.Node) -> list[int]:
    """Positions of the arguments that put an operation into training mode."""
    arguments = enumerate(getattr(getattr(node.target, "_schema", None), "arguments", ()))
    flags = [n for n, a in arguments if a.name in ("train", "training") and n < len(node.args)]
    return [n for n in flags if node.args[n] is True]


def _functional(graph: torch.fx.GraphModule) -> bool:
    """Whether no operation writes in place or hides a graph of its own."""
    calls: list[Any] = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    schemas = [getattr(target, "_schema", None) for target in calls if target is not operator.getitem]
    return all(schema is not None and not schema.is_mutable for schema in schemas)


def _widen(argument: Any) -> Any:
    return torch.float64 if isinstance(argument, torch.dtype) and argument in _NARROW else argument


def _in_double(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy in which nothing is rounded to less than float64 on the way."""
    graph = copy.deepcopy(graph)
    for node in graph.graph.nodes:
        node.args = pytree.tree_map(_widen, node.args)
        node.kwargs = pytree.tree_map(_widen, node.kwargs)
    graph.recompile()
    return graph
