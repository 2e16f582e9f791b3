"""The report as one self-contained page: verdict, table, three pictures. No script, no network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from canon.files import atomic_write
from weightflow.report import table, verdict

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 52rem; padding: 1rem; color: #1b1b1b; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid #0b7285; padding: .4rem 1rem; background: #f1f8f9; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #ddd; }
tr.ours { font-weight: 600; } img { max-width: 100%; height: auto; } .small { color: #555; font-size: .9rem; }
@media (prefers-color-scheme: dark) { body { background: #16181a; color: #e8e8e8; } .verdict { background: #12282c; }
tr + tr { border-color: #333; } .small { color: #aaa; } img { background: #fff; border-radius: 4px; } }
"""


def write_page(path: Path, report: dict[str, Any]) -> None:
    pictures = [
        ("Accuracy and novelty of single networks, unseen combinations", _scatter(report)),
        ("Accuracy against evaluations of the model", _solvers(report)),
        ("Learning curve on held-out networks", _learning(report)),
    ]
    body = [
        "<h1>What this generator makes</h1>",
        f'<p class="verdict">{html.escape(verdict(report))}</p>',
        "<h2>Accuracy on test images, per cent</h2>",
        _table_html(table(report)),
        '<p class="small">Mean and standard deviation over networks. "Nearest rows" picks rows from the training '
        "network that knows most of the classes, and is a trained network wherever one knows them all.</p>",
        "<h2>New, healthy, fast?</h2>",
        _table_html([("", ""), *facts(report)]),
        *(f'<h2>{title}</h2><img alt="{title}" src="{_png(figure)}">' for title, figure in pictures),
        f'<p class="small">{html.escape(", ".join(f"{k} {v}" for k, v in report["environment"].items()))}</p>',
    ]
    atomic_write(
        path,
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>weightflow report</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>",
    )


def rich_tables(report: dict[str, Any]) -> Any:
    """The same for a terminal: accuracies and facts, then accuracy against evaluations."""
    from rich.console import Group
    from rich.table import Table

    head, *rows = table(report)
    shown = Table(title="accuracy on test images, per cent", title_justify="left")
    for number, title in enumerate(head):
        shown.add_column(title, justify="left" if number == 0 else "right")
    for cells in rows:
        shown.add_row(*cells)
    shown.add_section()
    for label, value in facts(report):
        shown.add_row(label, "", value)
    by_steps = Table(title="accuracy against evaluations, unseen combinations", title_justify="left")
    for title in ("solver", "steps", "evaluations", "accuracy", "root-mean-square ratio"):
        by_steps.add_column(title, justify="left" if title == "solver" else "right")
    for row in report["solvers"]:
        by_steps.add_row(
            row["method"],
            str(row["steps"]),
            str(row["evaluations"]),
            f"{100 * row['mean']:.1f}",
            f"{row['rms_ratio']:.2f}",
        )
    return Group(shown, by_steps)


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    novelty, speed = report["novelty"], report["speed"]
    iou = novelty["max_wrong_iou"]
    return [
        ("nearest-distance ratio", _number(novelty["nearest_distance_ratio"])),
        ("max wrong-IoU, generated / zoo", f"{_number(iou['generated'])} / {_number(iou['zoo'])}"),
        ("root-mean-square ratio", _number(novelty["rms_ratio"])),
        ("networks per second", f"{speed['networks_per_second']:.0f}"),
        ("evaluations per network", str(speed["evaluations_per_network"])),
    ]


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _table_html(rows: list[tuple[str, ...]]) -> str:
    head, *rest = rows
    cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    lines = [f"<tr>{cells}</tr>"] if any(head) else []
    for number, row in enumerate(rest):
        mark = ' class="ours"' if number == 0 and any(head) else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _scatter(report: dict[str, Any]) -> Any:
    figure, axes = _figure()
    for name, points in report["scatter"].items():
        x, y = [p["ratio"] for p in points], [100 * p["accuracy"] for p in points]
        ours = name == "generated"
        axes.scatter(
            x,
            y,
            s=16 if ours else 9,
            alpha=0.9 if ours else 0.5,
            label=name.replace("_", " "),
            zorder=3 if ours else 2,
        )
    trained = report["splits"]["unseen_combinations"]["trained"]["mean"]
    axes.axhline(100 * trained, color="#555", linewidth=1, linestyle="--", label="trained (mean)")
    axes.set(xlabel="distance to the nearest training network / the zoo's own", ylabel="test accuracy, %")
    axes.legend(fontsize=8)
    return figure


def _solvers(report: dict[str, Any]) -> Any:
    figure, axes = _figure()
    for method in dict.fromkeys(row["method"] for row in report["solvers"]):
        rows = [row for row in report["solvers"] if row["method"] == method]
        axes.plot(
            [row["evaluations"] for row in rows],
            [100 * row["mean"] for row in rows],
            marker="o",
            label=method,
        )
    trained = report["splits"]["unseen_combinations"]["trained"]["mean"]
    axes.axhline(100 * trained, color="#555", linewidth=1, linestyle="--", label="trained (mean)")
    axes.set(xlabel="evaluations of the model a network", ylabel="test accuracy, %")
    axes.legend(fontsize=8)
    return figure


def _learning(report: dict[str, Any]) -> Any:
    figure, axes = _figure()
    steps = [line["step"] for line in report["training"]]
    axes.plot(steps, [line["held_out_match"] for line in report["training"]], marker="o", label="weights")
    axes.plot(
        steps, [line["held_out_behaviour"] for line in report["training"]], marker="o", label="behaviour"
    )
    axes.set(xlabel="step", ylabel="held-out loss", yscale="log")
    axes.legend(fontsize=8)
    return figure
