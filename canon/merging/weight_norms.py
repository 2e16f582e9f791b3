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

from canon.merging.interpolation import PIECE
from canon.types import LazyState, State, like


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
    return dict(restore_norms_lazily(merged, sources, weights))


def restore_norms_lazily(merged: State, sources: Sequence[State], weights: Sequence[float]) -> LazyState:
    """`restore_norms`, each tensor made when it is asked for."""

    def restored(name: str) -> Tensor:
        tensor = merged[name]
        if not tensor.is_floating_point() or tensor.dim() < 2:
            return tensor
        own = _lengths(tensor)
        wanted = sum(share * _lengths(state[name]) for share, state in zip(weights, sources, strict=True))
        factor = torch.where(own > 0, wanted / own, 1.0)
        made = torch.empty_like(tensor)
        for target, rows, by in zip(*(t.split(_rows(tensor)) for t in (made, tensor, factor)), strict=True):
            target.copy_(rows.double() * by)
        return made

    return LazyState(merged, restored, like(merged))


def _rows(tensor: Tensor) -> int:
    """Rows that are in float64 at once."""
    return max(1, PIECE // max(1, tensor[:1].numel()))


def _lengths(tensor: Tensor) -> Tensor:
    others = list(range(1, tensor.dim()))
    return torch.cat(
        [
            torch.linalg.vector_norm(rows, dim=others, keepdim=True, dtype=torch.float64)
            for rows in tensor.split(_rows(tensor))
        ]
    )
