"""Attention whose number of heads stands in no shape: known by metadata or by width, else nothing moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from canon.models.families.functional import Tensors
from canon.spec import PermutationSpec
from canon.tracing.numerical_check import freeze

HEADS = {128: 2, 192: 3, 256: 4, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 20, 1600: 25}
VIT_HEADS = HEADS | {1280: 16, 1408: 16, 1664: 16}


@dataclass(frozen=True)
class Attention:
    """How many heads the releases of a family have, by width.

    `rows` ends the keys whose rows are query, key and value channels (columns, where it ends in ">");
    the first of the keys `width` that is there has the model's width last.
    """

    heads: Mapping[int, int]
    rows: tuple[str, ...]
    width: tuple[str, ...]


def number_of_heads(attention: Attention, tensors: Tensors, metadata: Mapping[str, str]) -> int | None:
    """As the metadata say, else as the width does; None where neither is known."""
    for key in ("num_attention_heads", "num_heads", "n_head"):
        if metadata.get(key, "").isdigit():
            return int(metadata[key])
    width = next((tensors[key].shape[-1] for key in attention.width if key in tensors), 0)
    return attention.heads.get(width)


def without_heads(attention: Attention, spec: PermutationSpec) -> PermutationSpec:
    """The spec with queries, keys and values where they are."""
    reason = "the number of heads is not in the checkpoint"
    rows = {
        group
        for tensor, axes in spec.axes.items()
        for ending, axis in ((ending, axes[-1 if ending.endswith(">") else 0]) for ending in attention.rows)
        if tensor.endswith(ending.removesuffix(">"))
        for group in axis.groups
    }
    for group in rows:
        spec = freeze(spec, group, reason) if group in spec.groups else spec
    return spec
