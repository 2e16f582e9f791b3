"""How many networks to run at once, as measured by `benchmarks/populations.py` on a CPU."""

from __future__ import annotations

import torch
from torch import nn

from weightflow.networks.architectures import Architecture

# Batched matrix products of small layers are faster until they fill the cache; convolutions and attention
# are faster alone.
IN_COMPANY = frozenset({"mlp", "linear_head", "adapter"})
# what fits into the cache beside the examples of a mini-batch, by the number of parameters
COMPANY = {3_000: 250, 20_000: 64}
MANY = 25


def networks_per_group(architecture: Architecture) -> int:
    """How many networks of this architecture are best run at once."""
    if architecture.name not in IN_COMPANY:
        return 1
    return next((count for most, count in COMPANY.items() if architecture.parameters <= most), MANY)


def has_dropout(architecture: Architecture) -> bool:
    """Whether it draws random numbers in training: those of a population would depend on its size."""
    with torch.device("meta"):
        return any(isinstance(part, nn.Dropout) for part in architecture.build().modules())
