"""Bare checkpoints of well-known families, recognised by keys and shapes alone.

A family is a function that uses the checkpoint's tensors as the real network does. It is traced and
checked numerically, on the checkpoint's own weights; that the network is of the family is assumed, and
said. A checkpoint belongs to a family only if the function reads every tensor in it. What shapes do not
tell is never guessed: it is said (`canon.models.families.hyperparameters`), or what depends on it stays in place.

Prefixes of wrappers (`module.`, `_orig_mod.`, …) that stand before every key are not part of a family's keys.

A new family is one file here and one line in `FAMILIES`; they are tried in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from canon.errors import InputError
from canon.io.prefixes import chains
from canon.models.families.base import Family, FamilyMismatch, Recognition, functional_spec
from canon.models.families.bert import BERT
from canon.models.families.functional import Tensors
from canon.models.families.gpt2 import GPT2
from canon.models.families.hyperparameters import parse
from canon.models.families.named_chain import CHAIN
from canon.models.families.resnet import RESNET
from canon.models.families.sequential import SEQUENTIAL
from canon.models.families.single_layer import LAYER
from canon.models.families.vit import TIMM, TORCHVISION
from canon.models.plugins import from_metadata
from canon.spec import PermutationSpec
from canon.tracing.symmetry_groups import trace

FAMILIES: dict[str, Family] = {
    "sequential": SEQUENTIAL,
    "resnet": RESNET,
    "vit-torchvision": TORCHVISION,
    "vit-timm": TIMM,
    "bert": BERT,
    "gpt2": GPT2,
    "chain": CHAIN,
    "layer": LAYER,
}

_WAYS_OUT = (
    "say how to build the network with `--model pkg.mod:build`, or give a `.pt2` file "
    "(torch.export.save), which needs no code"
)


def recognise(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    name: str | None = None,
    *,
    assume: Iterable[str] = (),
    config: Mapping[str, Any] | None = None,
    verify: bool = True,
) -> Recognition:
    """The spec of a checkpoint, from its metadata or its keys and shapes, and what it assumes.

    `name` names the family; `assume` holds texts as "heads=12" and "chain"; `config` is the decoded
    config.json beside the file. Raises `InputError` that shows the ways out where nothing fits.
    """
    metadata = metadata or {}
    if name is not None and name not in FAMILIES:
        raise InputError(f"family '{name}' is not known; canon knows {', '.join(sorted(FAMILIES))}")
    given = parse(assume, config, metadata)
    built = None if name or assume else from_metadata(metadata)
    if built is not None:
        module, inputs = built
        spec = trace(module, inputs, verify=verify)
        spec.check(state)
        return Recognition(spec)
    tried = []
    # Prefixes of wrappers are removed first: only then can the keys be those of a public network.
    for prefix in reversed(chains(state)):
        inner = {key[len(prefix) :]: tensor for key, tensor in state.items()}
        for label, family in FAMILIES.items() if name is None else [(name, FAMILIES[name])]:
            if name is None and not family.fits(Tensors(inner)):
                continue
            try:
                found = functional_spec(label, family, inner, given, name is not None, verify)
                return replace(found, spec=_under(prefix, found.spec), prefix=prefix)
            except FamilyMismatch as error:
                tried.append(f"{label}: {error}")
    reasons = f" ({'; '.join(tried)})" if tried else ""
    keys = ", ".join(list(state)[:3])
    raise InputError(
        f"no family known to canon has these {len(state)} tensors ({keys}, …){reasons}; {_WAYS_OUT}"
    )


def _under(prefix: str, spec: PermutationSpec) -> PermutationSpec:
    """The spec with `prefix` before every key."""
    if not prefix:
        return spec
    frozen = {
        prefix + what if what.split(" ")[0] in spec.axes else what: why for what, why in spec.frozen.items()
    }
    axes = {prefix + key: axes for key, axes in spec.axes.items()}
    return replace(
        spec, axes=axes, statistics=frozenset(prefix + key for key in spec.statistics), frozen=frozen
    )
