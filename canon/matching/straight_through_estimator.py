r"""Git Re-Basin's straight-through estimator: learn the permutation that makes the midpoint good.

A free copy Ã of A is trained. Its nearest relabelling of B, P = argmax <Ã, P B>, stands in for it
in the forward pass, and the gradient of the loss of the midpoint (A + P B) / 2 goes to Ã as though it
had been there itself. The best midpoint seen is kept. Slow, needs labels, and finds low barriers
that matching does not.

Ainsworth et al. 2023, arXiv:2209.04836, section 3.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from canon.actions import permutation as perm
from canon.errors import InputError, WorkError
from canon.matching.result import Match
from canon.matching.weight_matching import match_weights
from canon.spec import PermutationSpec
from canon.types import State

Batches = Sequence[tuple[Tensor, Tensor]]


def straight_through(
    spec: PermutationSpec,
    module: nn.Module,
    reference: State,
    network: State,
    batches: Batches,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-2,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    progress: Callable[[int, int], None] | None = None,
) -> Match:
    """The permutation of a network whose midpoint with a reference has the least mean loss.

    Git Re-Basin's straight-through estimator (Ainsworth et al. 2023, arXiv:2209.04836, algorithm 3). Begins from
    `match_weights` and is never worse than it.

    Args:
        spec: the symmetries of the architecture.
        module: the code of both; it runs the states and is not changed.
        reference: the state dict whose order is taken.
        network: the state dict that is permuted.
        batches: (inputs, targets).
        epochs: passes over the batches.
        learning_rate: of Adam.
        loss: of outputs and targets.
        progress: called with (done, total) after every epoch.

    Returns:
        The match; objectives are minus the midpoint's loss, in float64, and `sweeps` counts epochs.

    Raises:
        InputError: there is no batch, or keys or shapes do not fit the spec.
        WorkError: the loss is not finite.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> batches = [(torch.randn(8, 4), torch.randint(2, (8,)))]
        >>> match = canon.straight_through(spec, a, a.state_dict(), b.state_dict(), batches, epochs=1)
        >>> bool(match.objective >= match.objective_before)
        True
    """
    began = time.perf_counter()
    if not batches:
        raise InputError("the straight-through estimator needs at least one batch of (inputs, targets)")
    for state in (reference, network):
        spec.check(state)
    was_training = module.training
    module.eval()
    try:
        still = perm.identity(spec)
        before = _midpoint_loss(spec, module, reference, network, still, batches, loss)
        best = now = match_weights(spec, reference, network).permutation
        least = _midpoint_loss(spec, module, reference, network, best, batches, loss)
        if before <= least:
            best, least = still, before
        free = {n: t.detach().clone().requires_grad_() for n, t in reference.items() if t.is_floating_point()}
        optimizer = torch.optim.Adam(free.values(), lr=learning_rate)
        for epoch in range(epochs):
            for x, y in batches:
                now = _nearest(spec, {**reference, **free}, network, now)
                value = loss(functional_call(module, _blend(spec, reference, network, free, now), (x,)), y)
                if not value.isfinite():
                    raise WorkError("the midpoint's loss is not finite; a smaller learning rate may help")
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            reached = _midpoint_loss(spec, module, reference, network, now, batches, loss)
            if reached < least:
                best, least = now, reached
            if progress is not None:
                progress(epoch + 1, epochs)
    finally:
        module.train(was_training)
    moved = {name: float((p != still[name]).double().mean()) for name, p in best.items()}
    gains: dict[str, float] = {}  # a loss has no share for each group
    seconds = time.perf_counter() - began
    return Match(best, -before, -least, epochs, True, seconds, gains, moved)


def _nearest(
    spec: PermutationSpec, target: State, network: State, now: perm.Permutation
) -> dict[str, Tensor]:
    """Ascend from where the last step stood: seldom more than one sweep."""
    target = {name: t.detach() for name, t in target.items()}
    moved = perm.apply_unchecked(spec, now, network)
    return perm.compose(spec, now, match_weights(spec, target, moved, start="identity").permutation)


def _blend(
    spec: PermutationSpec, reference: State, network: State, free: State, now: perm.Permutation
) -> dict[str, Tensor]:
    """The midpoint of A and P B, with the gradient of P B handed to the free copy."""
    moved = perm.apply_unchecked(spec, now, network)
    blend = dict(reference)
    for name, copy in free.items():
        blend[name] = (reference[name] + moved[name] + (copy - copy.detach())) / 2
    return blend


@torch.no_grad()
def _midpoint_loss(
    spec: PermutationSpec,
    module: nn.Module,
    reference: State,
    network: State,
    now: perm.Permutation,
    batches: Batches,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    middle = _blend(
        spec, reference, network, {n: t for n, t in reference.items() if t.is_floating_point()}, now
    )
    losses = [loss(functional_call(module, middle, (x,)), y).double() * len(x) for x, y in batches]
    return torch.stack(losses).sum() / sum(len(x) for x, _ in batches)
