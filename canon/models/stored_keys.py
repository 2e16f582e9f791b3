"""Checkpoints whose tensors are not those of the class that reads them.

transformers renames tensors as it loads them, stacks those of experts, and takes fused ones apart. Networks are matched
in the tensors of the class, where experts lie on one axis, and written back in those of the file. Every conversion moves
entries and changes none: it is inverted by sending numbered entries through it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint, require_same
from canon.io.model_config import read_config
from canon.models.huggingface import library, without_content
from canon.models.loading import is_large, with_twins
from canon.types import LazyState, State, like

_WAY_OUT = "load the model with transformers, and give what its save_pretrained writes"

Convert = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Part:
    """Tensors of a file, and those of the class that are made of them by `convert`; None where one is renamed."""

    stored: tuple[str, ...]
    own: tuple[str, ...]
    convert: Convert | None

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.convert is None:
            return {self.own[0]: state[self.stored[0]]}
        return self.convert({name: state[name] for name in self.stored})

    def restored(self, state: Mapping[str, Tensor], shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the file, from those of the class; `shapes` has the file's shapes and dtypes.

        Raises `InputError` where the conversion does more than move entries.
        """
        own = {name: state[name] for name in self.own}
        if self.convert is None:
            return {self.stored[0]: own[self.own[0]]}
        sizes = [shapes[name].numel() for name in self.stored]
        numbers = torch.arange(sum(sizes)).split(sizes)
        places = self.convert({n: p.view(shapes[n].shape) for n, p in zip(self.stored, numbers, strict=True)})
        at = torch.cat([places[name].flatten() for name in self.own])
        if len(at) != sum(sizes) or not torch.equal(at.sort().values, torch.arange(len(at))):
            raise InputError(f"{self.stored[0]} is stored in a form that cannot be written; {_WAY_OUT}")
        moved = torch.cat([tensor.flatten() for tensor in own.values()])
        entries = torch.empty_like(moved)
        entries[at] = moved
        return {
            name: found.view(shapes[name].shape).to(shapes[name].dtype, copy=True)
            for name, found in zip(self.stored, entries.split(sizes), strict=True)
        }


@dataclass(frozen=True)
class StoredKeys:
    """How the tensors of a file become those of a class. `shapes` has the shapes and dtypes of the file's."""

    parts: tuple[Part, ...]
    shapes: Mapping[str, Tensor]

    def loaded(self, found: Checkpoint) -> Checkpoint:
        """A file with the tensors of the class."""
        part_of = {name: part for part in self.parts for name in part.own}
        made = LazyState(
            part_of, _last(part_of, lambda part: part.converted(found.state)), self._own_shapes()
        )
        return replace(found, state=made if is_large(found.state) else dict(made), versions=None)

    def stored(self, found: Checkpoint) -> Checkpoint:
        """A network with the tensors of the class, as the file holds it."""
        part_of = {name: part for part in self.parts for name in part.stored}
        known = {name: part_of[name] for name in self.shapes}
        make = _last(known, lambda part: part.restored(found.state, self.shapes))
        made = LazyState(known, make, self.shapes)
        return replace(found, state=made if isinstance(found.state, LazyState) else dict(made))

    def _own_shapes(self) -> dict[str, Tensor]:
        return {name: t for part in self.parts for name, t in part.converted(self.shapes).items()}


def _last(part_of: Mapping[str, Part], make: Callable[[Part], dict[str, Tensor]]) -> Callable[[str], Tensor]:
    """The tensors that `make` gives, the part that was asked for last kept."""
    kept: list[tuple[Part, dict[str, Tensor]]] = []

    def get(name: str) -> Tensor:
        part = part_of[name]
        if not kept or kept[0][0] is not part:
            kept[:] = []
            kept.append((part, make(part)))
        return kept[0][1][name]

    return get


def stored_keys(found: Checkpoint, config: Mapping[str, Any] | None = None) -> StoredKeys | None:
    """How transformers reads the tensors of `found`; None where it knows no class, or takes them as they are."""
    config = read_config(found.path) if config is None else config
    transformers = library(config, found)
    if transformers is None:
        return None
    for _, module in without_content(transformers, config):
        own = module.state_dict()
        if own.keys() & found.state.keys() == found.state.keys():
            return None
        parts = _parts(module, own, found.state)
        if parts is None:
            continue
        shapes = {name: t.to("meta") for name, t in like(found.state).items()}
        made = StoredKeys(tuple(parts), shapes)
        try:
            require_same(own, with_twins(module, made._own_shapes()), "", "")
        except InputError:
            continue
        return made
    return None


def _parts(module: Any, own: dict[str, Any], state: State) -> list[Part] | None:
    """What transformers makes of each tensor; None where it leaves one out, or is of a version without conversions."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )
    except ImportError:
        return None
    mapping = get_model_conversion_mapping(module)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    prefix = module.base_model_prefix
    gathered: dict[str, list[tuple[str, str | None]]] = {}
    for key in sorted(state, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, pattern = rename_source_key(key, [], [], prefix, own)
        if name not in own:
            return None
        gathered.setdefault(name, []).append((key, pattern))
    parts = []
    for name, sources in gathered.items():
        if all(pattern is None for _, pattern in sources):
            parts += [Part((key,), (name,), None) for key, _ in sources]
            continue
        converter = by_pattern[next(pattern for _, pattern in sources if pattern is not None)]
        convert = _conversion(module, converter, name, sources)
        stored = tuple(key for key, _ in sources)
        made = convert({key: like(state)[key].to("meta") for key in stored})
        if sum(t.numel() for t in made.values()) != sum(like(state)[key].numel() for key in stored):
            raise InputError(f"{stored[0]} is stored in a form that cannot be written; {_WAY_OUT}")
        parts.append(Part(stored, tuple(made), convert))
    return parts


def _conversion(module: Any, converter: Any, name: str, sources: list[tuple[str, str | None]]) -> Convert:
    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        working = copy.deepcopy(converter)
        for key, pattern in sources:
            working.add_tensor(name, key, pattern, state[key])
        made = working.convert(name, model=module, config=module.config)
        return {key: value[0] if isinstance(value, list) else value for key, value in made.items()}

    return convert
