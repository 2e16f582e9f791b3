"""From what a person can give (a spec, a model, a .pt2 file, a bare checkpoint) to a proved spec.

In this order: `--spec` is read, and proved where the code is known; `--model` and `.pt2` files are traced; a bare checkpoint
is recognised by its keys and shapes. With a model or a program at hand the network can also be run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint, read, require_finite, require_same
from canon.io.files import require_file
from canon.models.loading import Hints, Runnable, find_runnable, load
from canon.spec import Axis, PermutationSpec

_PROVED = "every group of the spec was proved to keep the function, in float64"
_ASSUMED = "assuming the spec, which was not checked; give --model or a .pt2 file to check it"


@dataclass(frozen=True)
class Resolved:
    """The spec of a network, where it came from, and the network's code where it is known.

    `evidence` says why its groups are believed to keep the function. Where they are `assumed` to, because
    the spec is a file's and the network's code is not known, no answer may leave that out.
    """

    spec: PermutationSpec
    source: str
    evidence: str
    runnable: Runnable | None = None
    assumed: bool = False


def resolve(found: Checkpoint, hints: Hints = Hints(), runnable: Runnable | None = None) -> Resolved:
    """The spec of `found`: from the hints, from its program, or recognised by keys and shapes.

    A spec from a file is proved wherever the network's code is known, and assumed elsewhere. `runnable` is
    the code where `find_runnable` has found it already. Raises `InputError` where nothing fits, or where
    a group of the spec changes the function; the message names the ways out.
    """
    runnable = runnable or find_runnable(found, hints)
    if hints.spec is not None:
        source, spec = f"spec {os.fspath(hints.spec)}", read_spec(hints.spec, found.state)
        runnable = runnable or described(found)
        if runnable is None:
            return Resolved(spec, source, _ASSUMED, None, assumed=True)
        _require_proved(spec, found, runnable, source)
        return Resolved(spec, source, _PROVED, runnable)
    if hints.family is None and hints.model is not None and runnable is not None:
        from canon.tracing.trace import trace

        traced = _within(trace(runnable.module, runnable.inputs), found)
        return Resolved(traced, f"traced from {hints.model}", _PROVED, runnable)
    if hints.family is None and found.program is not None:
        from canon.tracing.trace import trace

        return Resolved(trace(found.program), "traced from the exported program", _PROVED, runnable)
    from canon.models.families import recognise

    recognised = recognise(found.state, metadata=found.metadata, name=hints.family)
    source = f"family {hints.family}" if hints.family else "recognised by keys and shapes"
    return Resolved(recognised, source, _PROVED, runnable)


def described(found: Checkpoint) -> Runnable | None:
    """The code of a network whose file says its architecture to a package that is installed."""
    from canon.models.plugins import from_metadata

    built = from_metadata(found.metadata)
    if built is None:
        return None
    module, inputs = built
    load(module, found.state, "the architecture in its metadata")
    return Runnable(module.eval(), inputs if isinstance(inputs, tuple) else (inputs,))


def _require_proved(spec: PermutationSpec, found: Checkpoint, runnable: Runnable, source: str) -> None:
    """`InputError` unless every group and scale of a file's spec keeps the network's function."""
    from canon.tracing.exported_graph import Program
    from canon.tracing.numerical_check import prove_program

    inputs = runnable.inputs if found.program is None else None
    program = Program.of(runnable.module if found.program is None else found.program, inputs)
    identities = {
        identity: name for name, (identity, _) in program.state_identities.items() if name in spec.axes
    }
    axes = dict(spec.axes)
    for name, (identity, shape) in program.state_identities.items():
        if name not in axes:  # tied to a tensor of the file, or no part of it
            twin = identities.get(identity)
            axes[name] = spec.axes[twin] if twin else tuple(Axis.fixed(size) for size in shape)
    proof = prove_program(program, replace(spec, axes=axes))
    wrong = [f"'{name}' by {apart:.1e} of their size" for name, apart in proof.failed.items()]
    wrong += [
        f"'{name}', scaled"
        for name, group in spec.groups.items()
        if name in proof.spec.groups and proof.spec.groups[name].scale != group.scale
    ]
    if wrong:
        raise InputError(
            f"{source} is wrong: the outputs change under the group {', '.join(wrong[:5])}; "
            "leave --spec out, or write a new one with `canon inspect --save-spec`"
        )


def _within(spec: PermutationSpec, found: Checkpoint) -> PermutationSpec:
    """The spec without the keys that the file leaves out because they are tied to others."""
    axes = {name: axes for name, axes in spec.axes.items() if name in found.state}
    return replace(spec, axes=axes, statistics=spec.statistics & axes.keys())


def read_spec(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> PermutationSpec:
    """The spec in a JSON file, checked against `state`."""
    if not os.path.exists(path):
        raise InputError(
            f"{path} does not exist; --spec reads a spec, `canon inspect --save-spec {path}` writes one"
        )
    require_file(path)
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not JSON; write a spec with `canon inspect --save-spec`") from None
    spec = PermutationSpec.from_json(text)
    spec.check(state)
    return spec


@dataclass(frozen=True)
class Pair:
    """Two networks of one architecture, with finite weights; `known` is one that brings its program, if any."""

    a: Checkpoint
    b: Checkpoint
    known: Checkpoint


def read_one(path: str | os.PathLike[str]) -> Checkpoint:
    """A network with finite weights."""
    found = read(path)
    require_finite(found.state, os.fspath(path))
    return found


def read_pair(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Pair:
    """Two networks of one architecture; `InputError` lists the keys and shapes that differ."""
    found_a, found_b = read(a), read(b)
    require_same(found_a.state, found_b.state, os.fspath(a), os.fspath(b))
    for path, found in ((a, found_a), (b, found_b)):
        require_finite(found.state, os.fspath(path))
    return Pair(found_a, found_b, found_a if found_b.program is None else found_b)
