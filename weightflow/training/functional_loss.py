"""Functional loss: the predicted clean network is decoded and run on images of its task.

Squared error weighs every weight alike; this term weighs what the network does. Images are training
images of the classes in the network's own task, drawn afresh at every step, all networks of the batch
in one vmapped forward pass. Held-out losses use validation images. Test images have no way in here.

Training images can be mixed with each other: a backbone separates the classes of images that it was trained on
better than those of new ones, and a mixed image lies nearer to other classes (mixup, Zhang et al. 2018,
arXiv:1710.09412, with the label of the image that counts more).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from canon.errors import InputError
from weightflow.batched.class_axes import class_table, masked_cross_entropy
from weightflow.batched.inference import forward_many
from weightflow.batched.tasks import Task
from weightflow.datasets import ClassificationData, Split
from weightflow.flow.draws import NoiseDraws
from weightflow.representation import Coordinates


@dataclass(frozen=True)
class BehaviourConfig:
    """`weight` of the cross-entropy (0 switches it off), `images` a network and step; the term is
    multiplied by t ** `power`. Each training image is replaced by its weighted mean with another one of its task, whose
    weight is drawn between 0 and `mix`; the label stays. Words, which have no mean, are left as they are.

    `sampled`: for which share of each batch behaviour is that of networks generated from noise under its
    prompts, and not of the predictions that the weights are compared with. `beyond`: how many tasks that
    the zoo does not have join each batch, a share of its size; their networks are generated from noise too.
    Generating takes up to `sampled_steps` and `beyond_steps` steps. `invented` is the share of the classes of these
    tasks that are means of two known classes, of their words and of their examples, with weights from 0.3 to 0.7.

    With `group` of 2 or more, so many networks are generated for each prompt of the sampled share and of `beyond`,
    in one step, and `ensemble` (a share of the cross-entropy), `energy` and `straight` (weights) are as in
    `training/sampled_loss.py`.
    """

    weight: float = 0.3
    images: int = 64
    mix: float = 0.0
    power: float = 0.0
    sampled: float = 0.0
    sampled_steps: int = 4
    beyond: float = 0.0
    beyond_steps: int = 1
    invented: float = 0.0
    group: int = 1
    ensemble: float = 0.0
    energy: float = 0.0
    straight: float = 0.0

    def __post_init__(self) -> None:
        if self.weight < 0 or self.images < 1:
            raise InputError(f"behaviour: weight {self.weight} and images {self.images} must be positive")
        if not 0 <= self.mix <= 0.5:
            raise InputError(
                f"behaviour.mix is {self.mix}; it is a share from 0 to 0.5, beyond which the label is of the lesser part"
            )
        if self.beyond < 0 or self.beyond_steps < 1:
            raise InputError(
                f"behaviour: beyond {self.beyond} must not be negative, beyond_steps {self.beyond_steps} at least 1"
            )
        if not 0 <= self.invented <= 1:
            raise InputError(f"behaviour.invented is {self.invented}; it is a share from 0 to 1")
        if self.invented and not self.beyond:
            raise InputError(
                "behaviour.invented is of the tasks that the zoo does not have: set behaviour.beyond above 0"
            )
        if not 0 <= self.sampled <= 1 or self.sampled_steps < 1:
            raise InputError(
                f"behaviour: sampled {self.sampled} is a share, sampled_steps {self.sampled_steps} at least 1"
            )
        if self.sampled and not self.weight:
            raise InputError(
                "behaviour.sampled needs behaviour: set behaviour.weight above 0, or sampled to 0"
            )
        if self.beyond and not self.weight:
            raise InputError("behaviour.beyond needs behaviour: set behaviour.weight above 0, or beyond to 0")
        if self.group < 1 or not 0 <= self.ensemble <= 1 or self.energy < 0 or self.straight < 0:
            raise InputError(
                f"behaviour: group {self.group} is at least 1, ensemble {self.ensemble} a share, energy "
                f"{self.energy} and straight {self.straight} not negative"
            )
        if self.group == 1 and (self.ensemble or self.energy or self.straight):
            raise InputError(
                "behaviour: ensemble, energy and straight are of several networks of a prompt; set "
                "behaviour.group to 2 or more"
            )
        if self.group > 1 and not self.sampled:
            raise InputError("behaviour.group is of sampled networks: set behaviour.sampled above 0")


@dataclass(frozen=True)
class Partners:
    """Of invented classes: examples of a label are mixed with random ones of another `label` (tasks, labels of the data;
    -1 where they are not), which weighs `share` (tasks, labels)."""

    label: Tensor
    share: Tensor


class FunctionalLoss:
    """Cross-entropy (networks,) of decoded networks on random examples of their tasks."""

    def __init__(
        self,
        coordinates: Coordinates,
        data: ClassificationData,
        images: int,
        mix: float = 0.0,
    ) -> None:
        self.coordinates, self.data, self.images = coordinates, data, images
        self.mix = mix if coordinates.architecture.example(1).is_floating_point() else 0.0
        self._forward = forward_many(coordinates.architecture)
        self._readout = coordinates.architecture.readout
        self._rows = {
            split: _rows_of_classes(split, len(data.class_names)) for split in (data.train, data.validation)
        }

    def labels(self, tasks: Sequence[Task]) -> Tensor:
        """Logit of each label of the data (tasks, labels), -1 where it is in no class of the task."""
        return class_table(self.data, tasks, self.coordinates.architecture.classes)[0]

    def loss(
        self,
        z: Float[Tensor, "networks tokens width"],
        labels: Tensor,
        present: Tensor,
        split: Split,
        draws: NoiseDraws,
        partners: Partners | None = None,
    ) -> Float[Tensor, " networks"]:
        targets, inputs = self.examples(labels, split, draws, partners)
        return masked_cross_entropy(self._scores(z, present, labels, inputs), targets, present)

    def examples(
        self, labels: Tensor, split: Split, draws: NoiseDraws, partners: Partners | None = None
    ) -> tuple[Tensor, Tensor]:
        """Random examples of each task, whose `labels` are on the processor: targets (tasks, images), which are logits, and inputs
        (tasks, images, *shape)."""
        rows, counts = self._rows[split]
        own = (labels < 0).long().argsort(dim=1, stable=True)  # labels of the task first
        chosen = draws.on_processor
        place = chosen.uniform(len(labels), self.images) * (labels >= 0).sum(1, keepdim=True)
        wanted = own.gather(1, place.long())
        targets = labels.gather(1, wanted)
        place = (chosen.uniform(*wanted.shape) * counts[wanted]).long()
        inputs = split.inputs[rows[wanted, place]]
        if partners is not None:
            label, share = partners.label.gather(1, wanted), partners.share.gather(1, wanted)
            place = (chosen.uniform(*wanted.shape) * counts[label.clamp(min=0)]).long()
            inputs = _towards(inputs, split.inputs[rows[label.clamp(min=0), place]], share)
        if self.mix and split is self.data.train:
            other = (chosen.uniform(*wanted.shape) * self.images).long()
            others = inputs[torch.arange(len(inputs)).unsqueeze(1), other]
            inputs = _towards(inputs, others, self.mix * chosen.uniform(*wanted.shape))
        return draws.put(targets), draws.put(inputs)

    def log_probabilities(
        self,
        z: Float[Tensor, "networks tokens width"],
        present: Tensor,
        labels: Tensor,
        inputs: Tensor,
    ) -> Float[Tensor, "networks images classes"]:
        """Of each class that a network's task has; very small for the others."""
        scores = self._scores(z, present, labels, inputs)
        # finite: gradients through minus infinity are not numbers
        return scores.masked_fill(~present.unsqueeze(1), -1e9).log_softmax(-1)

    def _scores(self, z: Tensor, present: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        output = self._forward(self.coordinates.decode(z, present), inputs)
        return self._readout.scores(output, self._text(labels, present).to(output.device))

    def _text(self, labels: Tensor, present: Tensor) -> Tensor:
        if self._readout.width is None:
            return self._readout.targets([()] * len(labels), present.shape[1])
        names = self.data.class_names
        tasks = [[names[i] for i in sorted(_in(row), key=row.__getitem__)] for row in labels.tolist()]
        return self._readout.targets(tasks, present.shape[1])


def _towards(values: Float[Tensor, "tasks images ..."], others: Tensor, share: Tensor) -> Tensor:
    return values.lerp(others, share.view(*share.shape, *(1 for _ in values.shape[2:])))


def _in(row: Sequence[int]) -> list[int]:
    return [label for label, logit in enumerate(row) if logit >= 0]


def _rows_of_classes(split: Split, classes: int) -> tuple[Tensor, Tensor]:
    rows = [torch.nonzero(split.labels == label).squeeze(1) for label in range(classes)]
    return pad_sequence(rows, batch_first=True), torch.tensor([len(own) for own in rows])
