"""Data sets by name. A new one is one file here and one line in `SOURCES`."""

from collections.abc import Callable
from functools import cache

from weightflow.datasets import scikit_learn
from weightflow.datasets.data import ClassificationData, Preprocessing, SealedSplit, Split
from weightflow.names import pick

SOURCES: dict[str, Callable[[], ClassificationData]] = {
    "digits": scikit_learn.digits,
    "iris": scikit_learn.iris,
    "wine": scikit_learn.wine,
    "breast_cancer": scikit_learn.breast_cancer,
}

__all__ = ["SOURCES", "ClassificationData", "Preprocessing", "SealedSplit", "Split", "load"]


@cache
def load(name: str) -> ClassificationData:
    """Read a data set by name; `InputError` lists the names there are."""
    return pick(SOURCES, name, "data set")()
