"""A network as one exported float64 graph, with its state and inputs as arguments."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._decomp import decompositions
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from canon.errors import InputError
from canon.io.exported_program import quiet_export
from canon.tracing.output_comparison import real_view
from canon.tracing.packed_sequences import packed_as_padded
from canon.tracing.streaming import DeferredTensor, GradientProbe, Streamed, TensorPool, wide

# Bytes in float64 above which a network's tensors are made again whenever they are wanted.
LARGE = 2**30

Probe = Callable[[Tensor], Tensor | None]

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_STATE = (InputKind.PARAMETER, InputKind.BUFFER)


@dataclass(frozen=True)
class GraphInput:
    """One argument of the graph: a tensor of the state as the network holds it, a constant, or an input."""

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
    slots: tuple[GraphInput, ...]
    outputs: tuple[int, ...]
    state_identities: dict[str, tuple[Any, tuple[int, ...]]]

    @classmethod
    def of(
        cls,
        network: nn.Module | ExportedProgram,
        example_inputs: Any = None,
        keywords: Mapping[str, Any] | None = None,
    ) -> Program:
        """The graph of a network on example inputs, positional ones in a tuple or named ones in a mapping;
        `keywords` are named inputs beside positional ones."""
        if isinstance(network, ExportedProgram):
            program, inputs, state = network, network.example_inputs, dict(network.state_dict)
            if example_inputs is not None:
                inputs = call_of(example_inputs)
            if keywords and inputs is not None:
                inputs = inputs[0], {**inputs[1], **keywords}
            if inputs is None:
                raise InputError("the exported program carries no example inputs: pass example_inputs")
            args, kwargs = inputs
        else:
            if example_inputs is None:
                raise InputError("a module needs example inputs: canon.trace(module, (tensor, ...))")
            args, kwargs = call_of(example_inputs)
            kwargs = {**kwargs, **(keywords or {})}
            # A state_dict holds more than export's: keys of modules that forward never calls, and every
            # name of a tied tensor.
            state = dict(network.state_dict(keep_vars=True))
            program = _export(network, args, kwargs)
        # A module was put into evaluation mode: dropout that is left there is on for good.
        for_good = ("dropout",) if isinstance(network, nn.Module) else ()
        if any(_training(node) for node in program.graph.nodes if operation(node) not in for_good):
            program = copy.deepcopy(program)
            for node in program.graph.nodes:
                for number in _training(node) if operation(node) not in for_good else ():
                    node.update_arg(number, False)
        if not _functional(program.graph_module):
            try:
                with without_fused_attention(), quiet_export():
                    program = program.run_decompositions({})
            except Exception as error:  # as of export, its failures are of many kinds
                raise InputError(
                    f"torch.export cannot write {type(network).__name__} without changes in place: {_reason(error)}"
                ) from error
        return cls._lift(program, state, args, kwargs)

    @classmethod
    def recorded(cls, network: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
        """`of`, without torch.export where the forward pass is a mere sequence of operations on tensors."""
        from canon.tracing.recorded_graph import record

        module = _unfilled(network).eval()
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        if 8 * sum(tensor.numel() for tensor in held.values()) > LARGE:
            return cls.of(network, inputs)
        try:
            graph, outputs = record(module, held, [wide(x) for x in inputs])
        except Exception:  # it relies on interfaces that torch may change; torch.export has the last word
            return cls.of(network, inputs)
        state = dict(network.state_dict(keep_vars=True))
        identities = {name: (_identity(t), tuple(t.shape)) for name, t in state.items()}
        slots = [
            GraphInput("state", name, state[name].detach(), identities[name][0], isinstance(t, nn.Parameter))
            for name, t in held.items()
        ]
        names = inspect.signature(network.forward).parameters
        slots += [GraphInput("input", name, _varied(wide(x))) for name, x in zip(names, inputs, strict=False)]
        return cls(_inwide(graph), tuple(slots), tuple(range(outputs)), identities)

    @classmethod
    def _lift(cls, program: ExportedProgram, state: Mapping[str, Tensor], args: Any, kwargs: Any) -> Program:
        identities = {name: (_identity(t), tuple(t.shape)) for name, t in state.items()}
        given = iter(pytree.tree_leaves((args, kwargs)))
        slots = []
        for spec in program.graph_signature.input_specs:
            if spec.kind in _STATE and spec.target in identities:
                slots.append(
                    GraphInput(
                        "state",
                        spec.target,
                        state[spec.target].detach(),
                        identities[spec.target][0],
                        spec.kind is InputKind.PARAMETER,
                    )
                )
            elif spec.kind is InputKind.USER_INPUT:
                slots.append(GraphInput("input", spec.arg.name, _varied(wide(next(given, None)))))
            else:
                value = program.constants.get(spec.target, program.state_dict.get(spec.target))
                slots.append(GraphInput("constant", spec.target or spec.arg.name, wide(value)))
        outputs = tuple(
            n
            for n, out in enumerate(program.graph_signature.output_specs)
            if out.kind is OutputKind.USER_OUTPUT
        )
        return cls(_inwide(program.graph_module), tuple(slots), outputs, identities)

    @property
    def used(self) -> set[Any]:
        """Identities of the tensors of the state that some operation reads."""
        nodes = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        return {
            s.identity for s, node in zip(self.slots, nodes, strict=True) if s.kind == "state" and node.users
        }

    @property
    def large(self) -> bool:
        """Whether its state is too large to be held in float64 as a whole."""
        sizes = {identity: prod(shape) for identity, shape in self.state_identities.values()}
        return 8 * sum(sizes.values()) > LARGE

    def with_inputs(self, args: Any, kwargs: Any) -> Program:
        """The same graph on other inputs of the same shapes."""
        given = iter(pytree.tree_leaves((args, kwargs)))
        slots = tuple(
            replace(slot, value=_varied(wide(next(given, None)))) if slot.kind == "input" else slot
            for slot in self.slots
        )
        return replace(self, slots=slots)

    def run(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """The outputs in float64 with this state in place of the network's own.

        A tensor of it is asked for when an operation wants it.
        """
        room = TensorPool()
        with torch.no_grad():
            return self._run(lambda name: room.wide(state[name])[0] if self.large else wide(state[name]))

    def outputs_and_relevance(
        self, state: Mapping[str, Tensor], tracked: Collection[str], probe: Probe, threshold: float
    ) -> tuple[list[Tensor], set[str]]:
        """The outputs, and the tensors among `tracked` that they depend on.

        These are the ones whose gradient times value exceeds `threshold` somewhere; the gradient is that of the sum of
        the outputs, each multiplied by what `probe` gives for it (None for one that is left out). None where a small network
        has no derivative.
        """
        gradients = GradientProbe(state, threshold, TensorPool())
        with torch.enable_grad(), gradients.saving() if self.large else nullcontext():
            outputs = self._run(lambda name: gradients.fetch(name, name in tracked))
            real = [real_view(output) for output in outputs]
            weighted = [(output, probe(output)) for output in real if output.requires_grad]
            known = [(output, weight, output.isfinite()) for output, weight in weighted if weight is not None]
            parts = [(output[where] * weight[where]).sum() for output, weight, where in known]
            if parts:
                try:
                    torch.stack(parts).sum().backward()
                except (RuntimeError, NotImplementedError) as error:  # operations without a derivative
                    if self.large:
                        raise InputError(f"the network has no derivative: {_reason(error)}") from error
                    gradients.relevant.clear()
        return [output.detach() for output in outputs], gradients.relevant

    def _run(self, fetch: Callable[[str], Tensor]) -> list[Tensor]:
        # Networks that draw random numbers draw the same ones in every run.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                results = Streamed(self.graph, fetch).run(*self.arguments)
            except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(does_not_run(error)) from error
        return [results[n] for n in self.outputs if isinstance(results[n], Tensor)]

    @property
    def arguments(self) -> list[Any]:
        """What the graph is called with, the tensors of the state `DeferredTensor`."""
        return [DeferredTensor(slot.name) if slot.kind == "state" else slot.value for slot in self.slots]


def does_not_run(error: Exception) -> str:
    """What is said where an operation does not take what it was given."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the network does not run with these tensors: {lines[0]}"


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


