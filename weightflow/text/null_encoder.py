"""The null encoder of unconditional runs: every description has the same vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weightflow.text.encoder import TextEncoder


class NullEncoder(TextEncoder):
    """One number a description, zero."""

    identity, width = "none", 1

    def vectors(self, descriptions: Sequence[str]) -> Tensor:
        return torch.zeros(len(descriptions), 1)
