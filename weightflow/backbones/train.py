"""Train a backbone on a data set's training images, some classes kept from it where it is asked.

Random crops and flips, SGD with Nesterov's momentum, one cycle of the learning rate (Smith & Topin,
arXiv:1708.07120). Processors multiply in bfloat16 twice as fast; weights and their updates stay float32.
After every epoch, and where it is asked to stop, all that is needed to go on is written beside the backbone's
own place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from canon.errors import InputError, WorkError
from canon.io import checkpoint
from canon.io.files import reading
from weightflow.backbones import BackboneCard, write_backbone
from weightflow.data.augmentation import AUGMENTATIONS, crop_flip
from weightflow.data.types import ClassificationData, Split, StoredInputs
from weightflow.device import PRECISIONS, usable_device
from weightflow.networks.architectures import Architecture
from weightflow.registry import pick
from weightflow.seeds import check_seed

CYCLED = ("lr", "momentum")


@dataclass(frozen=True)
class BackboneRecipe:
    """`learning_rate` is the largest of the cycle; `augment`: none or crop_flip."""

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
    augment: str = "crop_flip"
    precision: str = "bfloat16"
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        pick(PRECISIONS, self.precision, "precision")
        pick(dict.fromkeys(AUGMENTATIONS), self.augment, "augmentation")
        if min(self.epochs, self.batch_size) < 1:
            raise InputError(
                f"backbone: epochs {self.epochs} and batch_size {self.batch_size} must be at least 1"
            )


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch: mean training loss and validation accuracy (a fraction)."""

    number: int
    loss: float
    accuracy: float


