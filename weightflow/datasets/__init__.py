"""Data sets by name. A new one is one file here and one line in `_OWN`.

A name may bring a place and options: `imagefolder:photos?size=32&skip_corrupt`, `caltech256?size=64`.
They are the arguments of the source's function, and part of the data's identity. `NAME through FILE` are
the features of NAME's images under the backbone in FILE.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from canon.errors import InputError
from weightflow.data.info import THROUGH, Facts
from weightflow.data.types import (
    ClassificationData,
    Preprocessing,
    SealedSplit,
    Split,
    StoredInputs,
    check_labels,
    from_arrays,
)
from weightflow.datasets import (
    backbone_features,
    caltech,
    cifar,
    image_folder,
    mnist,
    npz,
    scikit_learn,
    tiny_imagenet,
    yelp,
)
from weightflow.registry import Registry

_OWN: dict[str, Callable[..., Any]] = {
    "digits": scikit_learn.digits,
    "iris": scikit_learn.iris,
    "wine": scikit_learn.wine,
    "breast_cancer": scikit_learn.breast_cancer,
    "mnist": mnist.mnist,
    "fashion_mnist": mnist.fashion_mnist,
    "cifar10": cifar.cifar10,
    "cifar100": cifar.cifar100,
    "caltech256": caltech.caltech256,
    "tinyimagenet": tiny_imagenet.tinyimagenet,
    "yelp": yelp.yelp,
    "imagefolder": image_folder.imagefolder,
    "npz": npz.npz,
}
SOURCES = Registry("data set", "weightflow.datasets", _OWN)

__all__ = [
    "SOURCES",
    "ClassificationData",
    "Facts",
    "Preprocessing",
    "SealedSplit",
    "Split",
    "StoredInputs",
    "load",
]


@cache
def load(name: str) -> ClassificationData:
    """Read a data set by name; `InputError` lists the names, or the options, that there are.

    The object's `name` is the whole name asked for, so that whoever stores it finds the same data again.
    """
    images, through, backbone = name.rpartition(THROUGH)
    if through:
        return backbone_features.through(load(images), backbone, name)
    before, _, query = name.partition("?")
    source, path = SOURCES.split(before)
    make = SOURCES.pick(source, path)
    parameters = dict(inspect.signature(make).parameters)
    arguments: dict[str, Any] = {}
    if ("path" in parameters) != bool(path):
        wanted = f"write {source}:PATH" if "path" in parameters else f"write {source}"
        raise InputError(f"data set '{name}': {wanted}")
    if path:
        arguments["path"] = path
    parameters.pop("path", None)
    for part in filter(None, query.split("&")):
        key, _, text = part.partition("=")
        if key not in parameters:
            known = f"its options are: {', '.join(parameters)}" if parameters else "it has none"
            raise InputError(f"data set '{source}' has no option '{key}'; {known}")
        arguments[key] = _value(name, key, text, flag=isinstance(parameters[key].default, bool))
    found = _checked(source, make(**arguments))
    return found if found.name == name else dataclasses.replace(found, name=name)


def _checked(source: str, found: Any) -> ClassificationData:
    """What a source's function returned: data, or the arrays that data is made of."""
    if isinstance(found, ClassificationData):
        return found
    if isinstance(found, tuple) and len(found) == 3:
        inputs, labels, names = (np.asarray(part) for part in found)
        class_names = [str(name) for name in names]
        if inputs.ndim < 2 or labels.shape != inputs.shape[:1]:
            raise InputError(
                f"data set '{source}' returned inputs {inputs.shape} and labels {labels.shape}; "
                "expected (examples, ...) and (examples,)"
            )
        check_labels(source, labels, class_names)
        flat = inputs.ndim == 2
        return from_arrays(
            source, class_names, inputs, labels, divisor=1.0, licence="unknown", per_feature=flat
        )
    raise InputError(
        f"data set '{source}' returned a {type(found).__name__}; expected (inputs, labels, class names) or "
        "ClassificationData"
    )


def _value(name: str, key: str, text: str, flag: bool) -> bool | int:
    if flag:
        if text:
            raise InputError(f"data set '{name}': option '{key}' takes no value")
        return True
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"data set '{name}': option '{key}' is a whole number from 1, found '{text}'")
    return int(text)
