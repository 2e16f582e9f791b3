"""Resolve what the user gives (a spec, a model, a .pt2 file, a bare checkpoint) to a spec with its evidence.

In this order: `--spec` is read, and checked numerically where the code is known; `--model` and `.pt2` files are
traced and checked numerically; a bare checkpoint is recognised by its keys and shapes, and what they do not
tell is assumed and said. With a model or a program at hand the network can also be run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint
from canon.io.digests import KEY, checked, with_digest
from canon.io.files import read_bounded
from canon.io.model_config import read_config
from canon.io.prefixes import prefix_of
from canon.models.loading import ModelSource, Runnable, find_runnable, load
from canon.spec import Axis, PermutationSpec
from canon.validation import Invalid, parse_json

CHECKED = "every group was verified numerically to keep the function, in float64"


@dataclass(frozen=True)
class SpecSource:
    """The spec of a network, where it came from, and the network's code where it is known.

    `evidence` says why its groups are believed to keep the function. Where that rests on `assumptions`, it is
    not verified; `stated` says that a person made all of them.
    """

    spec: PermutationSpec
    source: str
    evidence: str
    runnable: Runnable | None = None
    assumptions: tuple[str, ...] = ()
    stated: bool = False


def resolve(
    found: Checkpoint,
    hints: ModelSource = ModelSource(),
    runnable: Runnable | None = None,
    config: Mapping[str, Any] | None = None,
) -> SpecSource:
    """The spec of `found`: from the hints, from its program, or recognised by keys and shapes.

    A spec from a file is verified wherever the network's code is known, and assumed elsewhere. `runnable` is
    the code where `code_of` has found it already, `config` the configuration if it is not the one beside
    the file. Raises `InputError` where nothing fits, or where
    a group of the spec changes the function; the message names the ways out.
    """
    runnable = runnable or code_of(found, hints, config)
    if hints.spec is not None:
        source, spec = f"spec {os.fspath(hints.spec)}", read_spec(hints.spec, found.state)
        if runnable is not None:
            require_symmetries(spec, runnable, source)
            return SpecSource(spec, source, CHECKED, runnable)
        assumption = f"the groups of {os.fspath(hints.spec)} are symmetries of the network (--spec)"
        return SpecSource(spec, source, f"assuming {assumption}", None, (assumption,))
    if hints.family is None and hints.model is not None and runnable is not None:
        traced = _within(_trace(runnable), found)
        source = f"traced from {hints.model_name}"
        prefix = prefix_of(runnable.module)
        return SpecSource(traced, source + f", under the prefix {prefix}" * bool(prefix), CHECKED, runnable)
    if hints.family is None and found.program is not None:
        from canon.tracing.symmetry_groups import trace, trace_program

        if hints.assume:
            raise InputError(
                "--assume speaks of bare checkpoints; a .pt2 file holds the code, so leave it out"
            )
        spec = trace(found.program) if runnable is None else trace_program(runnable.program)
        return SpecSource(spec, "traced from the exported program", CHECKED, runnable)
    if runnable is not None and runnable.origin is not None:
        spec = _within(_trace(runnable), found)
        source = f"traced after {runnable.origin}"
        assumptions = (runnable.origin,)
        return SpecSource(spec, source, f"{CHECKED}, assuming {runnable.origin}", runnable, assumptions)
    from canon.models.families import recognise

    config = read_config(found.path) if config is None else config
    try:
        known = recognise(
            found.state, metadata=found.metadata, name=hints.family, assume=hints.assume, config=config
        )
    except InputError as error:
        from canon.models.huggingface import contradiction

        told = None if hints.family or hints.assume else contradiction(found, config)
        if told is None:
            raise
        raise InputError(f"{told}; give the configuration of this network, or --model") from error
    source = f"family {hints.family}" if hints.family else "recognised by keys and shapes"
    source += f" after the prefix {known.prefix}" if known.prefix else ""
    evidence = CHECKED
    if known.assumptions:
        evidence = f"assuming {'; '.join(known.assumptions)}"
    return SpecSource(known.spec, source, evidence, runnable, known.assumptions, known.stated)


def _trace(runnable: Runnable) -> PermutationSpec:
    from canon.tracing.symmetry_groups import trace_module

    return trace_module(runnable.module, runnable.program, runnable.inputs, runnable.keywords)


def code_of(
    found: Checkpoint, hints: ModelSource, config: Mapping[str, Any] | None = None
) -> Runnable | None:
    """The code of a network: given, in its file, or named by its metadata or configuration; else None."""
    known = find_runnable(found, hints) or described(found)
    if known is not None or hints.family is not None or hints.assume:
        return known
    from canon.models.huggingface import from_config

    return from_config(found, read_config(found.path) if config is None else config)


def described(found: Checkpoint) -> Runnable | None:
    """The code of a network whose file says its architecture to a package that is installed."""
    from canon.models.plugins import from_metadata

    built = from_metadata(found.metadata)
    if built is None:
        return None
    module, inputs = built
    load(module, found.state, "the architecture in its metadata")
    return Runnable(module.eval(), inputs if isinstance(inputs, tuple) else (inputs,))


def require_symmetries(spec: PermutationSpec, runnable: Runnable, source: str) -> None:
    """`InputError` unless every group and scale of a file's spec keeps the network's function."""
    from canon.tracing.numerical_check import check_program

    program = runnable.program
    identities = {
        identity: name for name, (identity, _) in program.state_identities.items() if name in spec.axes
    }
    axes = dict(spec.axes)
    for name, (identity, shape) in program.state_identities.items():
        if name not in axes:  # tied to a tensor of the file, or no part of it
            twin = identities.get(identity)
            axes[name] = spec.axes[twin] if twin else tuple(Axis.fixed(size) for size in shape)
    check = check_program(program, replace(spec, axes=axes))
    wrong = [f"'{name}' by {apart:.1e} of their size" for name, apart in check.failed.items()]
    wrong += [
        f"'{name}', scaled"
        for name, group in spec.groups.items()
        if name in check.spec.groups and check.spec.groups[name].scale != group.scale
    ]
    if wrong:
        raise InputError(
            f"{source} is wrong: the outputs change under the group {', '.join(wrong[:5])}; "
            "leave --spec out, or write a new one with `canon inspect --save-spec`"
        )


def _within(spec: PermutationSpec, found: Checkpoint) -> PermutationSpec:
    """The spec without the keys that the file leaves out because they are tied to others."""
    axes = {name: axes for name, axes in spec.axes.items() if name in found.state}
    return replace(spec, axes=axes, statistics=spec.statistics.intersection(axes))


def read_spec(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> PermutationSpec:
    """The spec in a JSON file, checked against `state`, and against its own digest where it carries one."""
    if not os.path.exists(path):
        raise InputError(
            f"{path} does not exist; --spec reads a spec, `canon inspect --save-spec {path}` writes one"
        )
    try:
        text = read_bounded(path, 1 << 28).decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not JSON; write a spec with `canon inspect --save-spec`") from None
    with suppress(Invalid):  # which `from_json` names
        table = parse_json(text)
        if isinstance(table, dict) and KEY in table:
            text = json.dumps(checked(path, table))
    spec = PermutationSpec.from_json(text)
    spec.check(state)
    return spec


def spec_text(spec: PermutationSpec) -> str:
    """What a file of the spec holds: its JSON with its own digest, which a person who amends it takes out."""
    return json.dumps(with_digest(json.loads(spec.to_json())), indent=1) + "\n"
