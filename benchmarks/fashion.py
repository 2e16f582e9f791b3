"""A hundred Fashion-MNIST networks trained side by side, and what their mean is worth."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from canon.spec import Axis, Group, PermutationSpec

# Debian's package dataset-fashion-mnist
FOLDER = Path("/usr/share/datasets/fashion-mnist")
WIDTHS, NETWORKS, EPOCHS, BATCH = (784, 128, 128, 10), 100, 3, 128


def spec() -> PermutationSpec:
    groups = {f"h{i}": Group(f"h{i}", WIDTHS[i], scale="positive") for i in (1, 2)}
    axes = {}
    for i in (1, 2, 3):
        out = Axis.units(f"h{i}", WIDTHS[i], power=1) if i < 3 else Axis.fixed(WIDTHS[i])
        into = Axis.units(f"h{i - 1}", WIDTHS[i - 1], power=-1) if i > 1 else Axis.fixed(WIDTHS[0])
        axes |= {f"layers.{i}.weight": (out, into), f"layers.{i}.bias": (out,)}
    return PermutationSpec(groups, axes)


def run(state: dict[str, Tensor], x: Tensor) -> Tensor:
    for i in (1, 2, 3):
        x = x @ state[f"layers.{i}.weight"].mT + state[f"layers.{i}.bias"].unsqueeze(-2)
        x = x.relu() if i < 3 else x
    return x


def read(part: str) -> tuple[Tensor, Tensor]:
    def raw(kind: str, skip: int) -> np.ndarray:
        data = gzip.decompress((FOLDER / f"{part}-{kind}-ubyte.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=skip).copy()

    x = torch.from_numpy(raw("images-idx3", 16)).view(-1, 784).float() / 255
    return x, torch.from_numpy(raw("labels-idx1", 8)).long()


def zoo(path: Path) -> dict[str, Tensor]:
    """The networks of `path`; trained and written there when it does not exist (minutes on a core)."""
    if not path.exists():
        save_file(_train(), path)
    stored = load_file(path)
    return {name: stored[name] for name in spec().axes}


def _train() -> dict[str, Tensor]:
    x, y = read("train")
    x, generator = (x - x.mean()) / x.std(), torch.Generator().manual_seed(0)
    state = {}
    for i in (1, 2, 3):
        into, out = WIDTHS[i - 1], WIDTHS[i]
        for name, shape in (("weight", (out, into)), ("bias", (out,))):
            uniform = torch.rand(NETWORKS, *shape, generator=generator) * 2 - 1
            state[f"layers.{i}.{name}"] = (uniform / into**0.5).requires_grad_()
    steps = len(x) // BATCH
    optimizer = torch.optim.Adam(state.values(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * EPOCHS)
    for _ in range(EPOCHS):
        order = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(NETWORKS)])
        for batch in order[:, : steps * BATCH].split(BATCH, dim=1):
            loss = cross_entropy(run(state, x[batch]).flatten(0, 1), y[batch].flatten()) * NETWORKS
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: t.detach().contiguous() for name, t in state.items()}


def test_data() -> tuple[Tensor, Tensor]:
    train = read("train")[0]
    x, y = read("t10k")
    return (x - train.mean()) / train.std(), y


@torch.no_grad()
def accuracy(state: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
    return (run(state, data[0]).argmax(-1) == data[1]).double().mean(-1)
