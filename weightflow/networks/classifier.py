"""A callable network: raw inputs in, one logit per class out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from weightflow.data.types import Preprocessing, along


class Prepare(nn.Module):
    """The data set's preprocessing as a part of a program: `(x / divisor - mean) / std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))

    def forward(self, inputs: Tensor) -> Tensor:
        axes = inputs.dim() - 1
        mean, std = along(self.mean, axes), along(self.std, axes)
        return (inputs.float() / self.preprocessing.divisor - mean) / std


class Classifier(nn.Module):
    """`model(raw)`: inputs (examples, *shape) as the data set has them, to logits (examples, classes).

    `classes` names the logits in their order. `network` is the plain module, whose `state_dict` is all
    that is saved; it takes what `prepare` makes of raw inputs. Where the network is a head, `features` are
    the frozen backbone that raw inputs go through first.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        classes: Sequence[str],
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.prepare, self.network = Prepare(preprocessing), network
        self.classes, self.features = tuple(classes), features
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        seen = inputs if self.features is None else self.features(inputs)
        return self.network(self.prepare(seen))

    @torch.no_grad()
    def name(self, inputs: Tensor) -> list[str]:
        """The most likely class of each raw input, in words."""
        return [self.classes[i] for i in self(inputs).argmax(dim=1).tolist()]

    def extra_repr(self) -> str:
        return f"classes={', '.join(self.classes)}; preprocessing={self.description}"

    @property
    def description(self) -> dict[str, Any]:
        """The preprocessing as plain numbers, as exported files carry it."""
        return self.prepare.preprocessing.to_dict()
