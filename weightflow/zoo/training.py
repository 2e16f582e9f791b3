"""Train many networks at once: stacked parameters, one vmapped forward pass.

Every optimizer used here works element by element, so that one step on the sum of the networks'
losses is one step of each network. Each network draws its initialisation and its mini-batches from
its own seed: what it becomes does not depend on its neighbours, nor on how many are trained together.

Batch norm uses the batch's own statistics in training; the running ones are estimated afterwards, from
training examples of the network's own classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, replace_all_batch_norm_modules_, stack_module_state, vmap

from canon.errors import InputError, WorkError
from canon.statistics import reestimate_batch_norm
from weightflow.architectures import Architecture
from weightflow.datasets import ClassificationData
from weightflow.names import pick
from weightflow.zoo.tasks import Task

State = dict[str, Tensor]

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
SCHEDULES = ("cosine", "constant")

# What `benchmarks/populations.py` measured on a processor: matrix products of small layers gain from
# company until they fill the cache; convolutions and attention are faster alone.
IN_COMPANY = frozenset({"mlp", "linear_head", "adapter"})
SMALL = 20_000


def together(architecture: Architecture) -> int:
    """How many networks of this architecture are best run at once."""
    if architecture.name not in IN_COMPANY:
        return 1
    return 250 if architecture.parameters <= SMALL else 32


@dataclass(frozen=True)
class TrainingRecipe:
    """How each network is trained. `steps` counts mini-batches.

    `schedule`: the learning rate ends at zero (cosine) or stays (constant). `clip`: largest norm of a
    network's gradient, 0 for none. `batch_seed`: one stream of mini-batches for all networks, where all
    have the same classes; without it each walks its own. `together`: networks trained at once, 0 for
    what was measured to be fast.
    """

    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "cosine"
    clip: float = 0.0
    batch_seed: int | None = None
    together: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(f"training: steps {self.steps} and batch_size {self.batch_size} are at least 1")
        pick(OPTIMIZERS, self.optimizer, "optimizer")
        pick({name: name for name in SCHEDULES}, self.schedule, "schedule")


def initialise(architecture: Architecture, seeds: Sequence[int]) -> State:
    """PyTorch's own initialisation of each network from its own seed, stacked."""
    modules = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            # torch.manual_seed would note a stack trace for every accelerator, slower than the building
            torch.default_generator.manual_seed(seed)
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
    """A function of stacked states and inputs (networks, batch, *shape) to outputs (networks, batch, ...).

    `architecture.readout` makes scores of classes out of them.
    """
    skeleton = architecture.build().to("meta").eval()
    return vmap(lambda state, inputs: functional_call(skeleton, state, (inputs,)))


def _training_forward(
    architecture: Architecture, networks: int, shared: bool
) -> Callable[[State, Tensor], Tensor]:
    """As `forward_many`, batch norm by the batch's statistics; `shared` inputs are (batch, *shape)."""
    skeleton = replace_all_batch_norm_modules_(architecture.build().to("meta")).train()

    def one(state: State, inputs: Tensor) -> Tensor:
        return functional_call(skeleton, state, (inputs,))

    if networks == 1:  # no vmap: its batched kernels are slower for one
        return lambda state, inputs: one(
            {name: tensor[0] for name, tensor in state.items()}, inputs if shared else inputs[0]
        ).unsqueeze(0)
    return vmap(one, in_dims=(0, None if shared else 0))


def masked_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each network (networks,) over the logits that its task has."""
    log_p = logits.masked_fill(~mask.unsqueeze(1), -torch.inf).log_softmax(-1)
    loss = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        uniform = log_p.masked_fill(~mask.unsqueeze(1), 0).sum(-1) / mask.sum(-1, keepdim=True)
        loss = (1 - smoothing) * loss - smoothing * uniform
    return loss.mean(dim=1)


def mini_batches(
    rows: Sequence[Tensor], batch_size: int, steps: int, seeds: Sequence[int], block: int = 64
) -> Iterator[Tensor]:
    """Indices (networks, batch_size): each network walks shuffled epochs of its own rows.

    They are drawn for `block` steps at a time: step by step, drawing for many networks would take longer
    than training them.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    streams = [torch.empty(0, dtype=torch.long) for _ in seeds]
    for start in range(0, steps, block):
        wanted = min(block, steps - start) * batch_size
        drawn = []
        for i, own in enumerate(rows):
            parts, count = [streams[i]], len(streams[i])
            while count < wanted:
                parts.append(own[torch.randperm(len(own), generator=generators[i])])
                count += len(own)
            stream = torch.cat(parts)
            drawn.append(stream[:wanted])
            streams[i] = stream[wanted:]
        yield from torch.stack(drawn).split(batch_size, dim=1)


