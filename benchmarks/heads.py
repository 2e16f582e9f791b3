"""TransFusion's matching of heads beside Git Re-Basin's of all pairs, and beside activations.

Planted orders under noise on a transformer, random and with orthogonal projections; trained pairs of a small
transformer and of a batch-norm CNN on digits: barriers before and after each method.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.alignment import SmallCNN, train
from benchmarks.common import write_result
from benchmarks.planted import transformer_stack
from canon.actions import permutation as perm
from canon.matching.activation_matching import match_activations
from canon.matching.weight_matching import match_weights
from canon.merging.activation_repair import reestimate_batch_norm
from canon.merging.interpolation import curve
from canon.tracing.symmetry_groups import trace

Row = dict[str, Any]
NOISE = (0.0, 0.1, 0.3, 0.5, 1.0)
METHODS = ("weights", "transfusion", "activations")


class Transformer(nn.Module):
    """Rows of an 8 x 8 picture as tokens; two pre-norm blocks of four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(8, 32), nn.Parameter(torch.randn(8, 32) * 0.1)
        layer = partial(nn.TransformerEncoderLayer, 32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(layer() for _ in range(2))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.unflatten(1, (8, 8))) + self.places
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x).mean(1))


def planted(noise: float, orthogonal: bool, cases: int) -> Row:
    """The share of heads that each way puts in their planted places."""
    spec, found = transformer_stack(64, 2, 8, 64), {"pairs": 0.0, "spectra": 0.0}
    heads = [name for name in spec.groups if name.endswith("heads")]
    for seed in range(cases):
        generator = torch.Generator().manual_seed(seed)
        a = {
            name: torch.randn([axis.size for axis in axes], generator=generator)
            for name, axes in spec.axes.items()
        }
        if orthogonal:
            for name in a:
                if name.endswith(("qkv", "out")):
                    a[name] = torch.cat([torch.linalg.qr(part).Q * 8 for part in a[name].split(64)])
        p = perm.random(spec, generator)
        b = {
            name: tensor + noise * torch.randn(tensor.shape, generator=generator)
            for name, tensor in perm.apply(spec, p, a).items()
        }
        wanted = perm.invert(spec, p)
        for way in found:
            match = match_weights(spec, a, b, heads=way)
            right = torch.cat([match.permutation[name] == wanted[name] for name in heads])
            found[way] += right.double().mean().item() / cases
    kind = "orthogonal projections" if orthogonal else "random projections"
    return {"table": "planted heads", "network": kind, "noise": noise, "cases": cases, "recovered": found}


def barriers(name: str, build: Callable[[], nn.Module], pairs: int, epochs: int) -> Row:
    """Loss barriers on held-out digits of independently trained pairs, before and after each method."""
    digits = load_digits()
    x, y = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    train_x, train_y, test = x[:1200], y[:1200], (x[1200:], y[1200:])
    found: dict[str, list[float]] = {"unaligned": []} | {method: [] for method in METHODS}
    accuracies = []
    for pair in range(pairs):
        a, b = (train(build, 2 * pair + n, train_x, train_y, epochs) for n in (0, 1))
        spec, ours, theirs = trace(a, x[:2]), a.state_dict(), b.state_dict()
        matches = {
            "weights": match_weights(spec, ours, theirs),
            "transfusion": match_weights(spec, ours, theirs, heads="spectra"),
            "activations": match_activations(spec, a, b, [train_x]),
        }
        states = {"unaligned": theirs}
        states |= {way: perm.apply(spec, match.permutation, theirs) for way, match in matches.items()}

        def repair(merged: dict[str, Tensor], weight: float, model: nn.Module = a) -> dict[str, Tensor]:
            return reestimate_batch_norm(model, merged, lambda: [train_x]) if 0 < weight < 1 else merged

        for way, state in states.items():
            line = curve(a, ours, state, lambda: [test], repair=repair)
            found[way].append(line.loss_barrier)
            accuracies += [line.scores[0].accuracy, line.scores[-1].accuracy]
    means = {way: sum(values) / len(values) for way, values in found.items()}
    accuracy = sum(accuracies) / len(accuracies)
    return {"table": "barriers", "network": name, "pairs": pairs, "accuracy": accuracy, "mean": means, "each": found}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=12)
    asked = parser.parse_args()
    started, rows = time.perf_counter(), []
    for orthogonal in (False, True):
        for noise in NOISE:
            rows.append(planted(noise, orthogonal, asked.cases))
            print(rows[-1], flush=True)
    for name, build in (("transformer", Transformer), ("batch-norm CNN", SmallCNN)):
        rows.append(barriers(name, build, asked.pairs, asked.epochs))
        print(rows[-1], flush=True)
    size = f"{asked.cases} planted transformers of 2 blocks and 8 heads, {asked.pairs} trained pairs"
    seconds = time.perf_counter() - started
    print(write_result("heads", size=size, seeds=[0], seconds=seconds, rows=rows, aims=[]))


if __name__ == "__main__":
    main()
