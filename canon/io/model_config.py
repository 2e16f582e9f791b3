"""The `config.json` that Hugging Face keeps beside a network's weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from canon.errors import InputError
from canon.io.files import read_bounded
from canon.validation import Invalid, parse_json

LIMIT = 10_000_000  # bytes; a configuration has a few thousand

_TELLING = ("model_type", "architectures", "num_attention_heads", "num_heads", "n_head", "hidden_size")


def read_config(path: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The configuration beside the checkpoint `path`; empty where there is none, or it is of something else.

    Raises `InputError` where the file is not JSON.
    """
    if path is None:
        return {}
    place = Path(path).parent / "config.json"
    if not place.is_file():
        return {}
    try:
        found = parse_json(read_bounded(place, LIMIT), LIMIT, finite=False)  # some files contain Infinity
    except Invalid as error:
        raise InputError(f"{place} cannot be read ({error}); repair it, or move it away") from None
    if not isinstance(found, dict) or not any(key in found for key in _TELLING):
        return {}
    return found
