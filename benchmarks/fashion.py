"""Hundreds of Fashion-MNIST networks trained side by side, in two kinds, and what their mean is worth.

Two kinds of zoo, since the start of training decides how far apart networks end: "torch" begins as
`nn.Linear` does, on standardised images; "he" begins with He et al.'s normal weights and no biases, on
images in [0, 1]. The last 5,000 training images are never trained on: choices are made on them.

python -m benchmarks.fashion FOLDER --kind he --seed 1     trains one zoo: three minutes on a core
python -m benchmarks.fashion FOLDER --choose               what the default's settings were chosen by
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from canon.actions import permutation as perm
from canon.matching import population
from canon.matching.weight_matching import match_weights
from canon.spec import Axis, Group, PermutationSpec

# Debian's package dataset-fashion-mnist
FOLDER = Path("/usr/share/datasets/fashion-mnist")
WIDTHS, NETWORKS, EPOCHS, BATCH = (784, 128, 128, 10), 100, 2, 128
KINDS = ("torch", "he")
HELD_OUT = 5_000
# Settings were chosen on zoos of the one seed; figures are told of zoos of the other.
CHOSEN_ON, REPORTED = 0, 1

Images = tuple[Tensor, Tensor]


def spec() -> PermutationSpec:
    groups = {f"h{i}": Group(f"h{i}", WIDTHS[i], scale="positive") for i in (1, 2)}
    axes = {}
    for i in (1, 2, 3):
        out = Axis.units(f"h{i}", WIDTHS[i], power=1) if i < 3 else Axis.fixed(WIDTHS[i])
        into = Axis.units(f"h{i - 1}", WIDTHS[i - 1], power=-1) if i > 1 else Axis.fixed(WIDTHS[0])
        axes |= {f"layers.{i}.weight": (out, into), f"layers.{i}.bias": (out,)}
    return PermutationSpec(groups, axes)


def run(state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    for i in (1, 2, 3):
        x = x @ state[f"layers.{i}.weight"].mT + state[f"layers.{i}.bias"].unsqueeze(-2)
        x = x.relu() if i < 3 else x
    return x


def images(part: str, kind: str) -> Images:
    """Images as networks of `kind` read them, and classes: of "train", "validation" or "test"."""
    x, y = _read("train")
    mean, deviation = (x.mean(), x.std()) if kind == "torch" else (0.0, 1.0)
    if part == "test":
        x, y = _read("t10k")
    else:
        rows = slice(None, -HELD_OUT) if part == "train" else slice(-HELD_OUT, None)
        x, y = x[rows], y[rows]
    return (x - mean) / deviation, y


def _read(part: str) -> Images:
    def raw(kind: str, skip: int) -> np.ndarray:
        data = gzip.decompress((FOLDER / f"{part}-{kind}-ubyte.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=skip).copy()

    x = torch.from_numpy(raw("images-idx3", 16)).view(-1, 784).float() / 255
    return x, torch.from_numpy(raw("labels-idx1", 8)).long()


def zoo(folder: Path, kind: str, seed: int) -> dict[str, Tensor]:
    """The networks of one kind and seed, stacked; trained and kept in `folder` where they are not there."""
    path = folder / f"{kind}-{seed}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_train(kind, seed), path)
    stored = load_file(path)
    return {name: stored[name] for name in spec().axes}


def _begin(kind: str, generator: torch.Generator) -> dict[str, Tensor]:
    state = {}
    for i in (1, 2, 3):
        into, out = WIDTHS[i - 1], WIDTHS[i]
        for name, shape in (("weight", (out, into)), ("bias", (out,))):
            if kind == "torch":
                drawn = (torch.rand(NETWORKS, *shape, generator=generator) * 2 - 1) / into**0.5
            elif name == "weight":
                drawn = torch.randn(NETWORKS, *shape, generator=generator) * (2 / into) ** 0.5
            else:
                drawn = torch.zeros(NETWORKS, *shape)
            state[f"layers.{i}.{name}"] = drawn.requires_grad_()
    return state


def _train(kind: str, seed: int) -> dict[str, Tensor]:
    (x, y), generator = images("train", kind), torch.Generator().manual_seed(seed)
    state, steps = _begin(kind, generator), len(x) // BATCH
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


@torch.no_grad()
def accuracy(state: Mapping[str, Tensor], data: Images) -> Tensor:
    """Of one network, or of each of a stack."""
    x, y = data
    if state["layers.1.bias"].dim() > 1:
        rows = [{n: t[i] for n, t in state.items()} for i in range(len(state["layers.1.bias"]))]
        return torch.stack([accuracy(row, data) for row in rows])
    return (run(state, x).argmax(-1) == y).double().mean()


def ways(spec: PermutationSpec, networks: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The stack as it is, by Git Re-Basin to its first network, and by canon's ways; the default last."""
    first = {n: t[0] for n, t in networks.items()}
    plain = match_weights(spec, first, networks, start="identity").permutation
    return {
        "unaligned": networks,
        "Git Re-Basin to network 0": perm.apply(spec, plain, networks),
        "balance, then to network 0": population.align_many(spec, networks, reference="first").state,
        "default without balance": population.align_many(spec, networks, balance=False).state,
        "default": population.align_many(spec, networks).state,
    }


def choose(folder: Path) -> None:
    """What each weight of the outputs is worth on validation images of the zoos that choices are made on."""
    for kind in KINDS:
        networks, data = zoo(folder, kind, CHOSEN_ON), images("validation", kind)
        average = float(accuracy(networks, data).mean())
        for outputs in (1.0, 3.0, 10.0, 30.0):
            state = population.align_many(spec(), networks, outputs=outputs).state
            reached = float(accuracy({n: t.mean(0) for n, t in state.items()}, data)) / average
            print(f"{kind}: outputs count {outputs:g} times: {reached:.3f} of the zoo's accuracy", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where zoos are kept")
    parser.add_argument("--kind", choices=KINDS, default="torch")
    parser.add_argument("--seed", type=int, default=REPORTED)
    parser.add_argument("--choose", action="store_true", help="compare settings on validation images")
    asked = parser.parse_args()
    if asked.choose:
        choose(asked.folder)
        return
    trained = zoo(asked.folder, asked.kind, asked.seed)
    reached = accuracy(trained, images("validation", asked.kind))
    print(f"{asked.kind}-{asked.seed}: validation accuracy {reached.mean():.4f} ± {reached.std():.4f}")


if __name__ == "__main__":
    main()
