"""Train many networks at once; each result depends on the network's own seed, not on the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from canon.errors import InputError, WorkError
from canon.types import StateDict
from weightflow.batched.autograd import Recorded
from weightflow.batched.batch_norm import restore_statistics
from weightflow.batched.class_axes import class_table, pad_with_zeros
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.early_stopping import BestStates
from weightflow.batched.group_size import has_dropout, networks_per_group
from weightflow.batched.inference import accuracies, predict_many
from weightflow.batched.initialization import initialise
from weightflow.batched.linear_chain import LinearChainLoss, layers_of
from weightflow.batched.minibatches import Examples, mini_batches
from weightflow.batched.parameter_stack import ParameterStack
from weightflow.batched.tasks import Task
from weightflow.data.augmentation import crop_flip
from weightflow.datasets import ClassificationData
from weightflow.device import usable_device
from weightflow.networks.architectures import Architecture
from weightflow.networks.architectures.requirements import require_supported
from weightflow.networks.readout import Cosine


@dataclass(frozen=True)
class Trained:
    """Stacked networks, padded with zeros, and the number of training steps of each.

    `after` holds them as they were after each number of steps that was asked for.
    """

    state: StateDict
    steps: list[int]
    after: dict[int, StateDict] = field(default_factory=dict)


def check_inputs(architecture: Architecture, data: ClassificationData) -> None:
    """`InputError` where the architecture cannot take the data's examples, before anything is trained."""
    require_supported(architecture, data.train.inputs[torch.arange(min(2, len(data.train.inputs)))])
    wanted = architecture.readout.width
    if not architecture.has_logits and wanted is None:
        raise InputError(
            f"architecture '{architecture.name}' gives vectors to compare with text, not logits; name the "
            "encoder of the text, for instance --set readout.encoder=wordllama, or let the last layer have "
            "`classes` rows"
        )
    output = architecture.output_for(data.input_shape, f"data set '{data.name}'")
    if wanted not in (None, output.shape[-1]):
        raise InputError(
            f"architecture '{architecture.name}' gives vectors of {output.shape[-1]} numbers, the text encoder "
            f"vectors of {wanted}; set architecture.arguments.outputs={wanted}, or take another encoder"
        )


