"""The figures of a report as words and numbers: the tiles on top, and the table with everything."""

from __future__ import annotations

from typing import Any

from weightflow.report.verdict import cell


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Value and label of what a reader asks first."""
    focus, novelty, speed = report["splits"][report["focus"]], report["novelty"], report["speed"]
    both = novelty["novel_and_good"]
    return [
        (f"{100 * focus['accuracy']['mean']:.1f} %", "accuracy of generated networks"),
        (f"{100 * focus['trained']['mean']:.1f} %", "accuracy of trained networks"),
        (_number(novelty["nearest_distance_ratio"]), "distance to the nearest training network (1: as new as a new one)"),
        ("–" if both is None else f"{100 * both['1']:.0f} %", "new and good: at least that far, at least 95 % as accurate"),
        _shared_errors(novelty["max_wrong_iou"]),
        (_number(novelty["rms_ratio"]), "size of weights over the zoo's"),
        (_number(report["diversity"]["ratio"]), "disagreement of networks of one prompt over that of trained networks"),
        (f"{speed['networks_per_second']:.0f}", "networks a second"),
        (str(speed["evaluations_per_network"] or "–"), "evaluations of the model a network"),
    ]  # fmt: skip


def _shared_errors(iou: dict[str, Any]) -> tuple[str, str]:
    if iou["zoo"] is None:
        return _number(iou["generated"]), "errors shared with the training network that shares most (IoU)"
    return (
        f"{_number(iou['generated'])} / {_number(iou['zoo'])}",
        "shared errors, generated / zoo (largest IoU)",
    )


def full_table(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a method: accuracy by split, the one in focus first, then distance and the share that is new and good, in focus."""
    splits = {name: s for name, s in report["splits"].items() if isinstance(s, dict)}
    splits = {
        report["focus"]: splits[report["focus"]],
        **splits,
    }  # what is looked at stands first on a small screen
    focus, novelty = splits[report["focus"]], report["novelty"]
    head = ("accuracy, %", *(n.replace("_", " ") for n in splits), "distance", "new and good, %")
    rows = [head]

    def row(label: str, cells: list[dict[str, Any]], ratio: Any, both: Any) -> None:
        share = "–" if both is None else f"{100 * both['1']:.0f}"
        rows.append((label, *(cell(c) for c in cells), _number(ratio), share))

    ours = novelty["nearest_distance_ratio"], novelty["novel_and_good"]
    row("generated", [s["accuracy"] for s in splits.values()], *ours)
    held_out = novelty.get("nearest_distance_ratio_trained")
    of_trained = novelty.get("novel_and_good_trained")
    row("trained on the same task", [s["trained"] for s in splits.values()], held_out, of_trained)
    for name, found in focus["baselines"].items():
        cells = [s["baselines"][name] for s in splits.values()]
        ratio, both = found.get("nearest_distance_ratio"), found.get("novel_and_good")
        row(name.replace("_", " "), cells, ratio, both)
    rows.append(("chance", *(f"{100 * s['chance']:.1f}" for s in splits.values()), "–", "–"))
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
