"""Hand networks over: plain `state_dict` files, one a network."""

from __future__ import annotations

from pathlib import Path

from canon.errors import InputError
from weightflow.network import write_network
from weightflow.zoo.store import Zoo


def export_zoo(zoo: Zoo, folder: Path, count: int | None = None) -> list[Path]:
    """Write the first `count` networks (all by default) as `ID.safetensors`, trimmed to their classes."""
    if count is not None and count < 1:
        raise InputError(f"--count is {count}; export 1 network or more")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row, record in list(enumerate(zoo.records))[:count]:
        path = folder / f"{record.id}.safetensors"
        write_network(path, zoo.architecture, zoo.load([row]), record.classes)
        written.append(path)
    return written