class BackboneTrainer:
    """Training images of all classes but `excluded`, a recipe and a file; `run` goes on from where it was.

    Validation accuracy decides nothing; test images are not opened. Raises `InputError` where the data are
    no images or too few classes are left. It trains on the device of `computing_on`.
    """

    def __init__(
        self, data: ClassificationData, recipe: BackboneRecipe, path: Path, excluded: Sequence[str] = ()
    ) -> None:
        self.device = usable_device()
        self.data, self.recipe, self.path, self.excluded = data, recipe, path, tuple(excluded)
        self.names = _classes_of(data, excluded)
        self.label_of = torch.full((len(data.class_names),), -1)
        self.label_of[data.class_index(self.names)] = torch.arange(len(self.names))
        self.architecture = Architecture(
            recipe.architecture, recipe.arguments, data.input_shape, len(self.names)
        )
        self.architecture.output_for(data.input_shape, f"data set '{data.name}'")
        self.generator = torch.Generator().manual_seed(recipe.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.module = self.architecture.build()
        self.module.to(self.device).to(memory_format=torch.channels_last)
        self.rows = _rows_of(data.train, self.label_of)
        self.batches = max(1, len(self.rows) // recipe.batch_size)
        self.optimizer = torch.optim.SGD(
            self.module.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=self.steps
        )
        self.epochs, self.batch, self.loss, self.saved = 0, 0, 0.0, 0
        self.order = torch.empty(0, dtype=torch.long)
        if self.partial.exists():
            self._restore()

    @property
    def steps(self) -> int:
        """Mini-batches of the whole training."""
        return self.recipe.epochs * self.batches

    @property
    def done(self) -> int:
        """Mini-batches taken so far."""
        return self.epochs * self.batches + self.batch

    @property
    def partial(self) -> Path:
        """The file of an interrupted training, to resume from."""
        return self.path.with_suffix(".partial.safetensors")

    def run(
        self,
        on_step: Callable[[int, str], None] = lambda steps, note: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Epoch | None:
        """Train to the end and write the backbone, a last layer of its classes with it.

        After each mini-batch `stop` is asked: where it is true, the state is saved and None is returned.

        Raises `WorkError` where the loss stops being finite.
        """
        while True:
            if not self._epoch(on_step, stop):
                self._save()
                return None
            epoch = Epoch(self.epochs + 1, self.loss / self.batches, self._accuracy())
            self.epochs, self.batch, self.loss = self.epochs + 1, 0, 0.0
            on_step(
                0, f"epoch {epoch.number}: loss {epoch.loss:.3f}, validation {100 * epoch.accuracy:.1f} %"
            )
            if self.epochs == self.recipe.epochs:
                break
            self._save()
        card = BackboneCard(
            self.data.preprocessing,
            trained_on=self.data.name,
            excluded=self.excluded,
            recipe=asdict(self.recipe),
        )
        more = {"architecture": self.architecture.to_json(), "classes": json.dumps(self.names)}
        write_backbone(self.path, {n: t.cpu() for n, t in self.module.state_dict().items()}, card, more)
        self.partial.unlink(missing_ok=True)
        return epoch

    def _epoch(self, on_step: Callable[[int, str], None], stop: Callable[[], bool]) -> bool:
        """Process the remaining mini-batches of the epoch; returns whether it was completed."""
        self.module.train()
        if self.batch == 0:
            self.order = self.rows[torch.randperm(len(self.rows), generator=self.generator)]
        loss_of = nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)
        for index in self.order.split(self.recipe.batch_size)[self.batch : self.batches]:
            images = self.data.train.inputs[index]
            if self.recipe.augment == "crop_flip":
                images = crop_flip(images, self.generator)
            loss = loss_of(self._logits(images), self.label_of[self.data.train.labels[index]].to(self.device))
            if not loss.isfinite():
                raise WorkError(
                    f"the backbone's loss is not finite in epoch {self.epochs + 1}; lower learning_rate"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.cycle.step()
            self.loss += loss.item()
            self.batch += 1
            on_step(1, "")
            if stop():
                return False
        return True

    def _logits(self, images: Tensor) -> Tensor:
        low = self.recipe.precision == "bfloat16"
        images = images.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, PRECISIONS[self.recipe.precision], enabled=low):
            return self.module(images).float()

    @torch.no_grad()
    def _accuracy(self) -> float:
        self.module.eval()
        split, right = self.data.validation, 0
        rows = _rows_of(split, self.label_of)
        for index in rows.split(512):
            predicted = self._logits(split.inputs[index]).argmax(1).cpu()
            right += int((predicted == self.label_of[split.labels[index]]).sum())
        return right / len(rows)

    def _identity(self) -> str:
        return json.dumps([asdict(self.recipe), str(self.data.folder), self.excluded], sort_keys=True)

    def _save(self) -> None:
        moments = {
            f"momentum.{name}": self.optimizer.state[parameter]["momentum_buffer"].cpu()
            for name, parameter in self.module.named_parameters()
        }
        state = {f"network.{name}": tensor.cpu() for name, tensor in self.module.state_dict().items()}
        tensors = {**state, **moments, "generator": self.generator.get_state(), "order": self.order}
        now = {key: float(self.optimizer.param_groups[0][key]).hex() for key in CYCLED}
        place = {"epochs": str(self.epochs), "batch": str(self.batch), "loss": self.loss.hex()}
        checkpoint.write(self.partial, tensors, {"of": self._identity(), **place, **now})
        self.saved = self.done

    def _restore(self) -> None:
        found = checkpoint.read(self.partial)
        if found.metadata.get("of") != self._identity():
            raise InputError(
                f"{self.partial} is of another training: other data, classes or settings; delete it, or name "
                "another file with --out"
            )
        state = {n.removeprefix("network."): t for n, t in found.state.items() if n.startswith("network.")}
        with reading(self.partial, "delete it, and train again"):
            self.module.load_state_dict(state)
            for name, parameter in self.module.named_parameters():
                buffer = torch.empty_like(parameter).copy_(found.state[f"momentum.{name}"])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
            self.generator.set_state(found.state["generator"])
            self.epochs, self.batch = int(found.metadata["epochs"]), int(found.metadata["batch"])
            self.loss, self.order = float.fromhex(found.metadata["loss"]), found.state["order"]
            self.cycle.last_epoch = self.saved = self.done
            for key in CYCLED:
                self.optimizer.param_groups[0][key] = float.fromhex(found.metadata[key])


def _classes_of(data: ClassificationData, excluded: Sequence[str]) -> list[str]:
    if not isinstance(data.train.inputs, StoredInputs) or len(data.input_shape) != 3:
        raise InputError(
            f"data set '{data.name}' has examples of shape {data.input_shape}; a backbone learns from images"
        )
    left_out = set(data.class_index(excluded))
    names = [name for index, name in enumerate(data.class_names) if index not in left_out]
    if len(names) < 2:
        raise InputError(f"{len(names)} classes of '{data.name}' are left; a backbone needs two or more")
    return names


def _rows_of(split: Split, label_of: Tensor) -> Tensor:
    return torch.nonzero(label_of[split.labels] >= 0).squeeze(1)
