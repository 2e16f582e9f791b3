"""The training configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from canon.errors import InputError
from weightflow.flow.objective import ObjectiveConfig
from weightflow.flow.sampling_config import SampleConfig
from weightflow.models import MODELS, ModelConfig
from weightflow.registry import pick
from weightflow.representation import CoordinatesConfig
from weightflow.seeds import MOST, check_seed
from weightflow.text import absolute
from weightflow.training.adversarial import AdversaryConfig
from weightflow.training.augmentation import AugmentConfig
from weightflow.training.functional_loss import BehaviourConfig
from weightflow.zero_shot import AnchorConfig

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class TrainConfig:
    """The training configuration. Times are in steps; `sample` is the default sampling configuration.

    `preset` names the settings that it began from. `descriptions` say in words what names of classes mean, as in a recipe; those of the zoo by default.

    The averaged weights have a half-life that is a share of the run so far, `average_half_life`, or where
    `average_decay` is set, the part of them that each step keeps.

    `hold_out` is the share of the training networks that checkpoints are chosen by, and that nothing is learned
    from, where the zoo itself holds out none.

    `precision` bfloat16 computes predictions and behaviour in half of the digits, the weights of the model stay
    as they are; `compile` translates the model first, which pays on accelerators.

    `patience` counts evaluations on held-out networks without improvement before the run stops early.
    """

    preset: str = ""
    encoder: str = "wordllama"
    descriptions: dict = field(default_factory=dict)  # type: ignore[type-arg]
    layout: str = "rows"
    chunk: int = 576
    coordinates: CoordinatesConfig = CoordinatesConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    augment: AugmentConfig = AugmentConfig()
    adversary: AdversaryConfig = AdversaryConfig()
    anchors: AnchorConfig = AnchorConfig()
    model: ModelConfig = ModelConfig()
    sample: SampleConfig = SampleConfig()
    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 50
    clip: float = 1.0
    drop_prompt: float = 0.1
    hold_out: float = 0.1
    average_half_life: float = 0.05
    average_decay: float | None = None
    evaluate_every: int = 200
    save_every: int = 200
    patience: int = 5
    precision: str = "float32"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", absolute(self.encoder))
        check_seed(self.seed, -MOST)
        pick(MODELS, self.model.kind, "model")
        if self.model.centred and self.anchors.kind != "none":
            raise InputError(
                "model.centred is about words, and with anchors a model is told rows instead: set one of "
                "model.centred=false, anchors.kind=none"
            )
        pick(dict.fromkeys(PRECISIONS), self.precision, "precision")
        if not self.objective.weight and (self.adversary.weight or self.augment.equivariance):
            raise InputError(
                "adversary and equivariance are about predictions of the zoo's networks: set objective.weight "
                "above 0, or adversary.weight and augment.equivariance to 0"
            )
        if len(self.betas) != 2:
            raise InputError(f"setting 'betas' is two numbers, found {self.betas}")
        for name in ("steps", "batch_size", "evaluate_every", "save_every", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"setting '{name}' is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.hold_out < 1:
            raise InputError(f"setting 'hold_out' is {self.hold_out}; it is a share between 0 and 1")
        if not 0 <= self.drop_prompt < 1:
            raise InputError(f"setting 'drop_prompt' is {self.drop_prompt}; it is a share from 0 to below 1")
        if self.average_decay is not None and not 0 <= self.average_decay < 1:
            raise InputError(
                f"setting 'average_decay' is {self.average_decay}; it is a share from 0 to below 1"
            )
