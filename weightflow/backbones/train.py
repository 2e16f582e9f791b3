"""Train a backbone on a data set's training images, some classes kept from it where it is asked.

Random crops and flips, SGD with Nesterov's momentum, one cycle of the learning rate (Smith & Topin,
arXiv:1708.07120). Processors multiply in bfloat16 twice as fast; weights and their updates stay float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from canon.errors import InputError, WorkError
from weightflow.architectures import Architecture
from weightflow.backbones import BackboneCard, write_backbone
from weightflow.datasets import ClassificationData, Split, StoredInputs
from weightflow.names import pick

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class BackboneRecipe:
    """`crop`: pixels of padding before a random crop; `learning_rate`: the largest of the cycle."""

    architecture: str = "resnet"
    arguments: dict = field(  # type: ignore[type-arg]
        default_factory=lambda: {"widths": [64, 128, 256, 512], "blocks": 1, "stem_stride": 2}
    )
    epochs: int = 16
    batch_size: int = 128
    learning_rate: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    crop: int = 4
    flip: bool = True
    precision: str = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        pick(PRECISIONS, self.precision, "precision")
        if min(self.epochs, self.batch_size) < 1 or self.crop < 0:
            raise InputError(
                f"backbone: epochs {self.epochs} and batch_size {self.batch_size} are at least 1, "
                f"crop {self.crop} at least 0"
            )


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch: the mean training loss and the validation accuracy, a fraction."""

    number: int
    loss: float
    accuracy: float


def train_backbone(
    data: ClassificationData,
    recipe: BackboneRecipe,
    path: Path,
    excluded: Sequence[str] = (),
    on_step: Callable[[int, str], None] = lambda steps, note: None,
) -> Epoch:
    """Train and write `path`; a last layer of all classes but `excluded` stays in the file.

    Validation accuracy decides nothing; test images are not opened. Raises `InputError` where the data
    are no images, `WorkError` where the loss stops being finite.
    """
    if not isinstance(data.train.inputs, StoredInputs) or len(data.input_shape) != 3:
        raise InputError(
            f"data set '{data.name}' has examples of shape {data.input_shape}; a backbone learns from images"
        )
    left_out = set(data.class_index(excluded))
    names = [name for index, name in enumerate(data.class_names) if index not in left_out]
    if len(names) < 2:
        raise InputError(f"{len(names)} classes of '{data.name}' are left; a backbone needs two or more")
    label_of = torch.full((len(data.class_names),), -1)
    label_of[data.class_index(names)] = torch.arange(len(names))
    architecture = Architecture(recipe.architecture, recipe.arguments, data.input_shape, len(names))
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        module = architecture.build().to(memory_format=torch.channels_last)
    steps = steps_of(data, recipe, excluded)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    rows = _rows_of(data.train, label_of)
    for number in range(recipe.epochs):
        total, count = 0.0, 0
        module.train()
        for images, labels in _batches(data.train, rows, recipe, generator):
            with _precision(recipe):
                logits = module(images)
            loss = loss_of(logits.float(), label_of[labels])
            if not loss.isfinite():
                raise WorkError(f"the backbone's loss is not finite in epoch {number}; lower learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            cycle.step()
            total, count = total + loss.item(), count + 1
            on_step(1, "")
        epoch = Epoch(number + 1, total / count, _accuracy(module, data.validation, label_of, recipe))
        on_step(0, f"epoch {epoch.number}: loss {epoch.loss:.3f}, validation {100 * epoch.accuracy:.1f} %")
    card = BackboneCard(
        data.preprocessing, trained_on=data.name, excluded=tuple(excluded), recipe=asdict(recipe)
    )
    more = {"architecture": architecture.to_json(), "classes": json.dumps(names)}
    write_backbone(path, module.state_dict(), card, more)
    return epoch


def steps_of(data: ClassificationData, recipe: BackboneRecipe, excluded: Sequence[str] = ()) -> int:
    """How many mini-batches the training takes."""
    kept = ~torch.isin(data.train.labels, torch.tensor(data.class_index(excluded)))
    return recipe.epochs * max(1, int(kept.sum()) // recipe.batch_size)


def _rows_of(split: Split, label_of: Tensor) -> Tensor:
    return torch.nonzero(label_of[split.labels] >= 0).squeeze(1)


def _precision(recipe: BackboneRecipe) -> torch.autocast:
    wanted = PRECISIONS[recipe.precision]
    return torch.autocast("cpu", torch.bfloat16, enabled=wanted is torch.bfloat16)


def _batches(
    split: Split, rows: Tensor, recipe: BackboneRecipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    order = rows[torch.randperm(len(rows), generator=generator)]
    for index in order.split(recipe.batch_size)[: max(1, len(rows) // recipe.batch_size)]:
        images = augmented(split.inputs[index], recipe.crop, recipe.flip, generator)
        yield images.contiguous(memory_format=torch.channels_last), split.labels[index]


def augmented(images: Tensor, crop: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image (examples, channels, height, width) moved by up to `crop` pixels and turned over or not."""
    count, _, height, width = images.shape
    if crop:
        padded = nn.functional.pad(images, (crop,) * 4)
        move = torch.randint(0, 2 * crop + 1, (2, count, 1), generator=generator)
        down = (move[0] + torch.arange(height)).unsqueeze(2)
        right = (move[1] + torch.arange(width)).unsqueeze(1)
        images = padded[torch.arange(count)[:, None, None], :, down, right].permute(0, 3, 1, 2)
    if flip:
        turned = torch.rand(count, generator=generator) < 0.5
        images = torch.where(turned.view(-1, 1, 1, 1), images.flip(3), images)
    return images


@torch.no_grad()
def _accuracy(module: nn.Module, split: Split, label_of: Tensor, recipe: BackboneRecipe) -> float:
    module.eval()
    right, rows = 0, _rows_of(split, label_of)
    for index in rows.split(512):
        images = split.inputs[index].contiguous(memory_format=torch.channels_last)
        with _precision(recipe):
            predicted = module(images).argmax(1)
        right += int((predicted == label_of[split.labels[index]]).sum())
    return right / len(rows)
