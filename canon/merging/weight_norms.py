r"""Restore the row norms of weights after a merge, without data.

Units that were matched still point in somewhat different directions, so that their mean is shorter than
they are, while biases and signals keep their size. Each row w of a weight (what one unit reads) gets the
length that the merged networks' rows have on average,

    w ← w Σ α_i |w_i| / |w|,    w = Σ α_i w_i.

Biases stay. Where examples are at hand, REPAIR (`canon.merging.activation_repair`) measures what this guesses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from canon.types import State


def restore_norms(merged: State, sources: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Rescale each row of a merged network to the mean row norm of the networks it was made of.

    A row is an entry of the first axis of a floating tensor with two axes or more. Rows of zeros stay.

    Args:
        merged: the state dict of the merged network.
        sources: the state dicts that were merged.
        weights: shares that add up to 1.

    Returns:
        The rescaled state dict.

    Raises:
        ValueError: there are no as many weights as sources.

    Example:
        >>> import canon, torch
        >>> sources = [{"w": torch.tensor([[2.0, 0.0]])}, {"w": torch.tensor([[0.0, 2.0]])}]
        >>> canon.restore_norms({"w": torch.tensor([[1.0, 1.0]])}, sources, [0.5, 0.5])["w"].norm().round()
        tensor(2.)
    """
    restored = {}
    for name, tensor in merged.items():
        if not tensor.is_floating_point() or tensor.dim() < 2:
            restored[name] = tensor
            continue
        own = _lengths(tensor)
        wanted = sum(share * _lengths(state[name]) for share, state in zip(weights, sources, strict=True))
        factor = torch.where(own > 0, wanted / own, 1.0)
        restored[name] = (tensor.double() * factor).to(tensor.dtype)
    return restored


def _lengths(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(
        tensor, dim=list(range(1, tensor.dim())), keepdim=True, dtype=torch.float64
    )