def train_many(
    architecture: Architecture,
    data: ClassificationData,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: TrainingRecipe,
    progress: Callable[[int], None] = lambda steps: None,
    start: StateDict | None = None,
    device: str | torch.device | None = None,
    after: Sequence[int] = (),
) -> Trained:
    """Train one network for each task from its own seed, beginning at `start` (stacked) where it is given.

    `after`: numbers of steps at which the networks are kept too; not with early stopping.
    `progress` is told of steps, each network's counted. Training runs on `device` (by default that of
    `computing_on`); what comes out is on the processor. Raises `WorkError` with the step where a loss
    stops being finite.
    """
    if recipe.batch_seed is not None and len({frozenset(task.classes) for task in tasks}) > 1:
        raise InputError(
            "training.batch_seed shares mini-batches among networks, but their tasks have different "
            "classes; leave it out"
        )
    check_inputs(architecture, data)
    size = 1 if has_dropout(architecture) else recipe.together or networks_per_group(architecture)
    parts = []
    for rows in torch.arange(len(tasks)).split(size):
        some = rows.tolist()
        own = [seeds[i] for i in some]
        begin = (
            {n: t[rows] for n, t in start.items()}
            if start
            else initialise(architecture, own, recipe.initialiser)
        )
        group = _Group(
            architecture, data, [tasks[i] for i in some], own, recipe, begin, usable_device(device)
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(own[0])  # for dropout: such networks are trained alone
            parts.append(group.train(progress, after))
    return Trained(
        _joined([part.state for part in parts]),
        [steps for part in parts for steps in part.steps],
        {count: _joined([part.after[count] for part in parts]) for count in parts[0].after},
    )


def train_to_each(
    architecture: Architecture,
    data: ClassificationData,
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: TrainingRecipe,
    counts: Sequence[int],
    start: StateDict,
    progress: Callable[[int], None] = lambda steps: None,
) -> dict[int, StateDict]:
    """Networks trained from `start` for each number of steps; 0 leaves them as they are.

    A seed decides the mini-batches, so with a constant learning rate the shorter trainings are the beginning of the
    longest, which is then the only one. With any other schedule, or early stopping, each is one of its own.
    """
    wanted = sorted({count for count in counts if count})
    found = {0: start} if 0 in counts else {}
    if _shorter_are_beginnings(recipe) and wanted:
        own = replace(recipe, steps=wanted[-1])
        return found | train_many(architecture, data, tasks, seeds, own, progress, start, after=wanted).after
    for count in wanted:
        own = replace(recipe, steps=count)
        found[count] = train_many(architecture, data, tasks, seeds, own, progress, start).state
    return found


def steps_to_each(recipe: TrainingRecipe, counts: Sequence[int]) -> int:
    """Steps of one network that `train_to_each` takes for these counts."""
    return max(counts, default=0) if _shorter_are_beginnings(recipe) else sum(set(counts))


def _shorter_are_beginnings(recipe: TrainingRecipe) -> bool:
    return recipe.schedule == "constant" and not recipe.patience


def _joined(parts: Sequence[StateDict]) -> StateDict:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Group:
    """A group of networks trained together; networks that stop early leave it."""

    def __init__(
        self,
        architecture: Architecture,
        data: ClassificationData,
        tasks: Sequence[Task],
        seeds: Sequence[int],
        recipe: TrainingRecipe,
        begin: StateDict,
        device: torch.device,
    ) -> None:
        self.device = device
        self.architecture, self.data, self.tasks, self.seeds = architecture, data, list(tasks), list(seeds)
        self.recipe, self.begin, self.shared = recipe, begin, recipe.batch_seed is not None
        self.layers = layers_of(architecture) if recipe.accumulate == 1 else None
        self.positions, self.mask = class_table(data, tasks, architecture.classes)
        self.text = architecture.readout.targets([task.classes for task in tasks], architecture.classes)
        used = self.positions[:, data.train.labels] >= 0
        self.places = torch.nonzero(used.any(0)).squeeze(1)
        self.rows = [torch.nonzero(own).squeeze(1) for own in used[:, self.places]]
        self.active = torch.arange(len(tasks))
        names = [n for n, parameter in architecture.build().named_parameters() if parameter.requires_grad]
        if not names:
            raise InputError(f"architecture '{architecture.name}' has no parameters that need a gradient")
        self._work_on(ParameterStack({name: begin[name].to(device) for name in names}, recipe))

    def _work_on(self, stack: ParameterStack) -> None:
        mask, text = (some[self.active].to(self.device) for some in (self.mask, self.text))
        readout = self.architecture.readout
        self.here = self.positions[self.active]
        vectors = readout.temperature * text if isinstance(readout, Cosine) else None
        self.stack = stack
        self.gradients = (
            LinearChainLoss(self.layers, stack, mask, self.shared, vectors)
            if self.layers
            else Recorded(self.architecture, stack, mask, self.shared, text, self._fixed())
        )

    def _fixed(self) -> StateDict:
        """What is not trained, of the networks that are still going."""
        names = self.architecture.shapes.keys() - self.stack.parameters.keys()
        return {name: self.begin[name][self.active].to(self.device) for name in sorted(names)}

    def train(self, progress: Callable[[int], None], after: Sequence[int] = ()) -> Trained:
        recipe, everyone = self.recipe, torch.arange(len(self.tasks))
        kept: dict[int, StateDict] = {}
        examples = Examples(self.data.train, self.places, recipe.dtype if self.layers else torch.float32)
        rows, seeds = (self.rows[:1], [recipe.batch_seed or 0]) if self.shared else (self.rows, self.seeds)
        augmenters = [torch.Generator().manual_seed(2**32 + seed) for seed in seeds]
        best = BestStates(self.begin, recipe.patience)
        for step, drawn in enumerate(mini_batches(rows, recipe.batch_size, recipe.steps, seeds)):
            index = drawn if self.shared or len(self.active) == len(drawn) else drawn[self.active]
            inputs = examples[index]
            if recipe.augment == "crop_flip":
                walking = [0] if self.shared else self.active.tolist()
                inputs = torch.stack(
                    [crop_flip(x, augmenters[i]) for i, x in zip(walking, inputs, strict=True)]
                )
            targets = self.here.gather(1, examples.labels[index].expand(len(self.active), -1))
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            losses = self.gradients(inputs[0] if self.shared else inputs, targets)
            if not math.isfinite(float(losses.sum())):
                self._lost(losses, step)
            self.stack.step(step)
            progress(len(self.active))
            if step + 1 in after and not recipe.patience:
                kept[step + 1] = pad_with_zeros(self.architecture, self._state(everyone), self.mask)
            looks = recipe.patience and (step + 1) % recipe.look_every == 0
            if looks or (recipe.patience and step + 1 == recipe.steps):
                now = self._state(self.active)
                going = best.look(self.active, now, self._validated(now), step + 1)
                if not going.all():
                    progress((recipe.steps - step - 1) * int((~going).sum()))
                    self.active = self.active[going]
                    if not len(self.active):
                        break
                    self._work_on(self.stack.keep(going.to(self.device)))
        state, steps = (
            (best.state, best.steps.tolist())
            if recipe.patience
            else (self._state(everyone), [recipe.steps] * len(everyone))
        )
        return Trained(pad_with_zeros(self.architecture, state, self.mask), steps, kept)

    def _state(self, active: Tensor) -> StateDict:
        """The current states, running statistics included."""
        now = {name: self.begin[name][active] for name in self.architecture.shapes} | {
            name: tensor.to("cpu", copy=True) for name, tensor in self.stack.parameters.items()
        }
        rows = [self.places[self.rows[i]] for i in active.tolist()]
        return restore_statistics(self.architecture, now, self.data.train, rows)

    def _validated(self, state: StateDict) -> Tensor:
        tasks, split = [self.tasks[i] for i in self.active.tolist()], self.data.validation
        predicted = predict_many(self.architecture, state, split.inputs, self.data, tasks)
        return accuracies(predicted, split.labels, self.data, tasks)

    def _lost(self, losses: Tensor, step: int) -> None:
        seed = self.seeds[int(self.active[~torch.isfinite(losses).cpu()][0])]
        raise WorkError(
            f"network {self.seeds.index(seed)} (seed {seed}): loss is not finite at step {step}; "
            "lower the learning rate"
        )
