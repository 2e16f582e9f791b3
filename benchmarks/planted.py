"""Networks relabelled at random: does matching find the way back? Every unit must be right to count."""

from __future__ import annotations

from typing import Any

import torch

from canon.actions import permutation as perm
from canon.matching.weight_matching import match_weights
from canon.spec import Axis, Factor, Group, PermutationSpec

STARTS = ("identity", "auto")


def residual_stack(stream: int, hidden: int, blocks: int = 2) -> PermutationSpec:
    """x + down(relu(up(x))), no input or output layer: nothing is anchored (samuela/git-re-basin issue 8)."""
    groups, axes = {"stream": Group("stream", stream)}, {}
    for block in range(blocks):
        name = f"hidden.{block}"
        groups[name] = Group(name, hidden)
        up, down = Axis.units(name, hidden), Axis.units("stream", stream)
        axes |= {f"{block}.up": (up, down), f"{block}.down": (down, up)}
    return PermutationSpec(groups, axes)


def transformer_stack(
    width: int = 128, blocks: int = 6, heads: int = 4, tokens: int = 256
) -> PermutationSpec:
    """Fused qkv, projection and MLP in every block, one residual stream, an embedding at its input."""
    channels, stream = width // heads, Axis.units("stream", width)
    groups = {"stream": Group("stream", width)}
    axes: dict[str, tuple[Axis, ...]] = {"embedding": (Axis.fixed(tokens), stream)}
    for block in range(blocks):
        head, qk, vo, mlp = (f"{block}.{kind}" for kind in ("heads", "qk", "vo", "mlp"))
        groups |= {head: Group(head, heads), mlp: Group(mlp, 4 * width)}
        groups |= {name: Group(name, channels, within=head) for name in (qk, vo)}
        query, value = ((Factor(heads, head), Factor(channels, inner)) for inner in (qk, vo))
        axes |= {
            f"{block}.qkv": (Axis((query, query, value)), stream),
            f"{block}.out": (stream, Axis((value,))),
            f"{block}.up": (Axis.units(mlp, 4 * width), stream),
            f"{block}.down": (stream, Axis.units(mlp, 4 * width)),
        }
    return PermutationSpec(groups, axes)


def recovered(name: str, spec: PermutationSpec, cases: int, noise: float = 0.0) -> dict[str, Any]:
    """In how many of `cases` each start finds the way back; noise relative to the weights' deviation."""
    found = dict.fromkeys(STARTS, 0)
    for seed in range(cases):
        generator = torch.Generator().manual_seed(seed)

        def draw(shape: torch.Size | list[int], generator: torch.Generator = generator) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        a = {n: draw([axis.size for axis in axes]) for n, axes in spec.axes.items()}
        p = perm.random(spec, generator)
        b = {n: t + noise * draw(t.shape) for n, t in perm.apply(spec, p, a).items()}
        wanted = perm.invert(spec, p)
        for start in STARTS:
            match = match_weights(spec, a, b, start=start)
            found[start] += all(torch.equal(match.permutation[n], q) for n, q in wanted.items())
    return {"table": "planted", "network": name, "noise": noise, "cases": cases, "recovered": found}
