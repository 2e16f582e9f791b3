"""Networks whose file says its architecture to a package that is installed.

A package teaches canon its own `architecture` metadata with an entry point of the group
"canon.architectures": a callable from the decoded metadata to a module and its example inputs, or to None.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from canon.validation import Invalid, parse_json

LIMIT = 1 << 20  # bytes; an architecture has a few hundred


def from_metadata(metadata: Mapping[str, str]) -> tuple[Any, Any] | None:
    """The module and its example inputs, where an installed package knows the file's `architecture`."""
    if "architecture" not in metadata:
        return None
    try:
        architecture = parse_json(metadata["architecture"], LIMIT)
    except Invalid:
        return None
    for entry in entry_points(group="canon.architectures"):
        if (built := entry.load()(architecture)) is not None:
            return built
    return None
