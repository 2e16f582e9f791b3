"""Train many networks at once: stacked parameters, one vmapped forward pass.

Every optimizer used here works element by element, so that one step on the sum of the networks'
losses is one step of each network. Each network draws its initialisation and its mini-batches from
its own seed: what it becomes does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from canon.errors import InputError, WorkError
from weightflow.architectures import Architecture
from weightflow.datasets import ClassificationData
from weightflow.zoo.tasks import Task

State = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingRecipe:
    """How each network is trained. `steps` counts mini-batches, the learning rate ends at zero (cosine)."""

    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0


def initialise(architecture: Architecture, seeds: Sequence[int]) -> State:
    """PyTorch's own initialisation of each network from its own seed, stacked."""
    modules = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            modules.append(architecture.build())
    parameters, buffers = stack_module_state(modules)
    stacked = {**parameters, **buffers}
    return {name: stacked[name].detach().clone() for name in architecture.shapes}


def class_table(data: ClassificationData, tasks: Sequence[Task], classes: int) -> tuple[Tensor, Tensor]:
    """Where each label of the data stands among a task's logits, and which logits it has.

    Returns positions (networks, labels of the data), -1 for labels that are not in the task, and a
    mask (networks, classes), true for logits in use.
    """
    positions = torch.full((len(tasks), len(data.class_names)), -1)
    mask = torch.zeros(len(tasks), classes, dtype=torch.bool)
    for row, task in enumerate(tasks):
        if len(task.classes) > classes:
            raise InputError(f"a task of {len(task.classes)} classes; the architecture has {classes} logits")
        positions[row, data.class_index(task.classes)] = torch.arange(len(task.classes))
        mask[row, : len(task.classes)] = True
    return positions, mask


def forward_many(architecture: Architecture) -> Callable[[State, Tensor], Tensor]:
    """A function of stacked states and inputs (networks, batch, *shape) to logits (networks, batch, classes)."""
    skeleton = architecture.build().to("meta").eval()
    return vmap(lambda state, inputs: functional_call(skeleton, state, (inputs,)))


def masked_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each network (networks,) over the logits that its task has."""
    log_p = logits.masked_fill(~mask.unsqueeze(1), -torch.inf).log_softmax(-1)
    loss = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        uniform = log_p.masked_fill(~mask.unsqueeze(1), 0).sum(-1) / mask.sum(-1, keepdim=True)
        loss = (1 - smoothing) * loss - smoothing * uniform
    return loss.mean(dim=1)


def mini_batches(
    rows: Sequence[Tensor], batch_size: int, steps: int, seeds: Sequence[int]
) -> Iterator[Tensor]:
    """Indices (networks, batch_size): each network walks shuffled epochs of its own rows."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    streams = [torch.empty(0, dtype=torch.long) for _ in seeds]
    for _ in range(steps):
        for i, own in enumerate(rows):
            while len(streams[i]) < batch_size:
                shuffled = own[torch.randperm(len(own), generator=generators[i])]
                streams[i] = torch.cat([streams[i], shuffled])
        yield torch.stack([stream[:batch_size] for stream in streams])
        streams = [stream[batch_size:] for stream in streams]


def train_many(
    architecture: Architecture,
    data: ClassificationData,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: TrainingRecipe,
    progress: Callable[[int], None] = lambda steps: None,
) -> State:
    """Train one network for each task from its own seed; returns stacked parameters, padded with zeros.

    Raises `WorkError` with the step where a loss stops being finite.
    """
    positions, mask = class_table(data, tasks, architecture.classes)
    state = initialise(architecture, seeds)
    forward = forward_many(architecture)
    optimizer = torch.optim.AdamW(
        [tensor.requires_grad_() for tensor in state.values()],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    rows = [torch.nonzero(positions[i][data.train.labels] >= 0).squeeze(1) for i in range(len(tasks))]
    for step, index in enumerate(mini_batches(rows, recipe.batch_size, recipe.steps, seeds)):
        targets = positions.gather(1, data.train.labels[index])
        logits = forward(state, data.train.inputs[index])
        losses = masked_cross_entropy(logits, targets, mask, recipe.label_smoothing)
        if not torch.isfinite(losses).all():
            lost = int(torch.nonzero(~torch.isfinite(losses))[0])
            raise WorkError(
                f"network {lost} (seed {seeds[lost]}): loss is not finite at step {step}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        schedule.step()
        progress(1)
    return pad_with_zeros(architecture, {name: t.detach() for name, t in state.items()}, mask)


def pad_with_zeros(architecture: Architecture, state: State, mask: Tensor) -> State:
    """Zero the entries of logits that a network does not have; `mask` is (networks, classes)."""
    padded = {}
    for name, tensor in state.items():
        if name in architecture.class_axes:
            shape = [len(mask)] + [1] * (tensor.dim() - 1)
            shape[architecture.class_axes[name] + 1] = -1
            tensor = tensor * mask.view(shape)
        padded[name] = tensor
    return padded
