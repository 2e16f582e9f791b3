"""The forward pass of one module, mapped over stacked networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from canon.tracing.exported_graph import without_fused_attention
from canon.types import StateDict

Forward = Callable[[StateDict, Tensor], Tensor]
"""Stacked states and inputs to outputs, all with the networks first."""


def over_networks(skeleton: nn.Module, *, shared: bool = False) -> Forward:
    """`skeleton` as a function of stacked states and of inputs, the same for all networks with `shared`.

    Networks are computed together (`torch.func.vmap`), and one after another where an operation of the module cannot
    be: recurrent layers, decisions by the values of a tensor. Both have gradients.
    """
    mapped = vmap(partial(call, skeleton), in_dims=(0, None if shared else 0))
    together = True

    def forward(state: StateDict, inputs: Tensor) -> Tensor:
        nonlocal together
        if together:
            try:
                with sdpa_kernel(
                    SDPBackend.MATH
                ):  # the only one that is computed for several networks at once
                    return mapped(state, inputs)
            except RuntimeError as error:
                if not _cannot_be_mapped(error):
                    raise
                together = False
        count = len(next(iter(state.values())))
        rows = ({name: tensor[n] for name, tensor in state.items()} for n in range(count))
        return torch.stack(
            [call(skeleton, row, inputs if shared else inputs[n]) for n, row in enumerate(rows)]
        )

    return forward


def call(skeleton: nn.Module, state: StateDict, inputs: Tensor) -> Tensor:
    """The outputs of one network."""
    with without_fused_attention():  # it has no derivative
        return functional_call(skeleton, state, (inputs,))


def _cannot_be_mapped(error: RuntimeError) -> bool:
    return any(word in str(error) for word in ("atching rule", "vmap", "functorch"))
