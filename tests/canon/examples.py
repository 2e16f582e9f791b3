"""Small architectures whose groups are written by hand, and random weights for them."""

import torch

from canon.spec import Axis, Factor, Group, PermutationSpec


def mlp(*widths, scale="positive"):
    """Linear layers with biases; `widths` from inputs to classes."""
    last = len(widths) - 1
    names = [None, *(f"h{i}" for i in range(1, last)), None]

    def axis(number, power):
        group, size = names[number], widths[number]
        return Axis.fixed(size) if group is None else Axis.units(group, size, power=power)

    axes = {}
    for i in range(1, last + 1):
        axes[f"layers.{i}.weight"] = (axis(i, 1), axis(i - 1, -1))
        axes[f"layers.{i}.bias"] = (axis(i, 1),)
    groups = {n: Group(n, w, scale=scale) for n, w in zip(names, widths, strict=True) if n is not None}
    return PermutationSpec(groups, axes)


def run_mlp(state, x, activation=torch.relu):
    depth = len(state) // 2
    for i in range(1, depth + 1):
        x = x @ state[f"layers.{i}.weight"].mT + state[f"layers.{i}.bias"].unsqueeze(-2)
        x = activation(x) if i < depth else x
    return x


def residual_stack(stream, hidden, blocks):
    """x + down(relu(up(x))), blocks in a row, no input or output layer: nothing is anchored."""
    groups = {"stream": Group("stream", stream)}
    axes = {}
    for b in range(blocks):
        groups[f"hidden.{b}"] = Group(f"hidden.{b}", hidden)
        up, down = Axis.units(f"hidden.{b}", hidden), Axis.units("stream", stream)
        axes[f"blocks.{b}.up"] = (up, down)
        axes[f"blocks.{b}.down"] = (down, up)
    return PermutationSpec(groups, axes)


def transformer_stack(width, heads, blocks, tokens):
    """Fused qkv, projection and MLP in every block, one residual stream, the embedding at its input."""
    channels = width // heads
    stream = Axis.units("stream", width)
    groups = {"stream": Group("stream", width)}
    axes = {"embedding": (Axis.fixed(tokens), stream), "norm": (stream,)}
    for b in range(blocks):
        h, qk, vo, mlp_ = (f"{b}.{kind}" for kind in ("heads", "qk", "vo", "mlp"))
        groups[h] = Group(h, heads)
        groups[qk], groups[vo] = Group(qk, channels, within=h), Group(vo, channels, within=h)
        groups[mlp_] = Group(mlp_, 4 * width)
        query = (Factor(heads, h), Factor(channels, qk))
        value = (Factor(heads, h), Factor(channels, vo))
        axes[f"{b}.qkv"] = (Axis((query, query, value)), stream)
        axes[f"{b}.out"] = (stream, Axis((value,)))
        axes[f"{b}.up"] = (Axis.units(mlp_, 4 * width), stream)
        axes[f"{b}.down"] = (stream, Axis.units(mlp_, 4 * width))
    return PermutationSpec(groups, axes)


def weights(spec, generator, *batch, dtype=torch.float64):
    return {
        name: torch.randn(*batch, *(axis.size for axis in axes), generator=generator, dtype=dtype)
        for name, axes in spec.axes.items()
    }


def noisy(state, size, generator):
    return {n: t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in state.items()}
