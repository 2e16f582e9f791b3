"""Fuse networks with different classes into one network for the union of their classes.

The generator's way (Text2Weight, arXiv:2508.13633) starts from the average of the networks in the run's
frame, moved towards noise by `strength`, and generates the network that the union's prompt describes. At
strength 1 the words alone decide, and the networks only say which classes they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from canon.errors import InputError
from canon.types import StateDict
from weightflow.applications.enhance import enhance
from weightflow.applications.weight_averages import aligned_to_frame
from weightflow.batched.tasks import Task
from weightflow.flow.sampling_config import SampleConfig
from weightflow.generator.generator import Flow
from weightflow.zoo.network_file import Network


def union_of(flow: Flow, networks: Sequence[Network]) -> Task:
    """The classes of the first network, then those of the next that are new, and so on.

    `InputError` for fewer than two networks, a class that the data set lacks, or a union with more classes
    than the run supports.
    """
    if len(networks) < 2:
        raise InputError(f"{len(networks)} network to fuse; give two or more")
    task = Task(networks[0].dataset, union(*(network.prompt.classes for network in networks)))
    most, known = flow.architecture.classes, flow.header.data.classes
    unknown = [name for name in task.classes if name not in known]
    if unknown:
        raise InputError(f"the run does not know the class '{unknown[0]}'; it knows: {', '.join(known[:20])}")
    if len(task.classes) > most:
        raise InputError(f"the union has {len(task.classes)} classes; this run was built for {most} at most")
    return task


def union(*sets: Sequence[str]) -> tuple[str, ...]:
    """Every class once, in the order in which it is first named."""
    return tuple(dict.fromkeys(name for own in sets for name in own))


def fuse(
    flow: Flow,
    networks: Sequence[Network],
    strength: float = 1.0,
    seed: int = 0,
    config: SampleConfig | None = None,
) -> StateDict:
    """The network for `union_of(flow, networks)`, a stack of one."""
    task = union_of(flow, networks)
    return enhance(flow, aligned_to_frame(flow, networks, task), [task], strength, [seed], config)
