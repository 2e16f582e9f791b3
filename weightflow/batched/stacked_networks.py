"""Many networks of one architecture as one object: stacked tensors, and the classes of each network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from torch import Tensor, nn

from canon.errors import InputError
from canon.types import StateDict
from weightflow.batched.inference import forward_many
from weightflow.batched.tasks import Task
from weightflow.networks.architectures import Architecture


@dataclass(frozen=True, repr=False)
class StackedNetworks(Sequence[StateDict]):
    """Networks of one architecture, stacked along a first axis and padded with zeros to one number of logits.

    An item is one network's plain `state_dict`, trimmed to its own classes; a slice is again a stack.

    Args:
        state: Tensors (networks, \\*shape) by the names of the architecture's parameters and buffers.
        tasks: The data set and the classes, in logit order, of each network.
        architecture: What builds the module for any number of classes.

    Example:
        >>> import torch, weightflow
        >>> from weightflow.networks.architectures import Architecture
        >>> net = Architecture("mlp", {"inputs": 4, "hidden": [3]}, (4,), classes=3)
        >>> state = {name: torch.zeros(2, *shape) for name, shape in net.shapes.items()}
        >>> tasks = [weightflow.Task("iris", ("setosa", "virginica"))] * 2
        >>> nets = weightflow.StackedNetworks(state, tasks, net)
        >>> nets
        StackedNetworks(2 networks, mlp, 27 parameters, 2 classes)
        >>> nets.module(0)(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """

    state: StateDict
    tasks: Sequence[Task]
    architecture: Architecture

    def __post_init__(self) -> None:
        for name, shape in self.architecture.shapes.items():
            found = tuple(self.state[name].shape) if name in self.state else None
            if found != (len(self.tasks), *shape):
                raise InputError(
                    f"stacked networks: {name} is {found}; {len(self.tasks)} networks of "
                    f"'{self.architecture.name}' have {(len(self.tasks), *shape)}"
                )

    def __len__(self) -> int:
        return len(self.tasks)

    @overload
    def __getitem__(self, index: int) -> StateDict: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int]) -> StackedNetworks: ...

    def __getitem__(self, index: int | slice | Sequence[int]) -> StateDict | StackedNetworks:
        if isinstance(index, int):
            row = range(len(self))[index]
            one = {name: tensor[row] for name, tensor in self.state.items()}
            return self.architecture.trim(one, len(self.tasks[row].classes))
        rows = list(range(len(self))[index] if isinstance(index, slice) else index)
        state = {name: tensor[rows] for name, tensor in self.state.items()}
        return StackedNetworks(state, [self.tasks[row] for row in rows], self.architecture)

    def __iter__(self) -> Iterator[StateDict]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        sizes = sorted({len(task.classes) for task in self.tasks})
        logits = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}" if sizes else "0"
        return (
            f"StackedNetworks({len(self)} networks, {self.architecture.name}, "
            f"{self.architecture.parameters} parameters, {logits} classes)"
        )

    def module(self, row: int) -> nn.Module:
        """One network as a plain module in evaluation mode: preprocessed inputs in, one logit a class out."""
        module = self.architecture.build(len(self.tasks[row].classes))
        module.load_state_dict(self[row])
        return module.eval()

    @cached_property
    def mask(self) -> Tensor:
        """Which logits each network has: (networks, classes of the architecture), true where in use."""
        sizes = torch.tensor([len(task.classes) for task in self.tasks])
        return torch.arange(self.architecture.classes) < sizes[:, None]

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs of all networks in one vectorized pass.

        Args:
            inputs: Preprocessed examples (examples, \\*input_shape), the same for all networks.

        Returns:
            (networks, examples, logits), minus infinity at logits that a network does not have.
        """
        every = inputs.unsqueeze(0).expand(len(self), *inputs.shape)
        outputs = forward_many(self.architecture)(self.state, every)
        if not self.architecture.has_logits:
            return outputs
        return outputs.masked_fill(~self.mask.unsqueeze(1), -torch.inf)
