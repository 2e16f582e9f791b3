"""The training recipe of a zoo's networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi

import torch

from canon.errors import InputError
from weightflow.data.augmentation import AUGMENTATIONS
from weightflow.device import PRECISIONS
from weightflow.registry import pick

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
# the share of the learning rate that is left when a share of the steps is done
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + cos(pi * done)) / 2,
    "constant": lambda done: 1.0,
}
INITIALISERS = ("pytorch", "he_uniform")


@dataclass(frozen=True)
class TrainingRecipe:
    """How each network is trained. `steps` counts updates, the most where training stops early.

    `schedule`: the learning rate ends at zero (cosine) or stays (constant). `clip`: largest norm of a
    network's gradient, 0 for none. `batch_seed`: one stream of mini-batches for all networks, where all
    have the same classes; without it each walks its own. `together`: networks trained at once, 0 for
    what was measured to be fast.

    `patience`: a network stops when so many looks at the validation examples, one every `look_every`
    steps, found no better accuracy; it is handed out as it was when it did best. 0 trains to the end.
    `precision`: of matrix products and convolutions; weights and optimizer are float32 always.
    `accumulate`: parts of a mini-batch whose gradients are added, each with its own batch statistics.
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
    patience: int = 0
    look_every: int = 100
    precision: str = "float32"
    initialiser: str = "pytorch"
    augment: str = "none"
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(f"training: steps {self.steps} and batch_size {self.batch_size} are at least 1")
        if self.patience < 0 or self.look_every < 1:
            raise InputError(
                f"training: patience {self.patience} is at least 0, look_every {self.look_every} at least 1"
            )
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(
                f"training: batches of {self.batch_size} cannot be cut into accumulate = {self.accumulate} parts"
            )
        pick(OPTIMIZERS, self.optimizer, "optimizer")
        pick(SCHEDULES, self.schedule, "schedule")
        pick(PRECISIONS, self.precision, "precision")
        pick({name: name for name in INITIALISERS}, self.initialiser, "initialiser")
        pick({name: name for name in AUGMENTATIONS}, self.augment, "augmentation")

    def learning_rate_at(self, step: int) -> float:
        return self.learning_rate * SCHEDULES[self.schedule](step / self.steps)

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]
