"""The real data sets that scikit-learn ships: digits, iris, wine, breast cancer. No download."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from weightflow.data.types import ClassificationData, from_arrays

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LICENCE = "UCI Machine Learning Repository, CC BY 4.0"


def digits() -> ClassificationData:
    """1,797 images of 8x8 pixels, values 0 to 16, as rows of 64."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = from_arrays(
        "digits", DIGIT_NAMES, images.astype(np.float32), labels, divisor=16.0, licence=LICENCE
    )
    return replace(data, rows_as=(1, 8, 8))


def _table(name: str) -> ClassificationData:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return from_arrays(
        name,
        [str(label).replace("_", " ") for label in bunch.target_names],
        bunch.data.astype(np.float32),
        bunch.target,
        divisor=1.0,
        licence=LICENCE,
        per_feature=True,
        test_fraction=0.2,
    )


def iris() -> ClassificationData:
    """150 flowers of three species, four measurements each."""
    return _table("iris")


def wine() -> ClassificationData:
    """178 wines of three cultivars, 13 measurements each."""
    return _table("wine")


def breast_cancer() -> ClassificationData:
    """569 tumours, malignant or benign, 30 measurements each."""
    return _table("breast_cancer")
