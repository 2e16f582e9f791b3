"""Estimate the running statistics of batch norm from training examples; they are not generated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from canon.errors import InputError
from canon.merging.activation_repair import reestimate_batch_norm
from canon.types import StateDict
from weightflow import datasets
from weightflow.datasets import ClassificationData, Split
from weightflow.networks.architectures import Architecture


def of_classes(
    architecture: Architecture, state: StateDict, dataset: str, classes: Sequence[Sequence[str]]
) -> StateDict:
    """Statistics of each stacked network from training examples of its classes.

    Where the data set lacks one of them, examples of all its classes serve. Networks without batch norm come
    back as they are, and the data set is not opened.
    """
    if not architecture.has_statistics:
        return state
    try:
        data, rows = datasets.load(dataset), list[Tensor]()
    except InputError as error:
        raise InputError(
            f"networks with batch norm need training examples of their data set for running statistics: {error}"
        ) from None
    for own in classes:
        labels = torch.tensor(_labels(data, own))
        rows.append(torch.isin(data.train.labels, labels).nonzero().squeeze(1))
    return restore_statistics(architecture, state, data.train, rows)


def _labels(data: ClassificationData, classes: Sequence[str]) -> list[int]:
    try:
        return [label for own in data.class_labels(classes) for label in own]
    except InputError:
        return list(range(len(data.class_names)))


def restore_statistics(
    architecture: Architecture,
    state: StateDict,
    split: Split,
    rows: Sequence[Tensor],
    examples: int = 2048,
    batch: int = 256,
) -> StateDict:
    """Running statistics of each stacked network from up to `examples` of its rows of the training split.

    Networks without batch norm come back as they are.
    """
    if not architecture.has_statistics:
        return state
    module, found = architecture.build(), []
    for network, own in enumerate(rows):
        # evenly spaced: rows are sorted by place in the file, which may mean by class
        picked = own[torch.linspace(0, len(own) - 1, min(len(own), examples)).long()]
        order = torch.randperm(len(picked), generator=torch.Generator().manual_seed(0))
        batches = picked[order].split(batch)
        single = {name: tensor[network] for name, tensor in state.items()}
        inputs = [split.inputs[b] for b in batches]
        found.append(reestimate_batch_norm(module, single, partial(iter, inputs)))
    return {name: torch.stack([one[name] for one in found]) for name in state}
