"""Check that a training configuration suits a zoo, before training starts."""

from __future__ import annotations

from canon.errors import InputError
from weightflow.models.conditioning import CONDITIONINGS
from weightflow.training.config import TrainConfig
from weightflow.training.functional_loss import BehaviourConfig
from weightflow.zero_shot.features import LastLayer
from weightflow.zoo.store import Zoo


def check(config: TrainConfig, zoo: Zoo) -> None:
    """`InputError` with the setting that does not suit the zoo, and one that does."""
    moved = [
        name for name in ("permute_units", "permute_classes", "equivariance") if getattr(config.augment, name)
    ]
    if moved and config.coordinates.kind != "tokens":
        raise InputError(
            f"augment.{moved[0]} relabels tokens, which coordinates.kind '{config.coordinates.kind}' does not "
            f"have: set coordinates.kind=tokens, or augment.{moved[0]}={'0' if moved[0] == 'equivariance' else 'false'}"
        )
    if config.anchors.kind != "none":
        _check_anchors(config, zoo)
    _check_behaviour(config.behaviour, zoo)
    if config.encoder == "none" and len({record.classes for record in zoo.records}) > 1:
        raise InputError(
            f"the networks of {zoo.path} have different tasks, and a run without words cannot tell which to "
            "make; give an encoder, for instance encoder=wordllama, or take a zoo of one task"
        )
    told = config.model.conditioning
    tasks = {zoo.records[i].classes for i in zoo.rows("seen")}
    if told == "none" and len(tasks) > 1:
        raise InputError(
            f"model.conditioning 'none' tells the model of no task, but {zoo.path} has {len(tasks)}: "
            "set model.conditioning=classes, or take a zoo of one task"
        )
    averaged = config.model.kind == "mlp"  # the MLP averages the conditioning vectors
    ordered = CONDITIONINGS[told].ordered and not averaged
    if len(tasks) > 1 and not ordered and _ordered_logits(zoo, tasks):
        part = "model.kind 'mlp'" if averaged else f"model.conditioning '{told}'"
        wanted = "model.kind=transformer" if averaged else "model.conditioning=classes"
        raise InputError(
            f"{part} loses the order of the classes, and the logits of {zoo.path} stand in each task's own "
            f"order: set {wanted}, or build the zoo with tasks.shuffled=false, or of adapters, which have no "
            "logits"
        )


def _check_behaviour(config: BehaviourConfig, zoo: Zoo) -> None:
    if config.invented and not zoo.architecture.example(1).is_floating_point():
        raise InputError(
            "behaviour.invented mixes examples of two classes, and those of "
            f"{zoo.dataset} are no numbers but words: set it to 0"
        )
    if config.invented and not zoo.architecture.has_logits:
        raise InputError(
            f"behaviour.invented makes classes that have no name, which networks of {zoo.architecture.name} read: "
            "set it to 0"
        )


def _check_anchors(config: TrainConfig, zoo: Zoo) -> None:
    LastLayer.of(zoo.architecture)
    needs = {
        "layout=rows": config.layout == "rows",
        "coordinates.kind=tokens": config.coordinates.kind == "tokens",
        "objective.predict=clean": config.objective.predict == "clean",
        "model.conditioning=classes": config.model.conditioning == "classes",
        "augment.permute_units=false": not config.augment.permute_units,
        "augment.equivariance=0": not config.augment.equivariance,
    }
    for setting, met in needs.items():
        if not met:
            raise InputError(
                f"anchors are rows of the last layer in fixed places: set {setting}, or anchors.kind=none"
            )


def _ordered_logits(zoo: Zoo, tasks: set[tuple[str, ...]]) -> bool:
    """Whether a task's logits stand in an order that its set of classes does not tell."""
    if not zoo.architecture.has_logits:
        return False
    place = {name: i for i, name in enumerate(zoo.data.class_names)}
    return any([place[c] for c in task] != sorted(place[c] for c in task) for task in tasks)
