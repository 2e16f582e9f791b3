"""Named tensors in one flat file: weights under a prefix, and an optimizer's state by parameter name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.io.checkpoint import require_finite, require_same

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
"""What Adam and AdamW keep of a parameter."""


def pack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor.detach().cpu() for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together where several processes hold parts of it; all of them must ask at once."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor where `like` is: this process's part of it where that is a part."""
    if not hasattr(like, "full_tensor"):
        return tensor.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def load_weights(module: nn.Module, state: Mapping[str, Tensor], who: str) -> None:
    """Load `state`, which `who` holds, into `module`; `InputError` where keys, shapes or kinds of numbers differ."""
    own = module.state_dict()
    require_same(own, state, "the model of the run's settings", who)
    for name, tensor in state.items():
        if tensor.dtype != own[name].dtype:
            raise InputError(f"{who}: {name} is {tensor.dtype}, expected {own[name].dtype}; train it again")
    require_finite(state, who)
    module.load_state_dict({name: _placed(tensor, own[name]) for name, tensor in state.items()})


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments and step counts, keyed by parameter name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}.{key}": value for p, state in optimizer.state.items() for key, value in state.items()
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave; `InputError` where it is of another model, or is not whole."""
    parameters = dict(model.named_parameters())
    found: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition(".")
        like = parameters.get(owner)
        if like is None or (tensor.shape, tensor.dtype) not in (
            (like.shape, like.dtype),
            (torch.Size(), torch.float32),
        ):
            raise InputError(
                f"the optimizer's state {name} ({tensor.dtype}, {tuple(tensor.shape)}) is of another model"
            )
        # the count of steps stays where torch keeps it, on the processor
        optimizer.state[like][key] = tensor if key == "step" else _placed(tensor, like)
        found.setdefault(owner, set()).add(key)
    for owner, keys in found.items():
        if not keys >= MOMENTS:
            raise InputError(
                f"the optimizer's state of {owner} lacks {', '.join(sorted(MOMENTS - keys))}; train again"
            )
