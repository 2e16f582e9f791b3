"""Soft labels: what the networks of a zoo say together about the training examples, for distillation.

The score of a class is the mean log probability that it has under all training networks of the zoo that know it,
whatever their other classes are, so that the zoo votes on tasks that none of its networks was trained on. A softmax of the
scores of a task's classes, sharpened as validation examples ask for, is the soft label (Hinton et al. 2015,
arXiv:1503.02531).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightflow.datasets import Split
from weightflow.training.batch import Batch
from weightflow.training.functional_loss import FunctionalLoss

NETWORKS, EXAMPLES = 64, 1024
"""Networks and examples that are looked at at once: bounds the memory."""
TASKS = 50
"""Tasks that the sharpness is fitted on, at most."""
SHARPNESS = torch.logspace(-2, 4, 25, base=2)


@torch.no_grad()
def soft_labels(behaviour: FunctionalLoss, networks: Batch) -> Float[Tensor, "examples labels"]:
    """Sharpened scores of the data set's labels on its training examples, zero for labels that no network knows."""
    data = behaviour.data
    known = (networks.labels >= 0).any(0)
    scores = class_scores(behaviour, networks, data.validation, known)
    every = max(1, len(networks) // TASKS)
    sharpness = fit_sharpness(scores, data.validation.labels, networks.labels[::every])
    return sharpness * class_scores(behaviour, networks, data.train, known)


def class_scores(
    behaviour: FunctionalLoss, networks: Batch, split: Split, known: Tensor
) -> Float[Tensor, "examples labels"]:
    """Mean log probabilities over the networks that know a label; zero for examples of no `known` label."""
    found = torch.zeros(len(split.labels), len(known))
    votes = (networks.labels >= 0).sum(0).clamp(min=1)
    rows = torch.nonzero(known[split.labels]).squeeze(1)
    for some in (networks[begin : begin + NETWORKS] for begin in range(0, len(networks), NETWORKS)):
        logits = F.one_hot(some.labels + 1, some.prompts.present.shape[1] + 1)[..., 1:]
        to_label = logits.transpose(1, 2).flatten(0, 1).float()  # of each network and class
        present = some.prompts.present
        for part in rows.split(EXAMPLES):
            inputs = split.inputs[part].to(some.z.device)
            inputs = inputs.expand(len(some), *inputs.shape)
            log_p = behaviour.log_probabilities(some.z, present, some.labels, inputs)
            log_p = log_p.masked_fill(~present.unsqueeze(1), 0.0).cpu()
            found[part] += log_p.transpose(0, 1).flatten(1) @ to_label
    return found / votes


def fit_sharpness(scores: Tensor, labels: Tensor, tasks: Sequence[Tensor] | Tensor) -> float:
    """The factor of the scores under which `labels` are likeliest, over tasks given as the logit of each label."""
    losses = torch.zeros(len(SHARPNESS))
    for task in tasks:
        own = torch.nonzero(task >= 0).squeeze(1)
        rows = torch.isin(labels, own)
        targets = torch.searchsorted(own, labels[rows])
        some = scores[rows][:, own]
        losses += torch.stack([F.cross_entropy(factor * some, targets) for factor in SHARPNESS])
    return float(SHARPNESS[losses.argmin()])