def check_inputs(architecture: Architecture, data: ClassificationData) -> None:
    """`InputError` where the architecture cannot take the data's examples, before anything is trained."""
    wanted = architecture.readout.width
    if not architecture.has_logits and wanted is None:
        raise InputError(
            f"architecture '{architecture.name}' gives vectors to compare with text, not logits; name the "
            "encoder of the text, for instance readout.encoder=wordllama"
        )
    skeleton = architecture.build().to("meta").eval()
    try:
        with torch.no_grad():
            output = skeleton(torch.empty(2, *data.input_shape, device="meta"))
    except RuntimeError as error:
        raise InputError(
            f"architecture '{architecture.name}' with {dict(architecture.arguments)} cannot take examples of "
            f"shape {tuple(data.input_shape)} of data set '{data.name}': {str(error).splitlines()[0]}; "
            "set its arguments to fit, or choose other data"
        ) from None
    if wanted not in (None, output.shape[-1]):
        raise InputError(
            f"architecture '{architecture.name}' gives vectors of {output.shape[-1]} numbers, the text encoder "
            f"'{architecture.readout.to_dict()['readout']['encoder']}' vectors of {wanted}; set "
            f"architecture.arguments.outputs={wanted}"
        )


def train_many(
    architecture: Architecture,
    data: ClassificationData,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: TrainingRecipe,
    progress: Callable[[int], None] = lambda steps: None,
    start: State | None = None,
) -> State:
    """Train one network for each task from its own seed; returns stacked parameters, padded with zeros.

    They begin at `start` (stacked) where it is given. `progress` is told of steps, each network's counted.
    Raises `WorkError` with the step where a loss stops being finite.
    """
    if recipe.batch_seed is not None and len({frozenset(task.classes) for task in tasks}) > 1:
        raise InputError(
            "training.batch_seed shares mini-batches among networks, but their tasks have different "
            "classes; leave it out"
        )
    check_inputs(architecture, data)
    parts = []
    for rows in torch.arange(len(tasks)).split(recipe.together or together(architecture)):
        some = rows.tolist()
        own = [seeds[i] for i in some]
        begin = {n: t[rows] for n, t in start.items()} if start else initialise(architecture, own)
        parts.append(_train_group(architecture, data, [tasks[i] for i in some], own, recipe, progress, begin))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _train_group(
    architecture: Architecture,
    data: ClassificationData,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: TrainingRecipe,
    progress: Callable[[int], None],
    begin: State,
) -> State:
    positions, mask = class_table(data, tasks, architecture.classes)
    text = architecture.readout.targets([task.classes for task in tasks], architecture.classes)
    shared = recipe.batch_seed is not None
    names = dict(architecture.build().named_parameters())
    state = {name: begin[name].clone().requires_grad_() for name in names}
    forward = _training_forward(architecture, len(tasks), shared)
    optimizer = _optimizer(recipe, list(state.values()))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    rows = [torch.nonzero(positions[i][data.train.labels] >= 0).squeeze(1) for i in range(len(tasks))]
    streams, stream_seeds = (rows[:1], [recipe.batch_seed or 0]) if shared else (rows, seeds)
    for step, index in enumerate(mini_batches(streams, recipe.batch_size, recipe.steps, stream_seeds)):
        targets = positions.gather(1, data.train.labels[index].expand(len(tasks), -1))
        output = forward(state, data.train.inputs[index[0] if shared else index])
        logits = architecture.readout.scores(output, text)
        losses = masked_cross_entropy(logits, targets, mask, recipe.label_smoothing)
        if not torch.isfinite(losses).all():
            lost = int(torch.nonzero(~torch.isfinite(losses))[0])
            raise WorkError(
                f"network {lost} (seed {seeds[lost]}): loss is not finite at step {step}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if recipe.clip:
            _clip(list(state.values()), recipe.clip)
        optimizer.step()
        if recipe.schedule == "cosine":
            schedule.step()
        progress(len(tasks))
    trained = {name: state[name].detach() if name in state else begin[name] for name in architecture.shapes}
    return pad_with_zeros(architecture, restore_statistics(architecture, trained, data, rows), mask)


def _optimizer(recipe: TrainingRecipe, tensors: list[Tensor]) -> torch.optim.Optimizer:
    more = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
    return OPTIMIZERS[recipe.optimizer](
        tensors, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True, **more
    )


def _clip(tensors: Sequence[Tensor], largest: float) -> None:
    """Scale each network's gradient (first axis) to a norm of at most `largest`."""
    gradients = [t.grad for t in tensors if t.grad is not None]
    norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0).sqrt()
    scale = (largest / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))


def restore_statistics(
    architecture: Architecture,
    state: State,
    data: ClassificationData,
    rows: Sequence[Tensor],
    examples: int = 2048,
    batch: int = 256,
) -> State:
    """Running statistics of each stacked network from up to `examples` of its training rows.

    Networks without batch norm come back as they are.
    """
    if not architecture.has_statistics:
        return state
    module, found = architecture.build(), []
    for network, own in enumerate(rows):
        # evenly spaced: rows are sorted by place in the file, which may mean by class
        picked = own[torch.linspace(0, len(own) - 1, min(len(own), examples)).long()]
        order = torch.randperm(len(picked), generator=torch.Generator().manual_seed(0))
        batches = picked[order].split(batch)
        single = {name: tensor[network] for name, tensor in state.items()}
        inputs = [data.train.inputs[b] for b in batches]
        found.append(reestimate_batch_norm(module, single, partial(iter, inputs)))
    return {name: torch.stack([one[name] for one in found]) for name in state}


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
