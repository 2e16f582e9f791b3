"""Backbones: frozen networks whose features heads and adapters are trained on.

A backbone is one file with all that it needs: weights, how images are prepared for it, and the classes
that were kept from it. Files come from `weightflow.backbones.train` (trained here), from
`weightflow.backbones.pretrained` (torchvision, timm), and any network of ours that ends in a linear layer
is one too. Features are what enters that last layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from canon.errors import InputError
from canon.io import checkpoint
from canon.io.files import reading, sha256
from canon.validation import integer, items, optional, parse_json, record, table, text
from weightflow.backbones import pretrained
from weightflow.data.info import DataInfo
from weightflow.data.types import Preprocessing
from weightflow.device import usable_device
from weightflow.networks.architectures import Architecture
from weightflow.networks.classifier import Prepare

KEY = "backbone"


@dataclass(frozen=True)
class BackboneCard:
    """The metadata of a backbone file. If `size` is given, images are resized to size x size.

    `model` is torchvision:NAME or timm:NAME, or None where the file's own architecture says it.
    `excluded` classes were in the data set `trained_on` and kept from it.
    """

    preprocessing: Preprocessing
    model: str | None = None
    size: int | None = None
    trained_on: str | None = None
    excluded: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, said: str) -> BackboneCard:
        """From a file's JSON; raises `canon.validation.Invalid` if it is not valid."""
        data = _CARD(parse_json(said, 1 << 24))
        preprocessing = Preprocessing.from_dict(data.pop("preprocessing"))
        return cls(preprocessing, excluded=tuple(data.pop("excluded")), **data)


_CARD = record(
    {"preprocessing": record(Preprocessing.FIELDS), "excluded": items(text())},
    {
        "model": optional(text()),
        "size": optional(integer(1, 10_000)),
        "trained_on": optional(text()),
        "recipe": optional(table(text(), lambda value: value)),
    },
)


@dataclass(frozen=True)
class Backbone:
    """A frozen network; called on raw images (examples, channels, height, width) it gives features.

    `digest` is the SHA-256 of the file that it was read from.
    """

    module: nn.Module
    card: BackboneCard
    digest: str = ""

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "examples channels height width"] | Tensor
    ) -> Float[Tensor, "examples features"]:
        channels = self.card.preprocessing.channels
        if images.dim() != 4 or images.shape[1] != channels:
            raise InputError(
                f"this backbone takes images of {channels} channels, found examples of shape "
                f"{tuple(images.shape[1:])}; "
                + ("make the images colour, or " if channels == 3 else "")
                + "choose a backbone for such images"
            )
        x = self.card.preprocessing(images)
        if self.card.size is not None and tuple(x.shape[2:]) != (self.card.size, self.card.size):
            x = nn.functional.interpolate(x, (self.card.size,) * 2, mode="bilinear", antialias=True)
        device = usable_device()
        x = x.to(device, memory_format=torch.channels_last)
        return self.module.to(device)(x).float().cpu()


class Features(nn.Module):
    """A backbone as a part of a program, on the device where it is called: raw images to features."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.prepare, self.size = Prepare(backbone.card.preprocessing), backbone.card.size
        self.module = backbone.module.to(memory_format=torch.contiguous_format)

    def forward(self, images: Tensor) -> Tensor:
        x = self.prepare(images)
        if self.size is not None and tuple(x.shape[2:]) != (self.size, self.size):
            x = nn.functional.interpolate(x, (self.size,) * 2, mode="bilinear", antialias=True)
        return self.module(x)


def headless(module: nn.Module) -> nn.Module:
    """The module without its last linear layer: it gives what entered it."""
    module.set_submodule(pretrained.last_linear(module), nn.Identity())
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def read_backbone(path: str | Path) -> Backbone:
    """A backbone from its file; `InputError` where the file is none."""
    make = "make one with: weightflow backbone train, or weightflow backbone take"
    if checkpoint.check_suffix(path) == ".pt2":  # a name in a zoo from elsewhere must not load a program
        raise InputError(f"{path} is a program, not a backbone; {make}")
    found = checkpoint.read(path)
    if KEY not in found.metadata:
        raise InputError(f"{path} is not a backbone: it does not say how images are prepared for it; {make}")
    checkpoint.require_finite(found.state, str(path))
    with reading(path, make):
        card = BackboneCard.from_json(found.metadata[KEY])
        if card.model is None:
            module = Architecture.from_dict(parse_json(found.metadata["architecture"], 1 << 20)).build()
        else:
            module = pretrained.skeleton(card.model, found.state)
        checkpoint.require_same(module.state_dict(), found.state, "the model that it names", str(path))
        module.load_state_dict(found.state)
        return Backbone(headless(module), card, sha256(path))


def backbone_of(facts: DataInfo) -> Backbone:
    """The backbone that networks were trained on, from the file that they name; `InputError` where it is another one now."""
    found = read_backbone(str(facts.backbone))
    if facts.backbone_digest and found.digest != facts.backbone_digest:
        raise InputError(
            f"{facts.backbone} is another backbone ({found.digest[:12]}) than the networks were trained on "
            f"({facts.backbone_digest[:12]}); restore that one"
        )
    return found


def write_backbone(
    path: Path, state: Mapping[str, Tensor], card: BackboneCard, more: Mapping[str, str] | None = None
) -> None:
    """The whole network, its last layer too: the file is an ordinary `state_dict` of its model."""
    checkpoint.write(path, dict(state), {KEY: card.to_json(), **(more or {})})


def take(model: str, path: Path, weights: Path | None = None) -> int:
    """Write torchvision:NAME or timm:NAME as a backbone, its weights from a file or from its hub.

    Returns the number of features.

    Raises `InputError` for what is not there, `WorkError` where the hub cannot be reached.
    """
    module, preprocessing, size = pretrained.with_weights(model, weights)
    width = pretrained.require_linear_end(model, module, torch.zeros(1, preprocessing.channels, size, size))
    write_backbone(path, module.state_dict(), BackboneCard(preprocessing, model=model, size=size))
    return width
