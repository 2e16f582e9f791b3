"""The code of a network that `config.json` names: a class of transformers, where that package is installed.

Code beside the weights is never run: configurations that ask for it (`auto_map`) name no class here, and kernels
that they name (`_attn_implementation`) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint, require_same
from canon.io.prefixes import module_like
from canon.models.example_inputs import example_inputs
from canon.models.loading import Runnable, load, with_twins
from canon.models.unfilled import needs_only_parameters, parameters_on_meta

_PARTS = ("layer", "expert", "depth", "block")


def from_config(found: Checkpoint, config: Mapping[str, Any]) -> Runnable | None:
    """The module of the class that a configuration names, with the tensors of `found`.

    None where transformers is not installed or does not know the class, or where its tensors are others.
    """
    transformers = library(config, found)
    if transformers is None:
        return None
    for kind, shapes in without_content(transformers, config):
        if not _is_that(module_like(shapes, found.state), found):
            continue
        with parameters_on_meta():
            module = _built(transformers, kind, config)
        if module is None or not needs_only_parameters(module):
            continue
        inputs = example_inputs(module)
        if inputs is None:
            return None
        module = module_like(module, found.state)
        load(module, found.state, kind.__name__, share=True)
        positional, named = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
        return Runnable(
            module.eval(),
            positional,
            named,
            origin=f"config.json, which names {kind.__name__} of transformers",
        )
    return None


def contradiction(found: Checkpoint, config: Mapping[str, Any]) -> str | None:
    """What the tensors of `found` and of the class that a configuration names differ in; None where no class is known."""
    transformers = library(config, found)
    if transformers is None:
        return None
    told = None
    for kind, shapes in without_content(transformers, config):
        module = module_like(shapes, found.state)
        try:
            who = f"{kind.__name__} as config.json describes it"
            require_same(module.state_dict(), with_twins(module, found.state), who, "the file")
        except InputError as error:
            told = told or str(error)
        else:
            return None
    return told or f"transformers cannot build what config.json describes (model_type {config['model_type']})"


def library(config: Mapping[str, Any], found: Checkpoint) -> Any:
    """transformers, where it is installed and knows the class that a configuration names; else None."""
    if not isinstance(config.get("model_type"), str) or "auto_map" in config:
        return None
    if _more_parts(config, max(256, len(found.state))):
        return None
    try:
        import transformers
    except ImportError:
        return None
    return transformers if config["model_type"] in transformers.CONFIG_MAPPING else None


def without_content(transformers: Any, config: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The classes that may have made a file, and a module of each that has no content."""
    for kind in _classes(transformers, config):
        # On the meta device, which allocates nothing: a configuration may describe more than its file holds.
        with torch.device("meta"):
            shapes = _built(transformers, kind, config)
        if shapes is not None:
            yield kind, shapes


def _is_that(module: nn.Module, found: Checkpoint) -> bool:
    """Whether a network has the tensors of the checkpoint, and buffers that are not much larger."""
    try:
        require_same(module.state_dict(), with_twins(module, found.state), "", "")
    except InputError:
        return False
    held = sum(tensor.nbytes for tensor in found.state.values())
    return sum(buffer.nbytes for buffer in module.buffers()) <= 4 * held + 2**26


def _more_parts(value: Any, count: int) -> bool:
    """Whether a configuration asks for more than `count` layers or experts."""
    if isinstance(value, Mapping):
        return any(
            (isinstance(found, int) and found > count and any(word in str(key) for word in _PARTS))
            or _more_parts(found, count)
            for key, found in value.items()
        )
    return isinstance(value, list) and (len(value) > 10_000 or any(_more_parts(x, count) for x in value))


def _classes(transformers: Any, config: Mapping[str, Any]) -> Iterator[Any]:
    """The classes that may have made the file: those named, and the network without its head."""
    names = config.get("architectures")
    for name in names if isinstance(names, list) else []:
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            yield found
    known = type(transformers.CONFIG_MAPPING[config["model_type"]]())
    bare = transformers.MODEL_MAPPING.get(known, None)
    yield from bare if isinstance(bare, tuple) else [] if bare is None else [bare]


def _built(transformers: Any, kind: Any, config: Mapping[str, Any]) -> nn.Module | None:
    try:
        return kind(transformers.CONFIG_MAPPING[config["model_type"]].from_dict(_without_code(config)))
    except Exception:  # a configuration of another version, or one that contradicts itself
        return None


def _without_code(value: Any) -> Any:
    """A configuration that leaves the choice of kernels to the library: its name may be that of code on the Hub."""
    if isinstance(value, Mapping):
        return {k: _without_code(v) for k, v in value.items() if "_implementation" not in str(k)}
    return [_without_code(one) for one in value] if isinstance(value, list) else value
