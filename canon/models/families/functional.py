"""Functional re-implementations of architectures, driven by the keys of a checkpoint.

Symmetries depend neither on stride nor on image size nor on sequence length, so a sketch runs on the
smallest input that shows the structure. A family is a function of `Tensors` and an input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from canon.io.dtypes import computable, equal, is_mask
from canon.tracing.operations.opaque import opaque

Forward = Callable[["Tensors", Tensor], "Tensor | tuple[Tensor, ...]"]


class Tensors:
    """The tensors of a checkpoint by key, remembering which were read, and the layers over them."""

    def __init__(self, state: Mapping[str, Tensor], prefix: str = "", read: set[str] | None = None) -> None:
        self._state, self._prefix = state, prefix
        self.read: set[str] = set() if read is None else read

    def __contains__(self, key: str) -> bool:
        return self._prefix + key in self._state

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(self._prefix + key)
        return self._state[self._prefix + key]

    def get(self, key: str) -> Tensor | None:
        if self._prefix + key not in self._state:
            return None
        return self[key]

    def under(self, prefix: str) -> Tensors:
        return Tensors(self._state, self._prefix + prefix, self.read)

    def __iter__(self) -> Iterator[str]:
        """The keys under this prefix, in the order of the file."""
        start = len(self._prefix)
        return iter([key[start:] for key in self._state if key.startswith(self._prefix)])

    def children(self, prefix: str = "") -> list[str]:
        """The names that follow `prefix`, in the order of the file, numbers in order of size."""
        start = len(self._prefix + prefix)
        names = [key[start:].split(".")[0] for key in self._state if key.startswith(self._prefix + prefix)]
        return sorted(dict.fromkeys(names), key=lambda name: int(name) if name.isdigit() else -1)

    # layers

    def linear(self, key: str, x: Tensor) -> Tensor:
        return F.linear(x, self[f"{key}.weight"], self.get(f"{key}.bias"))

    def conv(self, key: str, x: Tensor, transposed: bool = False) -> Tensor:
        """Stride one and edges padded; as many groups as the shapes say.

        With `transposed` the first axis of the weight holds the inputs.
        """
        weight = self[f"{key}.weight"]
        weight = weight.transpose(0, 1) if transposed else weight
        convolve = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
        groups = x.shape[1] // weight.shape[1]
        padding = [size // 2 for size in weight.shape[2:]]
        return convolve(x, weight, self.get(f"{key}.bias"), padding=padding, groups=groups)

    def patches(self, key: str, x: Tensor) -> Tensor:
        """Non-overlapping patches as tokens: (batch, tokens, width)."""
        weight = self[f"{key}.weight"]
        return (
            F.conv2d(x, weight, self.get(f"{key}.bias"), stride=weight.shape[2:]).flatten(2).transpose(1, 2)
        )

    def batch_norm(self, key: str, x: Tensor) -> Tensor:
        mean, variance = self[f"{key}.running_mean"], self[f"{key}.running_var"]
        return F.batch_norm(x, mean, variance, self.get(f"{key}.weight"), self.get(f"{key}.bias"))

    def layer_norm(self, key: str, x: Tensor) -> Tensor:
        weight = self[f"{key}.weight"]
        return F.layer_norm(x, weight.shape, weight, self.get(f"{key}.bias"))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: int | None,
    width: int,
    causal: bool = False,
    rotated: bool = False,
) -> Tensor:
    """Attention over (batch, tokens, width), heads laid out side by side; None where their number is not known.

    Nor is it where attention is not as wide as the network (`width`): heads were pruned, or have a width of their own.
    Queries, keys and what attention gives may be normalized without a tensor that shows it (YOSO), so scales stay. With
    `rotated` queries and keys may carry rotary positions, which no tensor shows either: their channels stay, and
    heads move whole.
    """
    reason = None
    if heads is None:
        reason = "the number of heads is not in the checkpoint; give config.json, --assume heads=N or --model"
    elif q.shape[-1] != width:
        reason = (
            f"attention is {q.shape[-1]} wide in a network of {width}, so heads={heads} does not tell its number of "
            "heads; give --model"
        )
    if heads is None or reason is not None:
        q, k, v = (opaque(t, reason or "") for t in (q, k, v))
        heads = 1
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    q, k = (F.normalize(t, dim=-1) for t in (q, k))
    if rotated:
        channels = torch.arange(1.0, q.shape[-1] + 1).to(q)
        q, k = q * channels, k * channels
    found = F.normalize(F.scaled_dot_product_attention(q, k, v, is_causal=causal), dim=-1)
    return found.transpose(1, 2).flatten(2)


class FunctionalModule(nn.Module):
    """A module with the checkpoint's keys whose forward is the family's function."""

    def __init__(self, state: Mapping[str, Tensor], forward: Forward) -> None:
        super().__init__()
        self._forward, self._names = forward, tuple(state)  # families read the order of the file
        known: dict[tuple[Any, ...], list[Tensor]] = {}
        for name, tensor in state.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for step in path:
                if step not in owner._modules:
                    owner.add_module(step, nn.Module())
                owner = owner.get_submodule(step)
            learned = tensor.is_floating_point() and not last.startswith("running_") and not is_mask(tensor)
            value = nn.Parameter(tensor.detach(), requires_grad=False) if learned else tensor
            value = _twin(value, known.setdefault((learned, tensor.dtype, *tensor.shape), []))
            if isinstance(value, nn.Parameter):
                owner.register_parameter(last, value)
            else:
                owner.register_buffer(last, value)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        own = self.state_dict(keep_vars=True)
        return self._forward(Tensors({name: own[name] for name in self._names}), x)


def _twin(tensor: Tensor, alike: list[Tensor]) -> Tensor:
    """`tensor`, or the one of `alike` that came before it and is tied to it: equal entry for entry.

    Vectors of one number repeated, as norms begin with, are equal whether they are tied or not.
    """
    if not tensor.is_floating_point() or prod(tensor.shape) < 2:
        return tensor
    values = computable(tensor.detach())
    tells = values.any() if tensor.dim() > 1 else (values != values[0]).any()
    if tells:
        for other in alike:
            if equal(other, tensor):
                return other
        alike.append(tensor)
    return tensor
