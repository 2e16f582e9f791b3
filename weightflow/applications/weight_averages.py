"""Averages of networks with different classes.

Each class's row is the mean over the networks that know the class; everything else is the mean of all.
What differs is how hidden units are paired first: as they stand, by Git Re-Basin with the first network
(Ainsworth et al. 2023, arXiv:2209.04836), or in the frame of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from canon.actions import permutation as perm
from canon.matching.weight_matching import match_weights
from canon.types import StateDict
from weightflow.batched.class_axes import (
    class_table,
    gather_classes,
    pad_with_zeros,
    scatter_classes,
    with_num_classes,
)
from weightflow.batched.tasks import Task
from weightflow.generator.generator import Flow
from weightflow.networks.architectures import Architecture
from weightflow.zoo.canonicalize import align_to_frame
from weightflow.zoo.network_file import Network

Average = Callable[[Flow, Sequence[Network], Task], StateDict]


def without_alignment(flow: Flow, networks: Sequence[Network], task: Task) -> StateDict:
    """The average without alignment."""
    return _mean(flow.architecture, [_wide(flow.architecture, n) for n in networks], networks, task)


def git_rebasin(flow: Flow, networks: Sequence[Network], task: Task) -> StateDict:
    """The average after weight matching to the first network, over all classes."""
    wides = [_wide(flow.architecture, network) for network in networks]
    spec = _all_classes(flow.architecture, task).spec
    reference = {name: tensor[0] for name, tensor in wides[0].items()}
    moved = [
        perm.apply_unchecked(spec, match_weights(spec, reference, wide).permutation, dict(wide))
        for wide in wides[1:]
    ]
    return _mean(flow.architecture, [wides[0], *moved], networks, task)


def aligned_to_frame(flow: Flow, networks: Sequence[Network], task: Task) -> StateDict:
    """The average after aligning every network to the run's frame."""
    aligned = [align_to_frame(flow.architecture, flow.frame, n.state, [n.task]) for n in networks]
    wides = [
        scatter_classes(flow.architecture, state, [n.task])
        for state, n in zip(aligned, networks, strict=True)
    ]
    return _mean(flow.architecture, wides, networks, task)


AVERAGES: dict[str, Average] = {
    "straight_average": without_alignment,
    "git_rebasin_average": git_rebasin,
    "average_in_frame": aligned_to_frame,
}


def _all_classes(architecture: Architecture, task: Task) -> Architecture:
    return with_num_classes(architecture, len(task.data.class_names))


def _wide(architecture: Architecture, network: Network) -> StateDict:
    return scatter_classes(architecture, network.state, [network.task])


def _mean(
    architecture: Architecture, wides: Sequence[StateDict], networks: Sequence[Network], task: Task
) -> StateDict:
    data, every = task.data, _all_classes(architecture, task)
    total: StateDict = {}
    count: StateDict = {}
    for wide, network in zip(wides, networks, strict=True):
        has = class_table(data, [network.task], architecture.classes)[0] >= 0
        ones = {name: tensor.new_ones(tensor.shape) for name, tensor in wide.items()}
        used = pad_with_zeros(every, ones, has)
        total = {name: total.get(name, 0) + tensor for name, tensor in wide.items()}
        count = {name: count.get(name, 0) + tensor for name, tensor in used.items()}
    mean = {name: (tensor / count[name].clamp(min=1)).to(tensor.dtype) for name, tensor in total.items()}
    return gather_classes(architecture, mean, [task])
