"""Own architectures, data sets and text encoders under a name, beside the package's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from weightflow.datasets import SOURCES
from weightflow.networks.architectures import FAMILIES
from weightflow.text import ENCODERS, TextEncoder

B = TypeVar("B", bound=Callable[..., nn.Module])
D = TypeVar("D", bound=Callable[..., object])
E = TypeVar("E", bound=Callable[[str], TextEncoder])


def register_architecture(name: str, build: B) -> B:
    """Give a function that builds modules a name that recipes can use.

    Args:
        name: The name.
        build: A function with a parameter `classes`, the number of logits; its other parameters are settings
            of the recipe (`architecture.arguments`).

    Returns:
        `build`.

    Raises:
        InputError: The name is taken.

    Example:
        >>> import torch, weightflow
        >>> def two_layers(width: int, classes: int) -> torch.nn.Module:
        ...     return torch.nn.Sequential(
        ...         torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, classes)
        ...     )
        >>> _ = weightflow.register_architecture("two_layers", two_layers)
        >>> from weightflow.networks.architectures import Architecture
        >>> Architecture("two_layers", {"width": 5}, (64,), classes=10).parameters
        385
    """
    FAMILIES.register(name, build)
    return build


def register_dataset(name: str, load: D) -> D:
    """Give a function that loads data a name that recipes can use.

    Args:
        name: The name. Where `load` has a parameter `path`, the data set is written `NAME:PATH`; its other
            parameters are options, `NAME?size=32`.
        load: A function that returns inputs (examples, \\*shape), labels (examples,) and class names as arrays or
            lists (the splits are cut by a fixed seed), or a `ClassificationData` with splits of its own.

    Returns:
        `load`.

    Raises:
        InputError: The name is taken.

    Example:
        >>> import numpy as np, weightflow
        >>> def moons():
        ...     angle = np.random.default_rng(0).uniform(0, np.pi, 200)
        ...     upper = np.arange(200) % 2
        ...     x = np.stack([np.cos(angle) + upper, np.sin(angle) * (1 - 2 * upper)], 1)
        ...     return x, upper, ["lower moon", "upper moon"]
        >>> _ = weightflow.register_dataset("moons", moons)
        >>> from weightflow import datasets
        >>> datasets.load("moons").input_shape
        (2,)
    """
    SOURCES.register(name, load)
    return load


def register_encoder(name: str, make: E) -> E:
    """Give a text encoder a name that presets and `--set encoder=` can use.

    Args:
        name: The name; what follows it after a colon is handed to `make`.
        make: A function of that text to a `TextEncoder`.

    Returns:
        `make`.

    Raises:
        InputError: The name is taken.

    Example:
        >>> import torch, weightflow
        >>> class Letters(weightflow.TextEncoder):
        ...     identity, width = "letters", 26
        ...     def vectors(self, descriptions):
        ...         rows = [[d.lower().count(chr(97 + i)) + 1e-6 for i in range(26)] for d in descriptions]
        ...         return torch.tensor(rows)
        >>> _ = weightflow.register_encoder("letters", lambda rest: Letters())
        >>> from weightflow.text import load_encoder
        >>> load_encoder("letters").encode(["seven"]).shape
        torch.Size([1, 26])
    """
    ENCODERS.register(name, make)
    return make