def copy_module(module: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy, also where a module keeps a computed tensor, as `torch.nn.utils.weight_norm` makes it do.

    `memo` is that of `copy.deepcopy`.
    """
    known = dict(memo or {})
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                known[id(value)] = value.detach().clone()
    return copy.deepcopy(module, known)


def skeleton(module: nn.Module) -> nn.Module:
    """A copy without memory for parameters: every call brings its own."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), False) for p in module.parameters()}
    return copy_module(module, empty)


def call_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as the positional and the named ones of one call."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, list | tuple):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _export(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    module = in_one_graph(without_cache(_unfilled(network).eval()))
    args, kwargs = pytree.tree_map(wide, (args, kwargs))
    try:
        with without_fused_attention(), quiet_export(), _states_of_lstm(), packed_as_padded():
            return torch.export.export(module, args, kwargs, strict=False)
    except Exception as error:
        raise InputError(
            f"torch.export cannot follow {type(network).__name__} with these example inputs: {_reason(error)}"
        ) from error


def _unfilled(network: nn.Module) -> nn.Module:
    """A copy in float64 whose parameters have no content yet, and so take no memory: export reads their shapes."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, dtype=_wide_type(p.dtype)), p.requires_grad)
        for p in network.parameters()
    }
    module = copy_module(network, empty).double()
    for tensor in module.buffers():
        tensor.data = wide(tensor.data)  # `double` leaves complex numbers as they are
    return module


def _wide_type(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


_CURES = (
    (
        "data-dependent",
        "let forward decide nothing by the values of a tensor, or export it yourself to a .pt2 file",
    ),
    ("which is not a known type", "return tensors, or tuples, lists and dictionaries of them"),
    ("got an unexpected keyword argument", "name the inputs as forward does"),
    ("missing", "give every input that forward needs, as a tuple or as a dictionary of named inputs"),
    ("size of tensor", "check the shapes of the example inputs"),
    ("shapes cannot be multiplied", "check the shapes of the example inputs"),
)


def _reason(error: Exception) -> str:
    """The first line of what export said, and what to do where that is known."""
    text = str(error).strip()
    first = text.splitlines()[0][:300] if text else type(error).__name__
    cure = next((cure for part, cure in _CURES if part in text), None)
    return first if cure is None else f"{first.rstrip('.')}; {cure}"


def without_cache(module: nn.Module) -> nn.Module:
    """`module` with the key-value caches that its configurations ask for turned off: a trace has one step."""
    for part in module.modules():
        for name in ("config", "generation_config"):
            config = vars(part).get(name)
            for own in (config, *(vars(config).values() if hasattr(config, "__dict__") else ())):
                if getattr(own, "use_cache", None) is True:
                    own.use_cache = False
    return module


def in_one_graph(module: nn.Module) -> nn.Module:
    """`module` with its experts computed together, where it would loop over those that were chosen."""
    choose = getattr(module, "set_experts_implementation", None)
    if (
        callable(choose)
        and getattr(getattr(module, "config", None), "_experts_implementation", None) == "eager"
    ):
        with suppress(ValueError):  # a class without experts
            choose("grouped_mm")
    return module


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Within the block attention layers in evaluation mode compute by separate operations, which have derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _states_of_lstm() -> Iterator[None]:
    """Within the block the final states of an LSTM layer are exported as (batch, units): torch 2.6 leaves one axis more."""
    of_layer = getattr(decompositions, "one_layer_lstm", None)
    if of_layer is None:
        yield
        return

    def without_layer(*args: Any, **kwargs: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, states = of_layer(*args, **kwargs)
        return out, tuple(state.squeeze(0) if state.dim() > 2 else state for state in states)

    with mock.patch.object(decompositions, "one_layer_lstm", without_layer):
        yield


def _identity(tensor: Tensor) -> Any:
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return id(tensor)
    return (
        tensor.untyped_storage().data_ptr(),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tensor.stride(),
    )


def _varied(value: Any) -> Any:
    """Replace constant inputs, which would hide what the first layer does."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 1 and value.std() == 0:
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
        return value + noise.to(value.device) - 0.5
    return value


def _training(node: torch.fx.Node) -> list[int]:
    """Positions of the arguments that put an operation into training mode.

    A batch norm without running statistics is in it for good.
    """
    if operation(node) == "batch_norm" and named_arguments(node).get("running_mean") is None:
        return []
    arguments = enumerate(getattr(getattr(node.target, "_schema", None), "arguments", ()))
    flags = [n for n, a in arguments if a.name in ("train", "training") and n < len(node.args)]
    return [n for n in flags if node.args[n] is True]


def _functional(graph: torch.fx.GraphModule) -> bool:
    """Whether no operation writes in place or hides a graph of its own."""
    calls: list[Any] = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    schemas = [getattr(target, "_schema", None) for target in calls if target is not operator.getitem]
    return all(schema is not None and not schema.is_mutable for schema in schemas)


def _widen(argument: Any) -> Any:
    if argument is torch.complex64:
        return torch.complex128
    return torch.float64 if isinstance(argument, torch.dtype) and argument in _NARROW else argument


def _is(node: torch.fx.Node, name: str) -> bool:
    return node.op == "call_function" and operation(node) == name


def _copy_as_expand(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    target: Any = node.args[0]
    source: Any = node.args[1]
    shape, dtype = target.meta["val"].shape, target.meta["val"].dtype
    with graph.inserting_before(node):
        if source.meta["val"].dtype != dtype:
            narrow = source.meta["val"]
            source = graph.call_function(torch.ops.aten._to_copy.default, (source,), {"dtype": _widen(dtype)})
            source.meta = {"val": narrow.to(_widen(dtype))}
        made = graph.call_function(torch.ops.aten.expand.default, (source, list(shape)))
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _inwide(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy in which nothing is rounded to less than float64 on the way."""
    graph = copy.deepcopy(graph)
    for node in list(graph.graph.nodes):
        if _is(node, "_assert_tensor_metadata"):  # it asserts the dtypes that are widened here
            graph.graph.erase_node(node)
            continue
        if _is(node, "view"):  # other strides than those that were exported, after a decomposition
            node.target = torch.ops.aten.reshape.default
        if _is(node, "copy"):  # what a write into a slice becomes: its source, in the slice's shape
            _copy_as_expand(graph.graph, node)
            continue
        node.args = pytree.tree_map(_widen, node.args)
        node.kwargs = pytree.tree_map(_widen, node.kwargs)
    graph.recompile()
    return graph
