"""Fine-tuning curves: accuracy after a few training steps from each initialization.

All starts are trained on the same tasks with the same mini-batches and the same constant learning rate.
Xavier: Glorot and Bengio 2010; Kaiming: He et al. 2015, arXiv:1502.01852; `default` is PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from canon.types import StateDict
from weightflow.batched.class_axes import class_table, pad_with_zeros
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.initialization import initialise
from weightflow.batched.tasks import Task
from weightflow.batched.training import train_to_each
from weightflow.evaluation.evaluate import evaluate_networks
from weightflow.networks.architectures import Architecture
from weightflow.zoo.store import Zoo


def xavier(architecture: Architecture, tasks: Sequence[Task], seeds: Sequence[int]) -> StateDict:
    return _drawn(architecture, tasks, seeds, nn.init.xavier_uniform_)


def kaiming(architecture: Architecture, tasks: Sequence[Task], seeds: Sequence[int]) -> StateDict:
    def fill(tensor: Tensor, generator: torch.Generator) -> Tensor:
        return nn.init.kaiming_uniform_(tensor, nonlinearity="relu", generator=generator)

    return _drawn(architecture, tasks, seeds, fill)


def default(architecture: Architecture, tasks: Sequence[Task], seeds: Sequence[int]) -> StateDict:
    return _padded(architecture, initialise(architecture, seeds), tasks)


INITIALISATIONS: dict[str, Callable[[Architecture, Sequence[Task], Sequence[int]], StateDict]] = {
    "xavier": xavier,
    "kaiming": kaiming,
    "default": default,
}


def _drawn(
    architecture: Architecture, tasks: Sequence[Task], seeds: Sequence[int], fill: Callable[..., Tensor]
) -> StateDict:
    """PyTorch's initialisation with weights redrawn by `fill` and biases at zero; norms stay as they are."""
    state = initialise(architecture, seeds)
    with torch.device("meta"):
        module = architecture.build()
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    kinds = {name: isinstance(part, layers) for name, part in module.named_modules()}
    for name, tensor in state.items():
        owner, _, kind = name.rpartition(".")
        if not kinds.get(owner):
            continue
        for network, seed in zip(tensor, seeds, strict=True):
            if kind == "weight":
                fill(network, generator=torch.Generator().manual_seed(seed))
            else:
                network.zero_()
    return _padded(architecture, state, tasks)


def _padded(architecture: Architecture, state: StateDict, tasks: Sequence[Task]) -> StateDict:
    data = tasks[0].data
    return pad_with_zeros(architecture, state, class_table(data, tasks, architecture.classes)[1])


def zoo_recipe(zoo: Zoo, **changes: Any) -> TrainingRecipe:
    """How the zoo's own networks were trained, at a constant learning rate; the default where it is not said."""
    return replace(
        zoo.training_recipe or TrainingRecipe(), **{"schedule": "constant", "patience": 0, **changes}
    )


def curve(
    architecture: Architecture,
    start: StateDict,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: TrainingRecipe,
    steps: Sequence[int],
) -> dict[int, Float[Tensor, " networks"]]:
    """Test accuracy of each network after each number of steps."""
    data = tasks[0].data
    trained = train_to_each(architecture, data, tasks, seeds, recipe, steps, start)
    return {count: evaluate_networks(architecture, trained[count], tasks).accuracy for count in steps}
