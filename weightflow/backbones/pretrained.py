"""Pretrained models of torchvision and timm, with weights from their hubs or from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from canon.errors import InputError, WorkError
from canon.io import checkpoint
from weightflow.data.types import Preprocessing
from weightflow.registry import pick, suggest

# what torchvision's own weights were trained with
IMAGENET_MEAN, IMAGENET_STD, IMAGENET_SIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224


def skeleton(model: str, state: Mapping[str, Tensor]) -> nn.Module:
    """torchvision:NAME or timm:NAME without weights, its last layer of as many classes as `state` has."""
    module = _made(model, pretrained=False)
    last = last_linear(module)
    layer, rows = module.get_submodule(last), state.get(f"{last}.weight")
    if isinstance(layer, nn.Linear) and rows is not None and rows.dim() == 2:
        module.set_submodule(last, nn.Linear(layer.in_features, len(rows)))
    return module


def last_linear(module: nn.Module) -> str:
    """The name of the last linear layer; `InputError` where a network has none."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not names or not names[-1]:
        raise InputError("the network has no linear layer at its end, whose inputs could be features")
    return names[-1]


@torch.no_grad()
def require_linear_end(model: str, module: nn.Module, example: Tensor) -> int:
    """The number of features; `InputError` unless what the last linear layer gives is the output."""
    given: list[Tensor] = []
    layer: Any = module.eval().get_submodule(last_linear(module))
    handle = layer.register_forward_hook(lambda own, inputs, output: given.append(output))
    output = module(example)
    handle.remove()
    if len(given) != 1 or output.dim() != 2 or not torch.equal(given[0], output):
        raise InputError(
            f"{model} does not end in its last linear layer, so what enters that is not a feature of images"
        )
    return layer.in_features


def with_weights(model: str, weights: Path | None) -> tuple[nn.Module, Preprocessing, int]:
    """The model with its weights, how images are prepared for it, and their size in pixels.

    Weights come from a checkpoint of this very model, for whatever classes, or else from the library's hub.
    """
    if weights is None:
        module = _made(model, pretrained=True)
        return module, *_preparation(model, module)
    state = checkpoint.read(weights).state
    module = skeleton(model, state)
    checkpoint.require_same(module.state_dict(), state, model, str(weights))
    module.load_state_dict(state)
    return module, *_preparation(model, module)


def _made(model: str, pretrained: bool) -> nn.Module:
    library, _, name = model.partition(":")
    make = pick({"torchvision": _torchvision, "timm": _timm}, library, "library of models")
    try:
        return make(name, pretrained)
    except ImportError:
        raise InputError(f"'{model}' needs {library}; install it: pip install {library}") from None


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no model '{name}'; nearest: {suggest(name, known)}")
    return _fetched(f"torchvision:{name}", lambda: models.get_model(name, weights="DEFAULT" if pretrained else None))  # fmt: skip


def _timm(name: str, pretrained: bool) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm has no model '{name}'; nearest: {suggest(name, timm.list_models())}")
    return _fetched(f"timm:{name}", lambda: timm.create_model(name, pretrained=pretrained))


def _fetched(model: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return make()
    except Exception as error:  # hubs raise exceptions of many classes
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise WorkError(
            f"the weights of {model} were not fetched: {first}; name a local file with --checkpoint"
        ) from error


def _preparation(model: str, module: nn.Module) -> tuple[Preprocessing, int]:
    library, _, _ = model.partition(":")
    if library != "timm":
        return Preprocessing(255.0, IMAGENET_MEAN, IMAGENET_STD), IMAGENET_SIZE
    config: Any = module.pretrained_cfg
    return Preprocessing(255.0, tuple(config["mean"]), tuple(config["std"])), config["input_size"][-1]
