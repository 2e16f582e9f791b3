"""Data sets by name. A new one is one file here and one line in `_OWN`.

A name may bring a place and options: `imagefolder:photos?size=32&skip_corrupt`, `caltech256?size=64`.
They are the arguments of the source's function, or say how inputs are prepared
(`digits?divisor=16&mean=0.3&std=0.4`) and how many training examples of each class are used
(`digits?examples_per_class=10`), and are part of the data's identity. `NAME through FILE` are
the features of NAME's images under the backbone in FILE.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from canon.errors import InputError
from weightflow.data.info import THROUGH, DataInfo
from weightflow.data.types import (
    ClassificationData,
    Preprocessing,
    SealedSplit,
    Split,
    StoredInputs,
    check_labels,
    from_arrays,
    prepared_as,
    with_fewer_examples,
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
PREPARED = ("divisor", "mean", "std")
"""Options of every data set: how inputs are prepared, where it is not by the training examples' own statistics."""
FEWER = "examples_per_class"
"""Option of every data set: how many training examples of each class are used."""
SOURCES = Registry("data set", "weightflow.datasets", _OWN)

__all__ = [
    "SOURCES",
    "THROUGH",
    "ClassificationData",
    "DataInfo",
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
        file, _, query = backbone.partition("?")
        options = _options(name, query, {})
        lost = [key for key in (*PREPARED, FEWER) if re.search(rf"[?&]{key}=", images)]
        if lost:
            raise InputError(
                f"data set '{name}': option '{lost[0]}' is of the features, not of the images; write it last, after the "
                "backbone's file"
            )
        found = backbone_features.through(load(images), file, name)
        return _prepared(found, options)
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
    options = _options(name, query, parameters)
    arguments |= {key: options.pop(key) for key in parameters if key in options}
    found = _prepared(_checked(source, make(**arguments)), options)
    return found if found.name == name else dataclasses.replace(found, name=name)


def absolute(name: str) -> str:
    """The name with the paths in it made absolute, so that it means the same in every folder."""
    images, through, backbone = name.rpartition(THROUGH)
    if through:
        file, mark, query = backbone.partition("?")
        return f"{absolute(images)}{THROUGH}{_absolute(file)}{mark}{query}"
    before, mark, query = name.partition("?")
    source, path = SOURCES.split(before)
    if path and source in SOURCES and "path" in inspect.signature(SOURCES[source]).parameters:
        return f"{source}:{_absolute(path)}{mark}{query}"
    return name


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def folders_of(name: str) -> list[Path]:
    """The folders that a data set's name names, as of images; results must not be written into them."""
    images = name.partition(THROUGH)[0].partition("?")[0]
    path = SOURCES.split(images)[1]
    return [Path(path)] if path and os.path.isdir(path) else []


def _options(name: str, query: str, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """What follows the `?` in a name: options of the source (`parameters`), and those of every data set."""
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, text = part.partition("=")
        if key not in parameters and key not in (*PREPARED, FEWER):
            raise InputError(
                f"data set '{name.partition('?')[0]}' has no option '{key}'; its options are: "
                f"{', '.join([*parameters, *PREPARED, FEWER])}"
            )
        if key in options:
            raise InputError(f"data set '{name}': option '{key}' occurs twice; leave one out")
        if key in parameters:
            options[key] = _value(name, key, text, flag=isinstance(parameters[key].default, bool))
        elif key == FEWER:
            options[key] = _value(name, key, text, flag=False)
        else:
            options[key] = _numbers(name, key, text)
    return options


def _prepared(data: ClassificationData, options: Mapping[str, Any]) -> ClassificationData:
    """The data as they are, or as the options say: prepared by `(x / divisor - mean) / std`, with fewer examples."""
    if FEWER in options:
        data = with_fewer_examples(data, options[FEWER])
    if not any(key in options for key in PREPARED):
        return data
    divisor = options.get("divisor", 1.0)
    if isinstance(divisor, tuple):
        raise InputError(f"data set '{data.name}': option 'divisor' is one number")
    mean, std = options.get("mean", 0.0), options.get("std", 1.0)
    count = max(len(values) if isinstance(values, tuple) else 1 for values in (mean, std))
    if count > 1:
        mean, std = (v if isinstance(v, tuple) else (v,) * count for v in (mean, std))
    return prepared_as(data, Preprocessing(divisor, mean, std))


def _numbers(name: str, key: str, text: str) -> float | tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"data set '{name}': option '{key}' is a number, or several with commas, found '{text}'"
        ) from None
    if not all(math.isfinite(value) and (key == "mean" or value > 0) for value in values):
        raise InputError(f"data set '{name}': option '{key}' is above 0 and finite, found '{text}'")
    return values if len(values) > 1 else values[0]


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
            source, class_names, inputs, labels, divisor=1.0, licence="unknown", per_feature=flat, seed=None
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
