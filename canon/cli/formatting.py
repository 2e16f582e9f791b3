"""Format results as text and tables. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from rich.console import Group as Together
from rich.console import RenderableType
from rich.table import Table

from canon.validation import many

if TYPE_CHECKING:
    from canon.merging.interpolation import Curve
    from canon.spec import Axis, PermutationSpec


def alignment(report: Mapping[str, Any], out: str) -> str:
    """The report of an alignment in words."""
    lines = [
        f"{many(len(report['groups']), 'group')} ({report['spec_source']}), "
        f"{report['moved_fraction']:.1%} of the units moved",
        f"objective {report['objective_before']:.6g} → {report['objective_after']:.6g}, "
        f"distance {report['distance_before']:.6g} → {report['distance_after']:.6g}; "
        f"{report['sweeps']} sweeps in {report['seconds']:.2f} s{'' if report['converged'] else ', not converged'}",
    ]
    if "nothing_moved_because" in report:
        lines.append(f"nothing moved: {report['nothing_moved_because']}")
    function = f"C computes the function of B{_evidence(report)}"
    told = [*_in_place(report), *_prefixes(report), *_excepted(report, "B"), *_left_out(report)]
    return "\n".join([*lines, function, *told, f"wrote {out}"])


def merging(report: Mapping[str, Any], out: str) -> str:
    """The report of a merge in words."""
    count = len(report["networks"])
    aligned = [f"aligned, {assuming(report['assumptions'])} (not verified)"] if report["assumptions"] else []
    told = [*aligned, *_prefixes(report), *_excepted(report, "the first network")]
    return "\n".join([f"the mean of {many(count, 'network')}", *told, f"wrote {out}"])


def canonical(report: Mapping[str, Any], out: str) -> str:
    """The report of a canonical form in words."""
    lines = [f"{report['moved_fraction']:.1%} of the units moved"]
    if "nothing_moved_because" in report:
        lines.append(f"nothing moved: {report['nothing_moved_because']}")
    told = [f"the function stayed{_evidence(report)}", *_in_place(report), *_left_out(report)]
    return "\n".join([*lines, *told, f"wrote {out}"])


SHOWN = 3  # axes that stay in place; `inspect` shows all


def _in_place(report: Mapping[str, Any]) -> list[str]:
    """A line on what may not move and why, where something else may."""
    frozen = report["frozen"]
    if not report["groups"] or not frozen:
        return []
    first = "; ".join(f"{name}: {reason}" for name, reason in list(frozen.items())[:SHOWN])
    more = f"; and {len(frozen) - SHOWN} more, which `canon inspect` names" if len(frozen) > SHOWN else ""
    return [f"in place: {first}{more}"]


def _prefixes(report: Mapping[str, Any]) -> list[str]:
    """A line on key prefixes, where they differ between the networks."""
    told = [f"{name} under {prefix or 'no prefix'}" for name, prefix in report["prefixes"].items()]
    return [f"keys: {', '.join(told)}"] if told else []


def _excepted(report: Mapping[str, Any], whose: str) -> list[str]:
    names = report["except_for"]
    return [f"not matched, and those of {whose}: {', '.join(names)}"] if names else []


def _left_out(report: Mapping[str, Any]) -> list[str]:
    names = report.get("left_out")
    return (
        [f"left out, as it follows the old order of units or takes more than 1 GiB: {', '.join(names)}"]
        if names
        else []
    )


def _evidence(report: Mapping[str, Any]) -> str:
    """The evidence for a claim about the function: verified numerically, or the assumptions made."""
    if report["verified"]:
        return f", verified numerically: {report['proof']}"
    compared = report["max_output_difference"] is not None
    note = "" if compared else " (not verified)"
    return f", {assuming(report['assumptions'])}{note}: {report['proof'].partition(';')[0]}"


def assuming(assumptions: Sequence[str]) -> str:
    return f"assuming {'; '.join(assumptions)}"


def folding(report: Mapping[str, Any], out: str) -> str:
    """What was folded into what, in words."""
    lines = [f"{gain} went into {', '.join(readers)}" for gain, readers in report["folded"].items()]
    lines += [f"{gain} stays: {reason}" for gain, reason in report["kept"].items()]
    nothing = ["no norm before a linear layer was found"] if not lines else []
    return "\n".join([*lines, *nothing, f"the function stayed{_evidence(report)}", f"wrote {out}"])


def spec(found: PermutationSpec, source: str, assumptions: Sequence[str] = ()) -> dict[str, Any]:
    """A spec as text: groups with their tensors, frozen axes with reasons, and the share that can move."""
    moving, total = parameter_counts(found)
    axes, all_axes = moving_axes(found)
    return {
        "spec_source": source,
        "assumptions": list(assumptions),
        "parameters": total,
        "parameters_in_moving_groups": moving,
        "axes": all_axes,
        "axes_that_move": axes,
        "groups": [
            {
                "name": name,
                "size": group.size,
                "within": group.within,
                "scale": group.scale,
                "tensors": [f"{tensor}:{axis}" for tensor, axis in found.uses(name)],
            }
            for name, group in found.groups.items()
        ],
        "frozen": dict(found.frozen),
        "statistics": sorted(found.statistics),
    }


def parameter_counts(found: PermutationSpec) -> tuple[int, int]:
    """How many entries some group moves, and how many there are; no statistics."""
    moving = total = 0
    for name, axes in found.axes.items():
        if name not in found.statistics:
            size = prod(axis.size for axis in axes)
            still = prod(axis.size - _moving_positions(axis) for axis in axes)
            moving, total = moving + size - still, total + size
    return moving, total


def moving_axes(found: PermutationSpec) -> tuple[int, int]:
    """How many axes of tensors some group moves, and how many there are longer than one; no statistics."""
    axes = [
        a for name, many in found.axes.items() if name not in found.statistics for a in many if a.size > 1
    ]
    return sum(bool(axis.groups) for axis in axes), len(axes)


def _moving_positions(axis: Axis) -> int:
    moving = [seg for seg in axis.segments if any(factor.group is not None for factor in seg)]
    return sum(prod(factor.size for factor in segment) for segment in moving)


def tables(found: Mapping[str, Any]) -> RenderableType:
    """The tables of what `spec` found."""
    share = found["parameters_in_moving_groups"] / max(found["parameters"], 1)
    count = len(found["groups"])
    parts: list[RenderableType] = [
        f"{found['spec_source']}: {count} group{'s' * (count != 1)}, "
        f"{share:.1%} of {found['parameters']:,} parameters and {found['axes_that_move']} of {found['axes']} axes move"
    ]
    if found["assumptions"]:
        parts.append(f"{assuming(found['assumptions'])} (not verified)")
    if found["groups"]:
        parts.append(_groups(found["groups"]))
    if found["frozen"]:
        table = _table("What stays in place", "frozen", "why")
        for name, reason in found["frozen"].items():
            table.add_row(name, reason)
        parts.append(table)
    return Together(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _groups(groups: list[dict[str, Any]]) -> Table:
    table = _table("What moves", "group", "units", "within", "scale", "moves")
    for group in groups:
        tensors = group["tensors"]
        more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
        scale = "" if group["scale"] == "none" else group["scale"]
        table.add_row(
            group["name"], str(group["size"]), group["within"] or "", scale, ", ".join(tensors[:3]) + more
        )
    return table


def curve(found: Curve) -> dict[str, Any]:
    """A line's scores and barriers, as `--json` gives them."""
    return {
        "weights": list(found.weights),
        "loss": [score.loss for score in found.scores],
        "accuracy": [score.accuracy for score in found.scores],
        "loss_barrier": found.loss_barrier,
        "accuracy_barrier": found.accuracy_barrier,
    }


def barriers(lines: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """A table with a row for each line."""
    table = Table("line", "loss barrier", "accuracy barrier", "loss in the middle", "accuracy in the middle")
    for name, line in lines.items():
        middle = len(line["weights"]) // 2
        numbers = (
            line["loss_barrier"],
            line["accuracy_barrier"],
            line["loss"][middle],
            line["accuracy"][middle],
        )
        table.add_row(name, *(f"{number:.4g}" for number in numbers))
    return table
