"""Format evaluation results for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from canon.cli import console
from weightflow.report.html.tables import facts, full_table


def evaluation_lines(found: dict[str, Any], most: int = 20) -> list[str]:
    """What `weightflow evaluate` found, line by line."""
    lines = []
    for p in found["prompts"][:most]:
        ensemble = "" if p["ensemble"] is None else f", together {100 * p['ensemble']:.1f} %"
        lines.append(
            f"{', '.join(p['classes'])}: {_percent(p)} over {console.many(p['networks'], 'network')}{ensemble} "
            f"(chance {100 * p['chance']:.1f} %{_balanced(p['mean'], p['balanced_accuracy'])})"
        )
    more = len(found["prompts"]) - most
    lines += [f"... and {more} more prompts"] if more > 0 else []
    worst = sorted(found["classes"].items(), key=lambda item: item[1])[:3]
    zoo = found["zoo"]
    return [
        *lines,
        f"hardest classes: {', '.join(f'{name} {100 * value:.1f} %' for name, value in worst)}",
        *(f"{split.replace('_', ' ')}: {_percent(spread)}" for split, spread in found["splits"].items()),
        f"{'all ' if zoo['count'] > 1 else ''}{console.many(zoo['count'], 'network')}: {_percent(zoo['accuracy'])} (chance {100 * found['chance']:.1f} %"
        f"{_balanced(zoo['accuracy']['mean'], zoo['balanced_accuracy']['mean'])}), "
        f"calibration error {100 * zoo['calibration_error']['mean']:.1f} %",
    ]


def _balanced(accuracy: float, balanced: float) -> str:
    """Balanced accuracy, where it differs from accuracy."""
    return f", balanced accuracy {100 * balanced:.1f} %" if abs(accuracy - balanced) >= 0.001 else ""


def _percent(spread: dict[str, Any]) -> str:
    ends = spread["interval"]
    inside = f", mean within {100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
    return f"{100 * spread['mean']:.1f} ± {100 * spread['std']:.1f} %{inside}"


def rich_tables(report: dict[str, Any]) -> Group:
    head, *rows = full_table(report)
    shown = _table("accuracy on test images, per cent; distance and share in focus", head)
    for cells in rows:
        shown.add_row(*cells)
    told = _table(f"in focus: {report['focus'].replace('_', ' ')}", ("", ""))
    told.show_header = False
    for value, label in facts(report):
        told.add_row(label, value)
    by_steps = _table(
        "accuracy against evaluations", ("solver, steps", "evaluations", "accuracy, %", "distance")
    )
    for row in report["solvers"]:
        ratio = row["nearest_distance_ratio"]
        by_steps.add_row(
            f"{row['method']}, {row['steps']}",
            str(row["evaluations"]),
            f"{100 * row['mean']:.1f}",
            "–" if ratio is None else f"{ratio:.2f}",
        )
    return Group(shown, told, by_steps)


def _table(title: str, head: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    return table
