"""Fit anchors to a zoo: statistics from training images, settings by holding out known classes.

Held-out classes decide how sharp the kernel is and how much is shrunk: each partition of the known classes
hides every class once, its row comes from the words and the classes left, and validation images of the
hidden classes are told apart by those rows. No class outside the training networks is ever looked at, and no
test image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from canon.errors import InputError
from weightflow.datasets import ClassificationData
from weightflow.representation import Coordinates
from weightflow.text import TextEncoder
from weightflow.zero_shot.config import AnchorConfig
from weightflow.zero_shot.features import (
    LastLayer,
    examples_of,
    features,
    known_labels,
    mean_network,
    mean_rows,
)
from weightflow.zero_shot.module import of_classes
from weightflow.zero_shot.regression import OWN, Regression, Settings, Statistics
from weightflow.zoo.store import Zoo

SHARPNESS = (0.25, 0.5, 1.0)
RIDGE = (0.05, 0.2)
FLOOR = (0.3, 1.0, 3.0, 10.0)
# classes hidden together, as a share of the known ones, and how often every class is hidden
PART, PARTITIONS = 1 / 6, 3


@dataclass(frozen=True)
class HeldOutFeatures:
    """Features (examples, features) of validation images, and the known class of each (examples,)."""

    inputs: Tensor
    classes: Tensor


def fit_anchors(
    config: AnchorConfig,
    zoo: Zoo,
    data: ClassificationData,
    encoder: TextEncoder,
    coordinates: Coordinates,
) -> dict[str, Tensor]:
    """The tensors of `Anchors`, or nothing where there are none.

    `InputError` where there are too few known classes to hide any.
    """
    if config.kind == "none":
        return {}
    known = known_labels(zoo, data)
    if len(known) < 6:
        raise InputError(
            f"anchors are fitted by hiding known classes, and the networks of {zoo.path} know {len(known)}; "
            "six are needed: set anchors.kind=none"
        )
    network = mean_network(zoo, zoo.rows("seen"))
    found = _statistics(zoo, data, encoder, known, network)
    rows = examples_of(data.validation, known)
    place = torch.full((len(data.class_names),), -1)
    place[known] = torch.arange(len(known))
    held = HeldOutFeatures(
        features(zoo.architecture, network, data.validation, rows), place[data.validation.labels[rows]]
    )
    parts = [hidden for seed in range(PARTITIONS) for hidden in partition(len(known), seed)]
    settings = choose(found, held, parts)
    own = mean_rows(zoo, data, known)
    bias = bool(LastLayer.of(zoo.architecture).bias)
    about = {name: of_classes(coordinates.layout, t) for name, t in coordinates.tensors().items()}
    return {**about, **_tensors(found, settings, own, bias)}


def choose(found: Statistics, held: HeldOutFeatures, parts: Sequence[Bool[Tensor, " known"]]) -> Settings:
    """The settings whose rows for hidden classes tell their validation images apart best."""
    candidates = [Settings(*values) for values in product(SHARPNESS, RIDGE, FLOOR)]
    return max(candidates, key=lambda s: sum(_accuracy(found, held, part, s) for part in parts))


def _accuracy(
    found: Statistics, held: HeldOutFeatures, hidden: Bool[Tensor, " known"], settings: Settings
) -> float:
    rows = Regression.fit(found.without(hidden), settings).rows(found.vectors[hidden])
    mine = hidden[held.classes]
    guessed = (held.inputs[mine] @ rows[:, :-1].T + rows[:, -1]).argmax(1)
    return float((torch.nonzero(hidden).squeeze(1)[guessed] == held.classes[mine]).float().mean())


def partition(classes: int, seed: int) -> Iterator[Bool[Tensor, " known"]]:
    """The known classes in parts, each hidden once."""
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    for part in order.split(max(2, round(PART * classes))):
        yield torch.zeros(classes, dtype=torch.bool).index_fill(0, part, True)


def _statistics(
    zoo: Zoo, data: ClassificationData, encoder: TextEncoder, known: Tensor, network: dict[str, Tensor]
) -> Statistics:
    rows = examples_of(data.train, known)
    inputs = features(zoo.architecture, network, data.train, rows)
    vectors = encoder.encode([data.class_names[i] for i in known.tolist()])
    return Statistics.of_examples(vectors, inputs, data.train.labels[rows], known)


def _tensors(
    found: Statistics,
    settings: Settings,
    own: Float[Tensor, "known width"],
    bias: bool,
) -> dict[str, Tensor]:
    """The regression, brought to the scale of the zoo's rows."""
    fitted = Regression.fit(found, settings)
    said = fitted.rows(found.vectors) if bias else fitted.rows(found.vectors)[..., :-1]
    weights = slice(0, found.means.shape[1])
    centred, wanted = (r[:, weights] - r[:, weights].mean(0) for r in (said, own))
    gain = (centred * wanted).sum() / centred.square().sum()
    shift = own.mean(0) - gain * said.mean(0)
    sharp = torch.tensor(OWN)
    near = fitted.similarity(found.vectors, sharp).double()
    correction = torch.linalg.solve(near, (own - gain * said - shift).double()).float()
    parts = {name: getattr(fitted, name) for name in Regression.__dataclass_fields__}
    return {**parts, "gain": gain, "shift": shift, "own": correction}
