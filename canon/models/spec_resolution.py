"""From what a person can give (a spec, a model, a .pt2 file, a bare checkpoint) to a spec and its evidence.

In this order: `--spec` is taken at its word; `--model` and `.pt2` files are traced and checked numerically;
a bare checkpoint is recognised by its keys and shapes, and what they do not tell is assumed and said. With a
model or a program at hand the network can also be run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint
from canon.io.files import require_file
from canon.io.model_config import read_config
from canon.models.loading import Hints, Runnable, find_runnable, load
from canon.spec import PermutationSpec

_CHECKED = "every group was verified numerically to keep the function, in float64"


@dataclass(frozen=True)
class Resolved:
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


def resolve(found: Checkpoint, hints: Hints = Hints(), runnable: Runnable | None = None) -> Resolved:
    """The spec of `found`: from the hints, from its program, or recognised by keys and shapes.

    `runnable` is the network's code where `find_runnable` has found it already. Raises `InputError` where nothing fits; the message names the ways out.
    """
    runnable = runnable or find_runnable(found, hints)
    if hints.spec is not None:
        source = f"spec {os.fspath(hints.spec)}"
        assumption = f"the groups of {os.fspath(hints.spec)} are symmetries of the network (--spec)"
        evidence = f"assuming {assumption}"
        spec = read_spec(hints.spec, found.state)
        return Resolved(spec, source, evidence, runnable, (assumption,), stated=True)
    if hints.family is None and hints.model is not None and runnable is not None:
        from canon.tracing.trace import trace

        traced = _within(trace(runnable.module, runnable.inputs), found)
        return Resolved(traced, f"traced from {hints.model_name}", _CHECKED, runnable)
    if hints.family is None and found.program is not None:
        from canon.tracing.trace import trace

        if hints.assume:
            raise InputError(
                "--assume speaks of bare checkpoints; a .pt2 file holds the code, so leave it out"
            )
        return Resolved(trace(found.program), "traced from the exported program", _CHECKED, runnable)
    from canon.models.families import recognise

    config = read_config(found.path)
    known = recognise(
        found.state, metadata=found.metadata, name=hints.family, assume=hints.assume, config=config
    )
    source = f"family {hints.family}" if hints.family else "recognised by keys and shapes"
    evidence = _CHECKED
    if known.assumptions:
        evidence = f"assuming {'; '.join(known.assumptions)}"
    return Resolved(known.spec, source, evidence, runnable, known.assumptions, known.stated)


def described(found: Checkpoint) -> Runnable | None:
    """The code of a network whose file says its architecture to a package that is installed."""
    from canon.models.plugins import from_metadata

    built = from_metadata(found.metadata)
    if built is None:
        return None
    module, inputs = built
    load(module, found.state, "the architecture in its metadata")
    return Runnable(module.eval(), inputs if isinstance(inputs, tuple) else (inputs,))


def _within(spec: PermutationSpec, found: Checkpoint) -> PermutationSpec:
    """The spec without the keys that the file leaves out because they are tied to others."""
    axes = {name: axes for name, axes in spec.axes.items() if name in found.state}
    return replace(spec, axes=axes, statistics=spec.statistics & axes.keys())


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
