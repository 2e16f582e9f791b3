"""Code of the user's own, named where a name is expected: `MODULE:FUNCTION`, `FILE.py:FUNCTION`.

What stands on the command line is the user's word; a recipe, a zoo and a run may be a stranger's, and need `--plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = ("dataset", "encoder", "readout.encoder", "architecture.name")
"""The settings that name code."""


def settings_of(assignments: list[str] | None) -> dict[str, Any]:
    """The settings of `--set`, as nested tables; code that they name may run."""
    from weightflow import config
    from weightflow.registry import announce

    tables = config.dotted(assignments or [])
    for path in NAMES:
        table: Any = tables
        *above, last = path.split(".")
        for part in above:
            table = table.get(part) if isinstance(table, Mapping) else None
        if isinstance(table, dict) and isinstance(table.get(last), str):
            table[last] = announce(table[last])
    return tables
