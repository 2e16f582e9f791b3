"""Which symmetries `canon.trace` finds in well-known networks, and that they keep the function.

For each network: random weights, random running statistics, constants perturbed; then random elements
of all groups and scales at once are applied and the module itself (not its exported graph) is run in
float64. Reported are the largest relative change of an output, the share of the parameters at
positions that move, what cannot move and why, and seconds to trace and check.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import canon
from benchmarks.common import write_result
from canon.actions import permutation
from canon.actions.scaling import apply_scale
from canon.spec import PermutationSpec
from canon.tracing.numerical_check import TOLERANCE, random_scales
from canon.tracing.output_comparison import relative_difference


class LlamaBlock(nn.Module):
    """Embedding, one block of rotary grouped-query attention and SwiGLU between RMSNorms, tied output."""

    def __init__(
        self, width: int = 64, heads: int = 8, kv_heads: int = 2, hidden: int = 96, words: int = 50
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.channels = heads, kv_heads, width // heads
        self.embedding = nn.Embedding(words, width)
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(width) for _ in range(3))
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, kv_heads * self.channels, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def rotate(self, x: Tensor) -> Tensor:
        frequencies = 1e4 ** (-torch.arange(0, self.channels, 2, device=x.device).to(x) / self.channels)
        angles = torch.arange(x.shape[-2], device=x.device).to(x)[:, None] * frequencies
        angles = torch.cat([angles, angles], -1)
        a, b = x.chunk(2, -1)
        return x * angles.cos() + torch.cat([-b, a], -1) * angles.sin()

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(-1, (-1, self.channels)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (self.rotate(k), v))
        y = F.scaled_dot_product_attention(self.rotate(q), k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return F.linear(self.norm3(x), self.embedding.weight)


def dcgan_generator(noise: int = 100, width: int = 64) -> nn.Module:
    layers: list[nn.Module] = []
    widths = [noise, width * 8, width * 4, width * 2, width]
    for number, (before, after) in enumerate(pairwise(widths)):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())


def timm_vit() -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", pretrained=False)


def bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=50, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=16,
        )
    )  # fmt: skip


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50, n_embd=64, n_layer=3, n_head=4, n_positions=16, use_cache=False, bos_token_id=0,
            eos_token_id=0,
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    words: int | None = None


def _torchvision(name: str, size: int = 64) -> Row:
    return Row(lambda: getattr(torchvision.models, name)(weights=None), (2, 3, size, size))


NETWORKS = {
    **{name: _torchvision(name) for name in ("resnet18", "resnet50", "vgg11", "densenet121")},
    **{name: _torchvision(name) for name in ("mobilenet_v3_small", "efficientnet_b0", "convnext_tiny")},
    "vit_b_16": _torchvision("vit_b_16", 224),
    "swin_t": _torchvision("swin_t"),
    "timm vit_tiny_patch16_224": Row(timm_vit, (2, 3, 224, 224)),
    "Hugging Face BERT": Row(bert, (2, 8), words=50),
    "Hugging Face GPT-2": Row(gpt2, (2, 8), words=50),
    "Llama-like block": Row(LlamaBlock, (2, 8), words=50),
    "DCGAN generator": Row(dcgan_generator, (2, 100, 1, 1)),
}


def disturb(module: nn.Module, generator: torch.Generator) -> None:
    """Running statistics at random, constants perturbed, so that nothing agrees by chance."""
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name.endswith("running_mean"):
            tensor.copy_(0.2 * noise - 0.1)
        elif name.endswith("running_var"):
            tensor.copy_(noise + 0.5)
        elif tensor.numel() > 1 and tensor.std() == 0:
            tensor.add_(0.2 * noise - 0.1)


def moving_share(spec: PermutationSpec, state: dict[str, Tensor]) -> float:
    """Share of the parameters that lie at a position which some group moves, along at least one axis."""
    total = moving = 0.0
    for name, axes in spec.axes.items():
        if name in spec.statistics:
            continue
        count = state[name].numel()
        still = math.prod(1 - _moving(axis) / axis.size for axis in axes)
        total, moving = total + count, moving + count * (1 - still)
    return moving / total


def _moving(axis: Any) -> int:
    return sum(
        math.prod(f.size for f in segment)
        for segment in axis.segments
        if any(f.group is not None for f in segment)
    )


def outputs(module: nn.Module, state: dict[str, Tensor], example: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = torch.func.functional_call(module, state, (example,), tie_weights=False)
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]


def measure(name: str, row: Row, seeds: list[int]) -> dict[str, Any]:
    torch.manual_seed(seeds[0])
    module = row.build().double().eval()
    generator = torch.Generator().manual_seed(seeds[0])
    disturb(module, generator)
    if row.words is None:
        example = torch.randn(row.shape, generator=generator, dtype=torch.float64)
    else:
        example = torch.randint(row.words, row.shape, generator=generator)
    start = time.perf_counter()
    spec = canon.trace(module, (example,))
    seconds = time.perf_counter() - start
    state = dict(module.state_dict())
    reference, differences = outputs(module, state, example), []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        moved = apply_scale(spec, random_scales(spec, generator), state)
        moved = permutation.apply(spec, permutation.random(spec, generator), moved)
        differences.append(relative_difference(reference, outputs(module, moved, example)))
    groups = spec.groups.values()
    return {
        "network": name,
        "input": list(row.shape),
        "parameters": sum(p.numel() for p in module.parameters()),
        "moving_share": round(moving_share(spec, state), 6),
        "groups": len(spec.groups),
        "nested_groups": sum(group.within is not None for group in groups),
        "scale_groups": sum(group.scale != "none" for group in groups),
        "relative_difference": max(differences),
        "relative_differences": differences,
        "frozen": spec.frozen,
        "seconds": round(seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), help="measure these networks only")
    parser.add_argument("--seeds", type=int, default=2, help="random elements for each network")
    asked = parser.parse_args()
    seeds = list(range(asked.seeds))
    start, rows = time.perf_counter(), []
    for name in asked.only or NETWORKS:
        rows.append(measure(name, NETWORKS[name], seeds))
        r = rows[-1]
        print(
            f"{name:28} {r['groups']:4} groups  {100 * r['moving_share']:6.2f} % moving  "
            f"{r['relative_difference']:.1e}  {r['seconds']:6.1f} s",
            flush=True,
        )
    aims = [
        {
            "name": f"{r['network']}: function preserved in float64 (relative)",
            "aim": f"<= {TOLERANCE:g}",
            "value": r["relative_difference"],
            "interval": [min(r["relative_differences"]), max(r["relative_differences"])],
            "met": r["relative_difference"] <= TOLERANCE and r["groups"] > 0,
        }
        for r in rows
    ]
    if asked.only:
        return
    size = "networks of full size with random weights, images 64x64 (transformers 224x224), 2 examples"
    print(
        write_result(
            "symmetries", size=size, seeds=seeds, seconds=time.perf_counter() - start, rows=rows, aims=aims
        )
    )


if __name__ == "__main__":
    main()
