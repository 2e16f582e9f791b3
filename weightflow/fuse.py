"""Two networks for two sets of classes, one network for their union.

The straight way averages the two in the run's frame, each class's row from whoever knows it (Git
Re-Basin averaging). The generator's way (Text2Weight, arXiv:2508.13633) starts from that average, moved
towards noise by `strength`, and generates the network that the union's prompt describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from canon.errors import InputError
from weightflow import datasets
from weightflow.canonicalize import follow, gather_classes, scatter_classes, widen
from weightflow.enhance import enhance
from weightflow.network import Network
from weightflow.sample import Flow
from weightflow.sampleconfig import SampleConfig
from weightflow.zoo.logits import State, class_table, pad_with_zeros
from weightflow.zoo.tasks import Task


@dataclass(frozen=True)
class Fused:
    """Stacks of one: the generated network for `task`, and the average that it started from."""

    task: Task
    generated: State
    average: State


def union(a: Sequence[str], b: Sequence[str]) -> tuple[str, ...]:
    """The classes of `a`, then those of `b` that are new."""
    return tuple(dict.fromkeys([*a, *b]))


def fuse(
    flow: Flow,
    a: Network,
    b: Network,
    strength: float = 1.0,
    seed: int = 0,
    config: SampleConfig | None = None,
) -> Fused:
    """`InputError` where the union has more classes than the run supports."""
    task = Task(a.dataset, union(a.prompt.classes, b.prompt.classes))
    most = flow.architecture.classes
    if len(task.classes) > most:
        raise InputError(f"the union has {len(task.classes)} classes; this run was built for {most} at most")
    average = average_by_class(flow, [a, b], task)
    return Fused(task, enhance(flow, average, [task], strength, [seed], config), average)


def average_by_class(flow: Flow, networks: Sequence[Network], task: Task) -> State:
    """The mean of networks in the run's frame, each class's row over the networks that know the class."""
    architecture, data = flow.architecture, datasets.load(task.dataset)
    total: State = {}
    count: State = {}
    for network in networks:
        aligned = follow(architecture, flow.frame, network.state, [network.task])
        wide = scatter_classes(architecture, aligned, [network.task])
        has = class_table(data, [network.task], architecture.classes)[0] >= 0
        ones = {name: tensor.new_ones(tensor.shape) for name, tensor in wide.items()}
        used = pad_with_zeros(widen(architecture, len(data.class_names)), ones, has)
        total = {name: total.get(name, 0) + tensor for name, tensor in wide.items()}
        count = {name: count.get(name, 0) + tensor for name, tensor in used.items()}
    mean = {name: tensor / count[name].clamp(min=1) for name, tensor in total.items()}
    return gather_classes(architecture, mean, [task])
