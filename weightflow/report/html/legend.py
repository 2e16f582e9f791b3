"""The legend of a chart, with boxes that show single networks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from weightflow.report.html.figure import Series
from weightflow.report.html.svg import marker


def legend(shown: Sequence[Series], toggles: Sequence[str] = ()) -> str:
    """One entry a series; those in `toggles` carry a box that shows their single networks."""
    return f'<div class="legend">{"".join(_entry(s, s.name in toggles) for s in shown)}</div>'


def _entry(s: Series, toggled: bool) -> str:
    key = f'<svg class="key" viewBox="-7 -7 14 14" style="{s.style}">{marker(0, 0, s.marker, 5.0)}</svg>'
    text = f"{key}{html.escape(s.label)}"
    if not toggled:
        return f"<span>{text}</span>"
    return f'<label><input type="checkbox" data-s="{html.escape(s.name)}">{text}</label>'
