"""Masks with -inf are data; every other tensor with -inf is refused."""

from __future__ import annotations

import pytest
import torch

from canon.errors import InputError
from canon.io.checkpoint import require_finite

INF = float("inf")


def test_an_additive_mask_is_data() -> None:
    require_finite({"mask": torch.full((4, 4), -INF).triu(1)}, "a.pt")


@pytest.mark.parametrize("values", [[-INF, -INF], [-INF, 0.5], [INF, 0.0], [float("nan"), 0.0]])
def test_a_diverged_tensor_is_no_mask(values: list[float]) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        require_finite({"weight": torch.tensor(values)}, "a.pt")
