"""Download a data set with torchvision, only when asked to, where `places` looks for it."""

from __future__ import annotations

from pathlib import Path

from canon.errors import InputError, WorkError
from weightflow.data.info import THROUGH
from weightflow.data.locations import cache_folder

CLASSES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "caltech256": "Caltech256",
}


def fetch(name: str) -> Path:
    """Download `name` (options, and the backbone it goes through, are ignored) and return the folder.

    Raises `InputError` for data that torchvision does not have, `WorkError` where the download fails.
    """
    name = name.partition(THROUGH)[0].partition("?")[0]
    if name not in CLASSES:
        raise InputError(f"'{name}' cannot be downloaded here; there are: {', '.join(CLASSES)}")
    try:
        from torchvision import datasets
    except ImportError:
        raise InputError("downloading needs torchvision; install it: pip install torchvision") from None
    root = cache_folder() / "data"
    root.mkdir(parents=True, exist_ok=True)
    try:
        getattr(datasets, CLASSES[name])(root=str(root), download=True)
    except Exception as error:  # torchvision raises exceptions of many classes
        raise WorkError(f"'{name}' was not downloaded to {root}: {error}") from error
    return root
