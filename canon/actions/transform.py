r"""A permutation (and rescaling) of a network that can be saved and applied again.

g = (s, p): first every unit u of the old network is scaled by s_u, then the units are relabelled by p,

    g(θ) = P S θ,   (S θ)_x = θ_x · Π s_{u(x)} ^ power(x).

The action is linear, so g(θ + τ) = g(θ) + g(τ): a task vector τ follows the network it belongs to, and
so does a low-rank delta B A, whose rows and columns follow the weight's axes. Gradients transform with
the inverse scale, so that an optimizer's first moments take power −1 and its second moments −2.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from canon.actions import permutation
from canon.actions.permutation import Permutation
from canon.actions.scaling import apply_scale_unchecked, is_scaled, scale_one
from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import reading
from canon.spec import Axis, PermutationSpec
from canon.types import LazyState, like

FORMAT = "canon-transform-1"

# How an optimizer's tensors scale when the parameter scales by s: s ** power.
MOMENTS = {
    "exp_avg": -1,
    "exp_avg_sq": -2,
    "max_exp_avg_sq": -2,
    "exp_inf": -1,
    "momentum_buffer": -1,
    "square_avg": -2,
    "grad_avg": -1,
    "sum": -2,
    "acc_delta": 2,
    "ax": 1,
}

_LORA = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?$")


@dataclass(frozen=True)
class Transform:
    """An element of a network's symmetry group: scales of the old units, then a permutation.

    Args:
        spec: the symmetries of the architecture.
        permutation: for each group, the old unit at each new place.
        scales: for each group, the factor of each old unit; a group that is not named keeps its scale.

    Example:
        >>> import canon, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> spec = canon.trace(net, torch.randn(1, 4))
        >>> element = canon.random(spec, torch.Generator().manual_seed(0))
        >>> moved = canon.Transform(spec, element)
        >>> back = moved.inverse().apply(moved.apply(net.state_dict()))
        >>> all(torch.equal(back[k], v) for k, v in net.state_dict().items())
        True
    """

    spec: PermutationSpec
    permutation: Permutation
    scales: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.permutation.keys() != self.spec.groups.keys():
            raise InputError("a transform needs one permutation for every group of its spec")
        for name, p in self.permutation.items():
            sorted_p = p.sort(dim=-1).values
            if tuple(p.shape) != self.spec.shape(name) or not torch.equal(
                sorted_p, torch.arange(p.shape[-1]).expand_as(p)
            ):
                raise InputError(
                    f"group '{name}': not a permutation of {self.spec.groups[name].size} units "
                    f"(shape {tuple(p.shape)}, expected {self.spec.shape(name)})"
                )
        for name, s in self.scales.items():
            self._check_scale(name, s)

    def _check_scale(self, name: str, s: Tensor) -> None:
        if name not in self.spec.groups or tuple(s.shape) != self.spec.shape(name):
            raise InputError(f"group '{name}': scales of shape {tuple(s.shape)} do not fit the spec")
        kind = self.spec.groups[name].scale
        fits = {"none": (s == 1).all(), "sign": (s.abs() == 1).all(), "positive": (s > 0).all()}
        if not (fits[kind] and s.isfinite().all()):
            raise InputError(f"group '{name}' has scale symmetry '{kind}', which its scales break")

    def apply(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The transformed network; keys, order and dtypes stay. `InputError` where it does not fit."""
        return self._act(state, self.spec.axes)

    def apply_lazily(self, state: Mapping[str, Tensor]) -> LazyState:
        """As `apply`, for large networks: each tensor is computed on access."""
        self.spec.check(like(state))

        def make(name: str) -> Tensor:
            tensor = state[name]
            if self.scales and is_scaled(self.spec, self.scales, name):
                tensor = scale_one(self.spec, self.scales, name, tensor)
            return permutation.relabel(self.spec, self.permutation, name, tensor, 0)

        return LazyState(state, make, like(state))

    def apply_delta(self, delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The transformed task vector (or any tensors shaped like parameters); it may lack some keys."""
        return self._act(delta, {name: self._axes(name) for name in delta})

    def apply_lora(self, factors: Mapping[str, Tensor], *, fan_in_fan_out: bool = False) -> dict[str, Tensor]:
        """Low-rank factors in PEFT's naming: `….lora_A.weight` (rank, in), `….lora_B.weight` (out, rank).

        The rows of B follow the outputs of the weight, the columns of A its inputs; `fan_in_fan_out`
        where the weight is stored (in, out), as GPT-2's.
        """
        axes = {name: self._factor_axes(name, tensor, fan_in_fan_out) for name, tensor in factors.items()}
        return self._act(factors, axes)

    def apply_optimizer(self, state: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Optimizer state keyed by parameter name: {name: {"exp_avg": …, "step": …}}.

        Tensors shaped like the parameter follow it; steps and other single numbers stay.
        """
        return {
            name: {slot: self._move_moment(name, slot, value) for slot, value in slots.items()}
            for name, slots in state.items()
        }

    def inverse(self) -> Transform:
        """The transform that undoes this one (bit for bit where there are no scales)."""
        back = permutation.invert(self.spec, self.permutation)
        scales = {name: 1 / self._relabel(name, s) for name, s in self.scales.items()}
        return replace(self, permutation=back, scales=scales)

    def then(self, other: Transform) -> Transform:
        """The composition: this transform first, then `other`."""
        if other.spec != self.spec:
            raise InputError("the two transforms belong to different specs and cannot be composed")
        both = permutation.compose(self.spec, self.permutation, other.permutation)
        back = self.inverse()
        scales = dict(self.scales)
        for name, s in other.scales.items():
            pulled = back._relabel(name, s)
            scales[name] = pulled * scales[name] if name in scales else pulled
        return Transform(self.spec, both, scales)

    def moved(self) -> dict[str, float]:
        """The fraction of each group's units that change place."""
        return {
            name: (p != torch.arange(p.shape[-1])).double().mean().item() if p.numel() else 0.0
            for name, p in self.permutation.items()
        }

    def _relabel(self, group: str, values: Tensor) -> Tensor:
        outer, p = self.spec.groups[group].within, self.permutation[group]
        return values[p] if outer is None else values[self.permutation[outer]].gather(-1, p)

    def _act(
        self, tensors: Mapping[str, Tensor], axes: Mapping[str, tuple[Axis, ...]], power: int = 1
    ) -> dict[str, Tensor]:
        spec = PermutationSpec(self.spec.groups, dict(axes))
        spec.check(tensors)
        if self.scales:
            scales = {name: s.double() ** power for name, s in self.scales.items()}
            tensors = apply_scale_unchecked(spec, scales, tensors)
        return permutation.apply_unchecked(spec, self.permutation, tensors)

    def _axes(self, name: str) -> tuple[Axis, ...]:
        if name not in self.spec.axes:
            raise InputError(f"{name} is not known to the transform's spec; is it of another architecture?")
        return self.spec.axes[name]

    def _factor_axes(self, name: str, factor: Tensor, fan_in_fan_out: bool) -> tuple[Axis, ...]:
        found = _LORA.match(name.removesuffix(".weight"))
        if found is None:
            raise InputError(f"{name} is not a low-rank factor; expected ….lora_A.weight or ….lora_B.weight")
        weight = f"{found['module']}.weight"
        outputs, inputs = (1, 0) if fan_in_fan_out else (0, 1)
        dim, number = (0, outputs) if found["side"] == "B" else (1, inputs)
        own = self._axes(weight)[number]
        if factor.dim() < 2 or factor.shape[dim] != own.size:
            raise InputError(
                f"{name} has shape {tuple(factor.shape)}, but axis {number} of {weight} has {own.size} entries"
                "; is the weight stored (in, out)? then say fan_in_fan_out"
            )
        return tuple(own if d == dim else Axis.fixed(size) for d, size in enumerate(factor.shape))

    def _move_moment(self, name: str, slot: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or (value.dim() == 0 and slot not in MOMENTS):
            return value
        if slot not in MOMENTS and self.scales:
            raise InputError(f"{name}: how the optimizer's '{slot}' scales is not known; reset it")
        return self._act({name: value}, {name: self._axes(name)}, MOMENTS.get(slot, 1))[name]

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file: permutations and scales, the spec as JSON in its metadata."""
        _require_safetensors(path)
        tensors = {f"permutation.{name}": p.to(torch.int32) for name, p in self.permutation.items()}
        tensors |= {f"scale.{name}": s.double() for name, s in self.scales.items()}
        tensors["groups"] = torch.tensor(len(self.permutation))  # a file with no tensor is not a checkpoint
        metadata = {"format": FORMAT, "spec": self.spec.to_json(), "moved": json.dumps(self.moved())}
        checkpoint.write(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Transform:
        """The transform in a file that `save` wrote; `InputError` for any other file."""
        _require_safetensors(path)
        found = checkpoint.read(path)
        if found.metadata.get("format") != FORMAT:
            raise InputError(f"{path} is not a transform; `canon align … --transform {path}` writes one")
        with reading(path, f"write it again: canon align … --transform {path}"):
            spec = PermutationSpec.from_json(found.metadata["spec"])
            parts: dict[str, dict[str, Tensor]] = {"permutation": {}, "scale": {}}
            for name, tensor in found.state.items():
                kind, _, group = name.partition(".")
                if kind in parts:
                    parts[kind][group] = _of_kind(kind, tensor)
            return cls(spec, {g: parts["permutation"][g] for g in spec.groups}, parts["scale"])


def _of_kind(kind: str, tensor: Tensor) -> Tensor:
    """A permutation as whole numbers, scales as real ones; `TypeError` for tensors of another kind."""
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    if not (whole if kind == "permutation" else tensor.is_floating_point()):
        raise TypeError(f"its {kind} is {tensor.dtype}")
    return tensor.long() if kind == "permutation" else tensor


def _require_safetensors(path: str | os.PathLike[str]) -> None:
    if not os.fspath(path).endswith(".safetensors"):
        raise InputError(f"{path}: a transform's file name ends in .safetensors")
