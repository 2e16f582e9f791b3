"""Finished parts of an incomplete report, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.io.digests import checked, with_digest
from canon.io.files import atomic_write, read_bounded
from canon.validation import parse_json


class Parts:
    """Named parts, each written to `path` as soon as it is measured; without a path they are not kept.

    `open` says what the parts are of (run, zoo, arguments): parts of anything else are dropped.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._identity, self._found = "", dict[str, Any]()

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __len__(self) -> int:
        return len(self._found)

    def open(self, identity: str) -> None:
        """Read what is kept of the report with this identity."""
        self._identity = identity
        if self.path is None or not self.path.exists():
            return
        try:
            found = checked(self.path, parse_json(read_bounded(self.path, 1 << 28)))
        except (InputError, ValueError, TypeError, AttributeError):
            return  # damaged: it is measured again
        if isinstance(found, dict) and found.get("of") == identity and isinstance(found.get("parts"), dict):
            self._found = found["parts"]

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """A part that is kept, or else what `measure` gives, kept from now on."""
        if name in self._found:
            return self._found[name]
        value = measure()
        if self.path is None:
            return value
        found = {**self._found, name: json.loads(json.dumps(value))}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, json.dumps(with_digest({"of": self._identity, "parts": found})))
        self._found = found
        return found[name]

    def remove(self) -> None:
        """The report is whole: its parts are no longer needed on their own."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
