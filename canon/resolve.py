"""From what a person can give (a spec, a model, a .pt2 file, a bare checkpoint) to a proved spec.

In this order: `--spec` is taken at its word; `--model` and `.pt2` files are traced; a bare checkpoint
is recognised by its keys and shapes. With a model or a program at hand the network can also be run.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from canon.checkpoint import Checkpoint
from canon.errors import InputError
from canon.files import require_file
from canon.spec import PermutationSpec

Inputs = tuple[Any, ...]

_PROVED = "every group of the spec was proved to keep the function, in float64"


@dataclass(frozen=True)
class Runnable:
    """Something that computes: a module whose `state_dict` has the checkpoint's keys, and example inputs.

    `fixed_batch` is the only number of examples it takes (an exported program's), or None for any.
    """

    module: nn.Module
    inputs: Inputs
    fixed_batch: int | None = None


@dataclass(frozen=True)
class Resolved:
    """The spec of a network, where it came from, and the network's code where it is known.

    `evidence` says why its groups are believed to keep the function.
    """

    spec: PermutationSpec
    source: str
    evidence: str
    runnable: Runnable | None = None


def resolve(
    found: Checkpoint,
    *,
    spec: str | os.PathLike[str] | None = None,
    model: str | None = None,
    family: str | None = None,
    input: str | None = None,
) -> Resolved:
    """The spec of `found`, by the first of `spec`, `model`, `.pt2` program, `family` or recognition.

    Raises `InputError` where nothing fits; the message names the ways out.
    """
    given = [name for name, value in (("--spec", spec), ("--family", family)) if value is not None]
    if len(given) == 2:
        raise InputError("--spec and --family both say what the groups are; give one")
    runnable = find_runnable(found, model=model, input=input)
    if spec is not None:
        evidence = "the spec was taken at its word"
        return Resolved(read_spec(spec, found.state), f"spec {os.fspath(spec)}", evidence, runnable)
    if model is not None and runnable is not None:
        from canon.trace import trace

        spec_found = trace(runnable.module, runnable.inputs)
        return Resolved(spec_found, f"traced from {model}", _PROVED, runnable)
    if found.program is not None and family is None:
        from canon.trace import trace

        return Resolved(trace(found.program), "traced from the exported program", _PROVED, runnable)
    from canon.families import recognise

    recognised = recognise(found.state, metadata=found.metadata, name=family)
    source = f"family {family}" if family else "recognised by keys and shapes"
    return Resolved(recognised, source, _PROVED, runnable)


def find_runnable(found: Checkpoint, *, model: str | None, input: str | None) -> Runnable | None:
    """The network's code, from `model` ("package.module:build" or "file.py:build") or its program."""
    if model is not None:
        module, inputs = build(model)
        if input is not None:
            inputs = parse_input(input)
        if inputs is None:
            raise InputError(f"{model} gave no example inputs; add --input, as in --input 1x3x224x224")
        load(module, found.state, model)
        return Runnable(module.eval(), inputs)
    if found.program is None:
        if input is not None:
            raise InputError("--input says what a --model takes; give a --model too")
        return None
    return _from_program(found.program)


def _from_program(program: Any) -> Runnable | None:
    if program.example_inputs is None:
        return None
    inputs, keywords = program.example_inputs
    if keywords:
        return None  # only positional inputs are drawn; the spec is proved by the trace all the same
    first = next((x for x in inputs if isinstance(x, Tensor) and x.dim()), None)
    fixed = None if first is None or program.range_constraints else first.shape[0]
    return Runnable(program.module(), tuple(inputs), fixed)


def build(target: str) -> tuple[nn.Module, Inputs | None]:
    """What the callable `target` returns: a module, or a module and its example inputs."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise InputError(f"--model {target}: write package.module:function or file.py:function")
    made = _callable(target, where, name)()
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(
            f"--model {target} returned a {type(module).__name__}; expected an nn.Module, "
            "or a pair of the module and a tuple of example inputs"
        )
    if isinstance(inputs, (Tensor, Mapping)):
        inputs = (inputs,)
    return module, None if inputs is None else tuple(inputs)


def _callable(target: str, where: str, name: str) -> Any:
    try:
        if where.endswith(".py"):
            require_file(where)
            described = importlib.util.spec_from_file_location(Path(where).stem, where)
            if described is None or described.loader is None:
                raise ImportError(f"{where} is no Python file")
            namespace = importlib.util.module_from_spec(described)
            described.loader.exec_module(namespace)
        else:
            if os.getcwd() not in sys.path:
                sys.path.insert(0, os.getcwd())
            namespace = importlib.import_module(where)
    except ImportError as error:
        raise InputError(f"--model {target}: {error}; run from the folder that holds it") from None
    found = getattr(namespace, name, None)
    if not callable(found):
        public = [
            key for key, value in vars(namespace).items() if callable(value) and not key.startswith("_")
        ]
        raise InputError(f"--model {target}: {where} has no function {name}; it has {', '.join(public[:10])}")
    required = [
        parameter.name
        for parameter in inspect.signature(found).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if required:
        raise InputError(f"--model {target}: {name} needs {', '.join(required)}; name one without arguments")
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


def load(module: nn.Module, state: Mapping[str, Tensor], who: str) -> None:
    """Load `state` into `module`; `InputError` with the keys and shapes that differ."""
    require_same({name: t for name, t in module.state_dict().items()}, state, who, "the checkpoint")
    module.load_state_dict(dict(state))


def read_spec(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> PermutationSpec:
    """The spec in a JSON file, checked against `state`."""
    require_file(path)
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not JSON; write a spec with `canon inspect --spec`") from None
    spec = PermutationSpec.from_json(text)
    spec.check(state)
    return spec


def require_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], who_a: str, who_b: str) -> None:
    """Raise `InputError` unless keys and shapes agree; the first ten differences are listed."""
    differences = []
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in b:
            differences.append(f"{name} {tuple(a[name].shape)} only in {who_a}")
        elif name not in a:
            differences.append(f"{name} {tuple(b[name].shape)} only in {who_b}")
        elif a[name].shape != b[name].shape:
            differences.append(f"{name} {tuple(a[name].shape)} and {tuple(b[name].shape)}")
    if differences:
        more = f"; and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise InputError(
            f"{who_a} and {who_b} are different architectures: {'; '.join(differences[:10])}{more}"
        )


def require_finite(state: Mapping[str, Tensor], who: str) -> None:
    """Raise `InputError` where a tensor holds NaN or infinity: no matching can make sense of it."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise InputError(f"{who}: {name} holds NaN or infinity ({bad} of {tensor.numel()} values)")
