"""A table of precomputed vectors: an `.npz` with `names` (n,) and `embeddings` (n, width)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.arrays import read_npz
from weightflow.registry import suggest
from weightflow.text.encoder import TextEncoder


class TableEncoder(TextEncoder):
    """Vectors looked up by name; a name that the table lacks is an error with the nearest ones."""

    def __init__(self, path: str | Path) -> None:
        table = read_npz(path)
        if not {"names", "embeddings"} <= table.keys():
            raise InputError(f"{path} is not a table of vectors; it needs arrays 'names' and 'embeddings'")
        names, vectors = table["names"], table["embeddings"]
        if (
            vectors.dtype.kind not in "iuf"
            or names.ndim != 1
            or vectors.ndim != 2
            or len(names) != len(vectors)
            or not np.isfinite(vectors).all()
        ):
            raise InputError(
                f"{path}: {names.shape} names and {vectors.shape} embeddings, expected (n,) and (n, width), finite"
            )
        self._rows = {str(name): row for row, name in enumerate(names)}
        self._vectors = torch.from_numpy(vectors.astype(np.float32))
        digest = hashlib.sha256("\0".join(map(str, names)).encode() + vectors.tobytes()).hexdigest()
        self.identity, self.width = f"table:{digest[:16]}", vectors.shape[1]

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        for name in descriptions:
            if name not in self._rows:
                raise InputError(
                    f"the table of vectors has no entry '{name}'; nearest: {suggest(name, self._rows)}"
                )
        return self._vectors[[self._rows[name] for name in descriptions]]
