"""Load a network's code, from a `--model` callable or an exported program."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint, require_same
from canon.io.examples import Data
from canon.io.files import require_file
from canon.io.prefixes import module_like
from canon.models.example_inputs import Inputs, example_inputs
from canon.models.unfilled import needs_only_parameters, parameters_on_meta
from canon.tracing.exported_graph import LARGE, Program, copy_module, operation
from canon.types import LazyState, State, like


@dataclass(frozen=True)
class Runnable:
    """Something that computes: a module whose `state_dict` has the checkpoint's keys, and example inputs.

    `fixed_batch` is the only number of examples it takes (an exported program's), or None for any. `origin` says what
    is assumed where nobody gave the code itself. `exported` is the program that the module was made of.
    """

    module: nn.Module
    inputs: Inputs
    keywords: Mapping[str, Any] = field(default_factory=dict)
    fixed_batch: int | None = None
    origin: str | None = None
    exported: Any = None

    @property
    def assumptions(self) -> list[str]:
        """The assumptions behind a comparison of outputs."""
        return [] if self.origin is None else [self.origin]

    @property
    def examples(self) -> Inputs | dict[str, Any]:
        """The example inputs as `canon.trace` takes them."""
        return dict(self.keywords) if self.keywords and not self.inputs else self.inputs

    @cached_property
    def program(self) -> Program:
        """The module's graph on the example inputs. `InputError` where torch.export cannot follow it."""
        network = self.module if self.exported is None else self.exported
        return Program.of(network, self.inputs, self.keywords)

    def fitted(self, data: Data) -> Data:
        """`data` with inputs of the dtype that the network takes: that of its examples, or of its parameters."""
        example = next((x for x in (*self.inputs, *self.keywords.values()) if isinstance(x, Tensor)), None)
        if example is None or (data.x.is_floating_point() and not example.is_floating_point()):
            return data
        floats = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        own = example.is_floating_point() and self.exported is None
        return replace(data, x=data.x.to(next(floats, example.dtype) if own else example.dtype))


@dataclass(frozen=True)
class ModelSource:
    """The user's description of a network: at most one of `spec` and `family`; `input` goes with `model`.

    `assume` ("heads=12", "chain") says what keys and shapes do not, and goes with neither `spec` nor `model`.
    `model` is the code: "package.module:build", a module, or a callable that returns one.
    """

    spec: str | os.PathLike[str] | None = None
    model: str | nn.Module | Callable[[], Any] | None = None
    family: str | None = None
    input: str | None = None
    assume: tuple[str, ...] = ()
    example_inputs: Inputs | None = None

    @property
    def model_name(self) -> str:
        """The name of the given code in messages."""
        if self.model is None or isinstance(self.model, str):
            return str(self.model)
        if isinstance(self.model, nn.Module):
            return f"the module {type(self.model).__name__}"
        return getattr(self.model, "__qualname__", type(self.model).__name__)

    def __post_init__(self) -> None:
        if self.spec is not None and self.family is not None:
            raise InputError("--spec and --family both say what the groups are; give one")
        if self.input is not None and self.model is None:
            raise InputError("--input says what a --model takes; give a --model too")
        if self.assume and self.spec is not None:
            raise InputError("--assume speaks of bare checkpoints; --spec gives all groups, so leave one out")
        if self.assume and self.model is not None and self.family is None:
            raise InputError("--assume speaks of bare checkpoints; --model gives the code, so leave one out")


def find_runnable(found: Checkpoint, hints: ModelSource) -> Runnable | None:
    """The network's code: from `hints.model` ("package.module:build", "file.py:build") or its program."""
    if hints.model is None:
        return None if found.program is None else _from_program(found.program, hints.example_inputs)
    large = is_large(found.state)
    module, inputs = build(hints.model, large) if isinstance(hints.model, str) else _built(hints, large)
    if hints.input is not None:
        inputs = parse_input(hints.input)
    if hints.example_inputs is not None:
        inputs = hints.example_inputs
    if inputs is None:
        inputs = example_inputs(module)
    if inputs is None:
        raise InputError(
            f"{hints.model_name} gave no example inputs; add --input, as in --input 1x3x224x224 "
            "(in Python: example_inputs=torch.randn(1, 3, 224, 224))"
        )
    module = module_like(module, found.state)
    load(module, found.state, hints.model_name, share=large)
    if isinstance(inputs, dict):
        return Runnable(module.eval(), (), inputs)
    return Runnable(module.eval(), inputs)


def is_large(state: Mapping[str, Tensor]) -> bool:
    """Whether a network is too large to be held in float64 as a whole."""
    return 8 * sum(tensor.numel() for tensor in like(state).values()) > LARGE


def _built(hints: ModelSource, large: bool) -> tuple[nn.Module, Inputs | None]:
    if isinstance(hints.model, nn.Module):
        return copy_module(hints.model), None  # what the user holds is left as it is
    assert callable(hints.model)
    return _called(hints.model, hints.model_name, large)


def require_runnable(found: Runnable | None) -> Runnable:
    """`found`, or `InputError` that says how to give the network's code."""
    if found is None:
        raise InputError("the network has to be run, and its code is not known; give --model or a .pt2 file")
    return found


def _from_program(program: Any, given: Inputs | None) -> Runnable | None:
    """An exported program on its own example inputs, or on those that were given."""
    inputs, keywords = program.example_inputs or ((), {})
    if isinstance(given, dict):
        inputs, keywords = (), given
    elif given is not None:
        inputs, keywords = given, {}
    elif program.example_inputs is None:
        return None
    _require_shapes(program, (tuple(inputs), dict(keywords)))
    first = next((x for x in (*inputs, *keywords.values()) if isinstance(x, Tensor) and x.dim()), None)
    fixed = None if first is None or program.range_constraints else first.shape[0]
    return Runnable(_any_dtype(program.module()), tuple(inputs), dict(keywords), fixed, exported=program)


def _require_shapes(program: Any, given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """`InputError` unless inputs have the shapes that a program was exported for."""
    leaves, structure = pytree.tree_flatten(given)
    names = set(program.graph_signature.user_inputs)
    nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if program.call_spec.in_spec != structure:
        raise InputError(
            f"the exported program takes {len(nodes)} inputs, in the order and under the names of the call that was "
            f"exported; found {len(leaves)}"
        )
    for node, leaf in zip(nodes, leaves, strict=False):
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or not isinstance(leaf, Tensor):
            continue
        wanted = [size if type(size) is int else None for size in value.shape]
        fits = len(wanted) == leaf.dim()
        if not fits or any(w is not None and w != s for w, s in zip(wanted, leaf.shape, strict=True)):
            shape = " x ".join("any" if size is None else str(size) for size in wanted)
            raise InputError(
                f"the exported program takes {node.name} of shape {shape}, found {tuple(leaf.shape)}"
            )


def _any_dtype(module: nn.Module) -> nn.Module:
    """A program's module without its assertions of dtypes: it is to run in others than it was exported in."""
    for part in module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in list(part.graph.nodes):
                if operation(node) == "_assert_tensor_metadata":
                    part.graph.erase_node(node)
            part.recompile()
    return module


def build(target: str, large: bool = False) -> tuple[nn.Module, Inputs | dict[str, Any] | None]:
    """What the callable `target` returns: a module, or a module and its example inputs.

    These are a tensor, a tuple of positional inputs or a dictionary of named ones. Parameters of a `large` module
    have no content, where it can be built so: a checkpoint's tensors are to take their place.
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise InputError(f"--model {target}: write package.module:function or file.py:function")
    found = function_at(target, "--model")
    required = [
        parameter.name
        for parameter in inspect.signature(found).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise InputError(f"--model {target}: {name} needs {', '.join(required)}; name one without arguments")
    return _called(found, target, large)


def _without_content(function: Callable[[], Any]) -> Any:
    """What `function` returns, its parameters without content; None where it needs their numbers."""
    try:
        with parameters_on_meta():
            made = function()
    except Exception:  # any failure: the caller builds the module again, with content
        return None
    parts = made if isinstance(made, tuple) else (made,)
    modules = [part for part in parts if isinstance(part, nn.Module)]
    return made if modules and all(map(needs_only_parameters, modules)) else None


def _called(function: Callable[[], Any], target: str, large: bool) -> tuple[nn.Module, Inputs | None]:
    try:
        made = (_without_content(function) if large else None) or function()
    except Exception as error:  # any exception of the user's code is an input error
        raise InputError(f"--model {target} failed: {type(error).__name__}: {error}") from error
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"--model {target} returned a {type(module).__name__}; expected an nn.Module, "
            "or a pair of the module and its example inputs (a tuple, or a dictionary of named ones)"
        )
    if isinstance(inputs, Mapping):
        return module, dict(inputs)
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    return module, None if inputs is None else tuple(inputs)


def function_at(target: str, option: str) -> Callable[..., Any]:
    """The function that "package.module:function" or "file.py:function" names; `option` is where a person wrote it."""
    where, _, name = target.rpartition(":")
    try:
        sys.path.insert(0, str(Path(where).parent.resolve()) if where.endswith(".py") else os.getcwd())
        if where.endswith(".py"):
            require_file(where)
            described = importlib.util.spec_from_file_location(Path(where).stem, where)
            if described is None or described.loader is None:
                raise ImportError(f"{where} is not a Python file")
            namespace = importlib.util.module_from_spec(described)
            described.loader.exec_module(namespace)
        else:
            namespace = importlib.import_module(where)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{option} {target}: {error}; run from the folder that holds it") from error
    except Exception as error:  # any exception of the user's code is an input error
        raise InputError(f"{option} {target} failed: {type(error).__name__}: {error}") from error
    found = getattr(namespace, name, None)
    if not callable(found):
        public = [
            key for key, value in vars(namespace).items() if callable(value) and not key.startswith("_")
        ]
        raise InputError(
            f"{option} {target}: {where} has no function {name}; it has {', '.join(public[:10])}"
        )
    return found


def parse_input(text: str) -> Inputs:
    """Example inputs: "1x3x224x224" for numbers, "1x16@1000" for token ids below 1000; "," separates."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_parse_one(part.strip(), generator) for part in text.split(","))


def _parse_one(text: str, generator: torch.Generator) -> Tensor:
    sizes, _, below = text.partition("@")
    try:
        shape = [int(size) for size in sizes.lower().split("x")]
        limit = int(below) if below else 0
        if min(shape) < 1 or (below and limit < 1):
            raise ValueError
    except ValueError:
        raise InputError(
            f"--input {text}: write a shape as 1x3x224x224, or 1x16@1000 for ids below 1000"
        ) from None
    if below:
        return torch.randint(limit, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def load(module: nn.Module, state: Mapping[str, Tensor], who: str, share: bool = False) -> None:
    """Load `state` into `module`; `InputError` with the keys, shapes and kinds of numbers that differ.

    A key may be left out whose tensor is tied to one that is there, as safetensors files do. With `share` the tensors
    themselves become the module's, in their dtypes.
    """
    full = with_twins(module, state)
    require_same(module.state_dict(), full, who, "the checkpoint")
    for name, _ in module.named_parameters() if share else ():
        if not (full[name].is_floating_point() or full[name].is_complex()):
            raise InputError(
                f"the checkpoint holds {name} as {full[name].dtype}, a parameter of {who} is floating point; give the "
                "network in a floating dtype"
            )
    load_into(module, full, share)


def load_into(module: nn.Module, state: Mapping[str, Tensor], share: bool = False) -> None:
    """Load `state`, written by this version of the module's code: some modules rebuild themselves for older ones."""
    whole: Any = OrderedDict(state)
    whole._metadata = getattr(module.state_dict(), "_metadata", None)
    tied = _tied(module)
    module.load_state_dict(whole, assign=share)
    for owner, *others in tied if share else ():  # assigning them one by one would untie them
        for name in others:
            holder, _, own = name.rpartition(".")
            setattr(module.get_submodule(holder), own, module.state_dict(keep_vars=True)[owner])


def with_twins(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, and under each of the module's keys that it lacks the tensor of a key tied to it.

    Files from before batch norms counted their batches lack the counters, which take no part in evaluation.
    """
    return dict(twins_of(module, state))


def twins_of(module: nn.Module, state: Mapping[str, Tensor]) -> LazyState:
    """`with_twins`, each tensor asked of `state` when it is wanted."""
    counters = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if name.endswith("num_batches_tracked") and name not in state
    }
    other: dict[str, str] = {}
    for tied in _tied(module):
        known = next((name for name in tied if name in state), None)
        if known is not None:
            other |= {name: known for name in tied if name not in state}
    names = [*state, *counters, *other]
    return LazyState(names, lambda name: counters[name] if name in counters else state[other.get(name, name)])


def _tied(module: nn.Module) -> list[list[str]]:
    """The keys of each tensor of the module."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def call(
    module: nn.Module,
    state: Mapping[str, Tensor],
    inputs: tuple[Any, ...],
    keywords: Mapping[str, Any] | None = None,
) -> Any:
    """What `module` returns with the tensors of `state`; the module is left as it was.

    Raises `InputError` where it fails on these inputs.
    """
    try:
        # Every key has its tensor, so that tied tensors need not be one object (casts untie them).
        return functional_call(
            module, with_twins(module, state), inputs, dict(keywords or {}), tie_weights=False
        )
    except (AssertionError, RuntimeError, TypeError, ValueError, IndexError) as error:
        given = (*inputs, *(keywords or {}).values())
        shapes = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in given if isinstance(x, Tensor))
        raise InputError(f"the network fails on inputs of shape {shapes}: {error}") from error


def loaded(module: nn.Module, state: State) -> nn.Module:
    """A copy of `module` in evaluation mode with the tensors of `state`, in the module's own dtypes."""
    working = copy_module(module).eval()
    if isinstance(state, LazyState):
        full = twins_of(working, state)
        with torch.no_grad():
            for name, tensor in working.state_dict().items():
                tensor.copy_(full[name])
    else:
        load_into(working, with_twins(working, state))
    return working
