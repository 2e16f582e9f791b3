r"""Statistics after a merge: batch norm re-estimated, activations brought back to their scale.

A mean of networks has activations of too small a variance. Batch norm repairs that by itself once its
running statistics are those of the merged network. For other layers REPAIR (Jordan et al. 2022,
arXiv:2211.08403) gives every unit the mean and deviation that the merged networks have on average,

    μ* = Σ w_i μ_i,  σ* = Σ w_i σ_i,   W ← (σ*/σ) W,  b ← (σ*/σ)(b − μ) + μ*.

Use training examples: statistics from test images would leak them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.io.examples import Data
from canon.merging.weight_norms import restore_norms, restore_norms_lazily
from canon.models.loading import loaded
from canon.types import LazyState, State, like

Inputs = Callable[[], Iterable[Tensor]]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Moments = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def reestimate_batch_norm(module: nn.Module, state: State, inputs: Inputs) -> dict[str, Tensor]:
    """Re-estimate the running statistics of batch norm.

    Everything but batch norm stays in evaluation mode. A network without batch norm comes back as it was.

    Args:
        module: the code of the network; left as it was.
        state: its state dict.
        inputs: a callable that gives the batches of training inputs.

    Returns:
        `state` with running statistics that are the plain mean over the batches.

    Raises:
        InputError: there is no batch.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(2))
        >>> x = torch.full((8, 2), 3.0)
        >>> canon.reestimate_batch_norm(net, net.state_dict(), lambda: [x])["0.running_mean"]
        tensor([3., 3.])
    """
    return {name: t.clone() for name, t in reestimate_batch_norm_lazily(module, state, inputs).items()}


@torch.no_grad()
def reestimate_batch_norm_lazily(module: nn.Module, state: State, inputs: Inputs) -> LazyState:
    """`reestimate_batch_norm`, the other tensors asked of `state` when they are wanted."""
    working = loaded(module, state)
    norms = {
        name: part
        for name, part in working.named_modules(remove_duplicate=False)
        if isinstance(part, BATCH_NORMS) and part.track_running_stats
    }
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean, whatever the order of the batches
        norm.train()
    if norms:
        _feed(working, inputs)
    found = {
        key: tensor.to(like(state)[key].dtype).clone()
        for name, norm in norms.items()
        for own, tensor in norm.named_buffers()
        if (key := f"{name}.{own}" if name else own) in state
    }
    return LazyState(state, lambda name: found[name] if name in found else state[name], like(state))


def repair(
    module: nn.Module, merged: State, sources: Sequence[State], weights: Sequence[float], inputs: Inputs
) -> dict[str, Tensor]:
    """REPAIR: give the units of a merged network the statistics of the networks it was made of.

    Jordan et al. 2023, arXiv:2211.08403. Corrected are linear and convolutional layers that have a bias, the last
    one left out; a layer's statistics are taken with those before it corrected. Then batch norm is re-estimated.

    Args:
        module: the code of the networks; left as it was.
        merged: the state dict of the merged network.
        sources: the state dicts that were merged.
        weights: their shares.
        inputs: a callable that gives the batches of training inputs.

    Returns:
        The repaired state dict.

    Raises:
        InputError: there is no batch.

    Example:
        >>> import canon, torch
        >>> a, b = (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)) for _ in "ab")
        >>> spec = canon.trace(a, torch.randn(1, 4))
        >>> x = torch.randn(32, 4)
        >>> mean = canon.merge(a.state_dict(), b.state_dict(), align=False)
        >>> canon.repair(a, mean, [a.state_dict(), b.state_dict()], [0.5, 0.5], lambda: [x])["0.weight"].shape
        torch.Size([8, 4])
    """
    return dict(repair_lazily(module, merged, sources, weights, inputs))


@torch.no_grad()
def repair_lazily(
    module: nn.Module, merged: State, sources: Sequence[State], weights: Sequence[float], inputs: Inputs
) -> LazyState:
    """`repair`, each tensor made when it is asked for; one network is in memory while it runs."""
    goal: Moments = {}
    for share, state in zip(weights, sources, strict=True):
        for name, (mean, deviation) in _moments(loaded(module, state), inputs).items():
            old = goal.get(name, (torch.zeros_like(mean), torch.zeros_like(deviation)))
            goal[name] = (old[0] + share * mean, old[1] + share * deviation)
    working = loaded(module, merged)
    for part in working.modules():
        if isinstance(part, BATCH_NORMS):
            part.train()  # normalise by the batch: the old running statistics do not describe the merged network
    found = _moments(working, inputs, goal)
    del working

    def repaired(key: str) -> Tensor:
        name, _, own = key.rpartition(".")
        tensor = merged[key]
        if name not in found or own not in ("weight", "bias"):
            return tensor.clone()
        mean, deviation = found[name]
        ratio = _ratio(goal[name][1], deviation)
        if own == "weight":
            return (tensor.double() * ratio.reshape(-1, *[1] * (tensor.dim() - 1))).to(tensor.dtype)
        return ((tensor.double() - mean) * ratio + goal[name][0]).to(tensor.dtype)

    return reestimate_batch_norm_lazily(module, LazyState(merged, repaired, like(merged)), inputs)


def _ratio(goal: Tensor, deviation: Tensor) -> Tensor:
    alive = deviation > 1e-12  # a unit that never varies cannot be rescaled
    return torch.where(alive, goal / deviation.clamp_min(1e-12), 1.0)


def _feed(module: nn.Module, inputs: Inputs) -> None:
    count = 0
    for x in inputs():
        module(x)
        count += 1
    if not count:
        raise InputError("there are no examples to take statistics from")


def _moments(module: nn.Module, inputs: Inputs, goal: Moments | None = None) -> Moments:
    """Mean and deviation of every correctable unit's output, (units,) float64.

    With `goal`, each layer's output is brought to its goal on the way, so that what follows is measured
    on corrected inputs.
    """
    sums: dict[str, list[Any]] = {}
    order: list[str] = []
    with _watching(module, sums, order, goal):
        _feed(module, inputs)
    output = order[-1] if order else None
    moments = {}
    for name, (total, squares, count) in sums.items():
        if name != output:
            mean = total / count
            moments[name] = (mean, (squares / count - mean.square()).clamp_min(0).sqrt())
    return moments


@contextmanager
def _watching(
    module: nn.Module, sums: dict[str, list[Any]], order: list[str], goal: Moments | None
) -> Iterator[None]:
    def watch(name: str, part: nn.Module) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
            units = output.dim() - 1 if isinstance(part, nn.Linear) else 1
            flat = output.double().movedim(units, 0).flatten(1)
            own = sums.setdefault(name, [0.0, 0.0, 0])
            own[0], own[1], own[2] = (
                own[0] + flat.sum(1),
                own[1] + flat.square().sum(1),
                own[2] + flat.shape[1],
            )
            order.append(name)
            if goal is None or name not in goal:
                return None
            mean, deviation = goal[name]
            ratio = _ratio(deviation, flat.std(1, correction=0))
            shape = [-1 if d == units else 1 for d in range(output.dim())]
            shifted = (output.double() - flat.mean(1).reshape(shape)) * ratio.reshape(shape)
            return (shifted + mean.reshape(shape)).to(output.dtype)

        return part.register_forward_hook(hook)

    handles = [watch(name, part) for name, part in _correctable(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _correctable(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    owners: dict[int, int] = {}
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, part in module.named_modules():
        # A tied weight belongs to two layers and cannot be rescaled for one of them.
        if isinstance(part, UNITS) and part.bias is not None and owners[id(part.weight)] == 1:
            yield name, part


Mend = Callable[[State, Sequence[State], Sequence[float]], State]


def repairer(
    kind: str, module: nn.Module | None, train: Data | None, batch: int, lazily: bool = False
) -> Mend:
    """What `kind` names: (merged, sources, weights) -> the merged network with its statistics mended.

    With `lazily` tensors are made when they are asked for; the kinds that run the network hold one copy of it.
    Raises `InputError` for an unknown name, or where the module or the training examples are missing.
    """
    if kind == "none":
        return lambda merged, sources, weights: merged
    if kind == "norms":
        return restore_norms_lazily if lazily else restore_norms
    if kind not in ("batch-norm", "repair"):
        raise InputError(f"repair '{kind}' is not known; one of none, norms, batch-norm, repair")
    if module is None or train is None:
        raise InputError(f"--repair {kind} runs the network on training examples; give --model and --train")
    if not any(isinstance(part, (*UNITS, *BATCH_NORMS)) for part in module.modules()):
        raise InputError(
            f"--repair {kind} found no layer to measure (an exported program has none); give --model"
        )
    data, network = train, module

    def inputs() -> Iterator[Tensor]:
        return (x for x, _ in data.batches(batch))

    if kind == "batch-norm":
        estimate = reestimate_batch_norm_lazily if lazily else reestimate_batch_norm
        return lambda merged, sources, weights: estimate(network, merged, inputs)
    mend = repair_lazily if lazily else repair
    return lambda merged, sources, weights: mend(network, merged, sources, weights, inputs)
