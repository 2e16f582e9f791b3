"""Example images with predictions, and the confusion matrix."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from weightflow.data.info import THROUGH
from weightflow.evaluation.context import EvaluationContext
from weightflow.evaluation.evaluate import examples_of
from weightflow.report.generated import Generated

SHOWN, LARGEST = 12, 64
"""Pictures of the first task, and pixels along a side."""
MOST_CLASSES = 100
"""A matrix of more classes is not a picture and a large file."""


def answers(context: EvaluationContext, made: Generated) -> dict[str, Any]:
    """A few test pictures of the first task with the answers of its network; a reason where examples are not pictures."""
    task = made.tasks[0]
    if not set(task.classes) <= set(context.data.class_names):
        return {"shown": None, "reason": "the classes of the first task are made of others"}
    images = context.zoo.dataset.rpartition(THROUGH)[0] or context.zoo.dataset
    rows, pictures, shape = examples_of(task, images, SHOWN)
    if not shape:
        return {"shown": None, "reason": "the examples are not pictures"}
    names = context.data.class_names
    shown = [
        {
            "picture": _png(picture),
            "class": names[int(made.predictions.labels[row])],
            "answer": names[int(made.predictions.predicted[0, row])],
        }
        for row, picture in zip(rows.tolist(), pictures, strict=True)
    ]
    return {"classes": list(task.classes), "shown": shown}


def confusion(context: EvaluationContext, made: Generated) -> dict[str, Any]:
    """The share of each class's test examples that generated networks take for each class."""
    names = context.data.class_names
    if len(names) > MOST_CLASSES:
        return {"matrix": None, "reason": f"{len(names)} classes are more than {MOST_CLASSES}"}
    found = made.predictions.confusion(len(names))
    there = (~torch.isnan(found).any(dim=1)).nonzero().flatten().tolist()
    matrix = [[round(float(found[i, j]), 4) for j in there] for i in there]
    return {"classes": [names[i] for i in there], "matrix": matrix}


def _png(picture: Tensor) -> str:
    """A picture (channels, height, width) from 0 to 1 as a data URI, its own range where it is dark."""
    pixels = (255 * picture / max(float(picture.max()), 1e-9)).round().to(torch.uint8).numpy()
    image = Image.fromarray(
        np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    )
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
