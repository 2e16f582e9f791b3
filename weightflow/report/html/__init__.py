"""The report as one self-contained page: the verdict first, then pictures. No script, no network.

Pictures are inline SVG in the page's own colours, not matplotlib's, so that they are sharp on a phone, follow its dark
mode, show numbers on hover without a script and can be read by a screen reader. The page has a dozen slots, which the
standard library's `Template` fills; text is escaped where it becomes HTML, and a test feeds names with markup through all of it.
"""

from __future__ import annotations

import html
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from canon.io.files import atomic_write
from weightflow.report.html.charts import PICTURES
from weightflow.report.html.figure import Figure
from weightflow.report.html.tables import facts, full_table
from weightflow.report.verdict import verdict

INVISIBLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Characters of names that do not show, or change the direction of what stands beside them."""


def write_page(path: Path, report: dict[str, Any]) -> None:
    """Write the page for a report, all of it or nothing."""
    atomic_write(path, page(report))


def page(report: dict[str, Any]) -> str:
    template = Template((resources.files("weightflow.report.html") / "page.html").read_text(encoding="utf-8"))
    environment = ", ".join(
        f"{k} {v}" for k, v in report["environment"].items() if v is not None and not k.endswith("_reason")
    )
    words = report.get("about", {}).get("command", "").split()
    command = " ".join(
        f"<span>{html.escape(word)}</span>" for word in words
    )  # lines break between them alone
    judged, _, more = verdict(report).partition(". ")
    made = template.substitute(
        title=html.escape(_title(report)),
        about=html.escape(_about(report)),
        command=f" · <code>{command}</code>" if command else "",
        toggles=_toggles(report),
        verdict=_together(f"{judged.removesuffix('.')}."),
        more=f'<p class="more">{_together(more)}</p>' if more else "",
        facts="".join(_tile(*fact) for fact in facts(report)),
        pictures="".join(_picture(make(report)) for make in PICTURES),
        table=_table(full_table(report)),
        good=f"{100 * report['novelty'].get('good', 0.95):.0f}",
        environment=html.escape(environment),
    )
    return INVISIBLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), made)


def _title(report: dict[str, Any]) -> str:
    found = report.get("about")
    return (
        f"{found['dataset']}, {found['architecture']}, {found['run']} · weightflow report"
        if found
        else "weightflow report"
    )


def _about(report: dict[str, Any]) -> str:
    """One line: what was generated, from what, how, when."""
    found = report.get("about")
    if not found:
        return ""
    preset = f"preset {found['preset']}, " if found["preset"] else ""
    return (
        f"{found['dataset']} · {found['architecture']} of {found['parameters']:,} parameters · zoo of "
        f"{found['zoo_networks']:,} networks ({found['zoo_identity'][:12]}) · {preset}{found['steps']:,} steps · "
        f"{found['date']}"
    )


def _together(text: str) -> str:
    """`text` for the page, with the number of a percentage on the line of its sign."""
    return html.escape(text.replace(" %", "\u00a0%"))


def _toggles(report: dict[str, Any]) -> str:
    """A ticked box shows its cloud: no script is needed for it."""
    return "\n".join(
        f'figure:has(input[data-s="{name}"]:checked) .cloud[data-s="{name}"] {{ display:inline !important; }}'
        for name in report["scatter"] or ()
    )


def _tile(value: str, label: str) -> str:
    return f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>"


def _picture(figure: Figure) -> str:
    wide = ' class="wide"' if figure.wide else ""
    return (
        f"<figure{wide}><h2>{html.escape(figure.title)}</h2>{figure.body}"
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *rest = rows
    cells = "".join(f'<th scope="col">{html.escape(c)}</th>' for c in head)
    lines = [f"<thead><tr>{cells}</tr></thead><tbody>"]
    for number, (name, *row) in enumerate(rest):
        mark = ' class="ours"' if number == 0 else ""
        body = "".join(f"<td>{html.escape(c)}</td>" for c in row)
        lines.append(f'<tr{mark}><th scope="row">{html.escape(name)}</th>{body}</tr>')
    return f"<table>{''.join(lines)}</tbody></table>"
