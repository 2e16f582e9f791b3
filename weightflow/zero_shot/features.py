"""Inputs of the last layer: features of images, and their statistics by class.

The features are those of the population's mean network, below the layer that owns the class rows. For heads
on a frozen backbone they are the inputs themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from canon.errors import InputError
from canon.types import StateDict
from weightflow.datasets import ClassificationData, Split
from weightflow.networks.architectures import Architecture
from weightflow.zoo.store import Zoo


@dataclass(frozen=True)
class LastLayer:
    """The linear layer that owns the class rows: its module's name, weight and bias ('' without one)."""

    module: str
    weight: str
    bias: str

    @classmethod
    def of(cls, architecture: Architecture) -> LastLayer:
        """`InputError` where the class rows are not those of one linear layer."""
        with torch.device("meta"):
            modules = dict(architecture.build().named_modules())
        owners = {name.rpartition(".")[0] for name in architecture.class_axes}
        if len(owners) != 1 or not isinstance(modules[min(owners)], nn.Linear):
            raise InputError(
                f"anchors are rows of one linear last layer, which architecture '{architecture.name}' does not "
                "have: set anchors.kind=none"
            )
        (module,) = owners
        prefix = f"{module}." if module else ""
        bias = f"{prefix}bias" if f"{prefix}bias" in architecture.class_axes else ""
        return cls(module, f"{prefix}weight", bias)


def mean_network(zoo: Zoo, rows: Sequence[int]) -> StateDict:
    """The mean of some networks of a zoo, one shard in memory at a time."""
    total: dict[str, Tensor] = {}
    for _, state in zoo.by_shard(rows):
        for name, tensor in state.items():
            total[name] = total.get(name, 0) + tensor.double().sum(0)
    return {name: (tensor / len(rows)).to(torch.float32) for name, tensor in total.items()}


@torch.no_grad()
def features(
    architecture: Architecture,
    state: StateDict,
    inputs: Split,
    rows: Int[Tensor, " examples"],
    batch: int = 1024,
) -> Float[Tensor, "examples features"]:
    """What enters the last layer of a network for some examples."""
    module, found = architecture.build().eval(), []
    last = module.get_submodule(LastLayer.of(architecture).module)
    handle = last.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        for some in rows.split(batch):
            functional_call(module, state, (inputs.inputs[some],))
    finally:
        handle.remove()
    return torch.cat(found)


def examples_of(split: Split, labels: Int[Tensor, " known"]) -> Int[Tensor, " examples"]:
    return torch.nonzero(torch.isin(split.labels, labels)).squeeze(1)


def known_labels(zoo: Zoo, data: ClassificationData) -> Int[Tensor, " known"]:
    """Labels of the classes that some training network knows, in the data's order."""
    names = {name for i in zoo.rows("seen") for name in zoo.records[i].classes}
    return torch.tensor(data.class_index([name for name in data.class_names if name in names]))


def mean_rows(zoo: Zoo, data: ClassificationData, known: Tensor) -> Float[Tensor, "known width"]:
    """Each known class's weights and, last, its bias: the mean over the training networks that know it."""
    layer, place = LastLayer.of(zoo.architecture), torch.full((len(data.class_names),), -1)
    place[known] = torch.arange(len(known))
    seen = zoo.rows("seen")
    labels = [place[data.class_index(zoo.records[i].classes)] for i in seen]
    total, count = torch.zeros(()), torch.zeros(len(known), 1)
    for positions, state in zoo.by_shard(seen):
        weight = state[layer.weight].flatten(2)
        bias = state[layer.bias].unsqueeze(-1) if layer.bias else weight[..., :0]
        rows = torch.cat([weight, bias], dim=-1)
        if total.dim() == 0:
            total = torch.zeros(len(known), rows.shape[-1])
        for position, network in zip(positions.tolist(), rows, strict=True):
            own = labels[position]
            total.index_add_(0, own, network[: len(own)])
            count.index_add_(0, own, torch.ones(len(own), 1))
    return total / count
