"""A trained network plus noise: what most weight generators lose to (Zeng et al. 2025, arXiv:2506.07998)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.class_axes import pad_with_zeros
from weightflow.batched.tasks import Task
from weightflow.evaluation.baselines.errors import Inapplicable
from weightflow.evaluation.baselines.retrieval import nearest_rows
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.novelty import spacing


def noise(context: EvaluationContext, tasks: Sequence[Task], seed: int, size: float) -> StateDict:
    """`nearest_rows` with Gaussian noise of standard deviation `size`, in units of the weights."""
    generator = torch.Generator().manual_seed(seed)

    def noisy(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        return tensor + size * torch.randn(tensor.shape, generator=generator)

    architecture = context.zoo.architecture
    state = {name: noisy(tensor) for name, tensor in nearest_rows(context, tasks, seed).items()}
    mask = torch.stack([torch.arange(architecture.classes) < len(task.classes) for task in tasks])
    return pad_with_zeros(architecture, state, mask)


def noise_as_wide_as_the_zoo(context: EvaluationContext, tasks: Sequence[Task], seed: int) -> StateDict:
    """Noise of the size of the distance between training networks: as novel as a new network."""
    if not context.is_canonical:
        raise Inapplicable("distances need a canonical zoo")
    return noise(context, tasks, seed, spacing(context))
