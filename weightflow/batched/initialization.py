"""Initialization of networks: PyTorch's default, or He's (He et al. 2015, arXiv:1502.01852)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.func import stack_module_state

from canon.types import StateDict
from weightflow.networks.architectures import Architecture


def initialise(architecture: Architecture, seeds: Sequence[int], initialiser: str = "pytorch") -> StateDict:
    """Each network from its own seed, stacked. `he_uniform`: biases of linear layers start at zero."""
    modules = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            # torch.manual_seed records a stack trace for each accelerator, which takes longer than building the network
            torch.default_generator.manual_seed(seed)
            modules.append(architecture.build())
            if initialiser == "he_uniform":
                modules[-1].apply(_he_uniform)
    parameters, buffers = stack_module_state(modules)
    stacked = {**parameters, **buffers}
    return {name: stacked[name].detach().clone() for name in architecture.shapes}


def _he_uniform(part: nn.Module) -> None:
    if isinstance(part, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_uniform_(part.weight, nonlinearity="relu")
        if part.bias is not None:
            nn.init.zeros_(part.bias)
