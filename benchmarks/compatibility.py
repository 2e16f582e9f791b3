"""What canon does with more than a hundred public architectures (`benchmarks.public_networks`).

For each: is it traced, how much of it may move, does the module itself compute the same in float64 after
a random element of all groups, and does matching find a planted relabelling again. Random weights; every
bias, gain and running statistic drawn.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

import canon
from benchmarks.common import forget_peak, memory, write_result
from benchmarks.public_networks import NETWORKS, disturb
from canon.actions import permutation
from canon.actions.scaling import apply_scale
from canon.actions.transform import Transform
from canon.equivalence.outputs import output_difference
from canon.errors import InputError
from canon.matching.signed_weight_matching import match_signed
from canon.models.loading import Runnable
from canon.spec import PermutationSpec
from canon.tracing.exported_graph import without_cache
from canon.tracing.numerical_check import random_scales


def share_of_axes(spec: PermutationSpec) -> float:
    """Share of the axes longer than one, of all tensors but statistics, that some group moves."""
    axes = [a for name, many in spec.axes.items() if name not in spec.statistics for a in many if a.size > 1]
    return sum(bool(axis.groups) for axis in axes) / max(len(axes), 1)


def planted_is_recovered(spec: PermutationSpec, state: dict[str, Tensor], seed: int) -> bool:
    generator = torch.Generator().manual_seed(seed)
    moved = permutation.apply(spec, permutation.random(spec, generator), state)
    match = match_signed(spec, state, moved)
    back = Transform(spec, match.permutation, match.scales).apply(moved)
    return all(torch.equal(back[name], state[name]) for name in state if name not in spec.statistics)


def measure(name: str, seed: int = 0) -> dict[str, Any]:
    """One row of the table; `error` says what was answered where it was not traced."""
    torch.manual_seed(seed)
    module, inputs = NETWORKS[name]()
    module = without_cache(module.eval())
    disturb(module, torch.Generator().manual_seed(seed))
    forget_peak()
    held, began = memory("VmRSS"), time.perf_counter()
    row: dict[str, Any] = {"network": name, "parameters": sum(p.numel() for p in module.parameters())}
    try:
        spec = canon.trace(module, inputs)
    except InputError as error:
        return {**row, "traced": False, "error": str(error)}
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    generator = torch.Generator().manual_seed(seed + 1)
    wide = {key: t.double() if t.is_floating_point() else t for key, t in state.items()}
    scaled = apply_scale(spec, random_scales(spec, generator), wide)
    moved = permutation.apply(spec, permutation.random(spec, generator), scaled)
    named = isinstance(inputs, dict)
    runnable = Runnable(module, () if named else inputs, inputs if named else {})
    found = output_difference(runnable, state, moved, torch.Generator().manual_seed(seed), draws=1)
    return {
        **row,
        "traced": True,
        "groups": len(spec.groups),
        "share_of_axes": round(share_of_axes(spec), 4),
        "relative_difference": found.relative,
        "rounds_inside": found.widened,
        "kept": found.same,
        "recovered": planted_is_recovered(spec, state, seed + 2) if spec.groups else None,
        "seconds": round(time.perf_counter() - began, 2),
        "added_memory_bytes": memory("VmHWM") - held,
        "frozen": spec.frozen,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), help="measure these networks only")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    start, rows = time.perf_counter(), []
    for name in asked.only or NETWORKS:
        rows.append(row := measure(name, asked.seed))
        told = {key: value for key, value in row.items() if key != "frozen"}
        print(told, flush=True)
    if asked.only:
        return
    traced = [row for row in rows if row["traced"]]
    planted = [row["recovered"] for row in traced if row["recovered"] is not None]
    kept = sum(row["kept"] for row in traced)
    aims = [
        {"name": "networks", "aim": ">= 100", "value": len(rows), "met": len(rows) >= 100},
        {"name": "functions changed", "aim": "0", "value": len(traced) - kept, "met": kept == len(traced)},
        {"name": "share traced", "aim": ">= 0.95", "value": len(traced) / len(rows), "met": len(traced) >= 0.95 * len(rows)},
        {"name": "share of planted relabellings recovered", "aim": ">= 0.98", "value": sum(planted) / len(planted), "met": sum(planted) >= 0.98 * len(planted)},
    ]  # fmt: skip
    size = "small configurations, random weights"
    seconds = time.perf_counter() - start
    print(write_result("compatibility", size=size, seeds=[asked.seed], seconds=seconds, rows=rows, aims=aims))


if __name__ == "__main__":
    main()
