"""Bare checkpoints of well-known families, recognised by keys and shapes alone.

A family is a function that uses the checkpoint's tensors as the real network does. It is traced and
proved like any network, on the checkpoint's own weights. A checkpoint belongs to a family only if the
function reads every tensor in it. What shapes do not tell is never guessed: activations of a plain
`nn.Sequential` bear no scale, and heads move only where their number is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from canon.errors import InputError
from canon.proof import freeze
from canon.sketch import Sketch, Tensors, attend
from canon.spec import PermutationSpec
from canon.trace import trace

_WAYS_OUT = (
    "say how to build the network with `--model pkg.mod:build`, or give a `.pt2` file "
    "(torch.export.save), which needs no code"
)
_HEADS = {128: 2, 192: 3, 256: 4, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 20, 1600: 25}
_VIT_HEADS = _HEADS | {1280: 16, 1408: 16, 1664: 16}


@dataclass(frozen=True)
class Family:
    """What a checkpoint must hold, the smallest input, and the function.

    `attention` ends the keys whose rows are query, key and value channels.
    """

    forward: Callable[[Tensors, Tensor, int], Any]
    fits: Callable[[Tensors], bool]
    input: Callable[[Tensors], Tensor]
    heads: Mapping[int, int] | None = None
    attention: tuple[str, ...] = ()


def recognise(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    name: str | None = None,
    *,
    prove: bool = True,
) -> PermutationSpec:
    """The spec of a checkpoint, from its metadata or its keys and shapes; `name` names the family.

    A package may teach canon its own `architecture` metadata with an entry point of the group
    "canon.architectures": a callable from the decoded metadata to a module and its example inputs, or
    to None. Raises `InputError` that shows the ways out where nothing fits.
    """
    metadata = metadata or {}
    if name is not None and name not in FAMILIES:
        raise InputError(f"family '{name}' is not known; canon knows {', '.join(sorted(FAMILIES))}")
    built = None if name else from_metadata(metadata)
    if built is not None:
        module, inputs = built
        spec = trace(module, inputs, prove=prove)
        spec.check(state)
        return spec
    tried = []
    for label, family in FAMILIES.items() if name is None else [(name, FAMILIES[name])]:
        if name is None and not family.fits(Tensors(state)):
            continue
        try:
            return _sketch(state, family, metadata, prove)
        except InputError as error:
            tried.append(f"{label}: {error}")
    reasons = f" ({'; '.join(tried)})" if tried else ""
    keys = ", ".join(list(state)[:3])
    raise InputError(
        f"no family known to canon has these {len(state)} tensors ({keys}, …){reasons}; {_WAYS_OUT}"
    )


def from_metadata(metadata: Mapping[str, str]) -> tuple[Any, Any] | None:
    """The module and its example inputs, where an installed package knows the file's `architecture`."""
    if "architecture" not in metadata:
        return None
    try:
        architecture = json.loads(metadata["architecture"])
    except json.JSONDecodeError:
        return None
    for entry in entry_points(group="canon.architectures"):
        if (built := entry.load()(architecture)) is not None:
            return built
    return None


def _sketch(
    state: Mapping[str, Tensor], family: Family, metadata: Mapping[str, str], prove: bool
) -> PermutationSpec:
    tensors = Tensors(state)
    heads = _number_of_heads(tensors, family, metadata)
    try:
        example = family.input(tensors)
        with torch.no_grad():
            family.forward(tensors, example, heads or 1)
    except KeyError as error:
        raise InputError(f"{error.args[0]} is missing") from None
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(f"the shapes do not fit: {str(error).splitlines()[0]}") from None
    unread = [key for key in state if key not in tensors.read and not key.endswith("num_batches_tracked")]
    if unread:
        raise InputError(f"it has no {', '.join(unread[:3])}")
    sketch = Sketch(state, lambda given, x: family.forward(given, x, heads or 1))
    spec = trace(sketch, (example,), prove=prove)
    return spec if heads or not family.attention else _without_heads(spec, family)


def _number_of_heads(tensors: Tensors, family: Family, metadata: Mapping[str, str]) -> int | None:
    if family.heads is None:
        return None
    for key in ("num_attention_heads", "num_heads", "n_head"):
        if metadata.get(key, "").isdigit():
            return int(metadata[key])
    return family.heads.get(_width(tensors))


def _without_heads(spec: PermutationSpec, family: Family) -> PermutationSpec:
    reason = "the number of heads is not in the checkpoint"
    rows = {
        group
        for tensor, axes in spec.axes.items()
        for ending, axis in ((ending, axes[-1 if ending.endswith(">") else 0]) for ending in family.attention)
        if tensor.endswith(ending.removesuffix(">"))
        for group in axis.groups
    }
    for group in rows:
        spec = freeze(spec, group, reason) if group in spec.groups else spec
    return spec


def _width(tensors: Tensors) -> int:
    for key in _WIDTHS:
        if key in tensors:
            return tensors[key].shape[-1]
    return 0


_WIDTHS = (
    "encoder.ln.weight",
    "norm.weight",
    "fc_norm.weight",
    "embeddings.LayerNorm.weight",
    "bert.embeddings.LayerNorm.weight",
    "ln_f.weight",
    "transformer.ln_f.weight",
)


# plain stacks of layers


def _stacks(tensors: Tensors) -> list[str]:
    """The prefixes of the stacks: one `nn.Sequential`, or `features` and `classifier`."""
    names = tensors.children()
    if names and all(name.isdigit() for name in names):
        return [""]
    if set(names) == {"features", "classifier"}:
        return ["features.", "classifier."]
    return [f"{names[0]}."] if len(names) == 1 else []


def _is_stack(tensors: Tensors) -> bool:
    stacks = _stacks(tensors)
    return bool(stacks) and all(
        name.isdigit() and all("." not in leaf for leaf in _leaves(tensors, f"{stack}{name}."))
        for stack in stacks
        for name in tensors.children(stack)
    )


def _leaves(tensors: Tensors, prefix: str) -> list[str]:
    return [
        f"{a}.{b}" if b else a
        for a in tensors.children(prefix)
        for b in (tensors.children(f"{prefix}{a}.") or [""])
    ]


def _layers(tensors: Tensors) -> list[str]:
    return [f"{stack}{name}" for stack in _stacks(tensors) for name in tensors.children(stack)]


def _stack_input(tensors: Tensors) -> Tensor:
    weight = tensors[f"{_layers(tensors)[0]}.weight"]
    return torch.randn(2, weight.shape[1], *([4] * (weight.dim() - 2)), generator=_generator())


def _stack(tensors: Tensors, x: Tensor, heads: int) -> Tensor:
    # GELU stands for an activation that is not known: it bears permutations and no scale.
    known = _stacks(tensors) == ["features.", "classifier."]
    activation = F.relu if known else F.gelu
    layers = _layers(tensors)
    for number, layer in enumerate(layers):
        weight = tensors[f"{layer}.weight"]
        if weight.dim() > 2:
            if x.dim() != weight.dim() or x.shape[1] != weight.shape[1]:
                raise ValueError(f"{layer} takes {weight.shape[1]} channels and is given {x.shape[1]}")
            x = tensors.conv(layer, x)
        elif weight.dim() == 2:
            x = tensors.linear(layer, _flat(x, weight.shape[1], layer))
        elif f"{layer}.running_mean" in tensors:
            x = tensors.batch_norm(layer, x)
        elif x.dim() == 2 and f"{layer}.bias" in tensors:
            x = tensors.layer_norm(layer, x)
        else:
            raise ValueError(f"{layer} is a norm or slope that shapes do not tell apart")
        if number < len(layers) - 1:
            x = activation(x)
    return x


def _flat(x: Tensor, features: int, layer: str) -> Tensor:
    """Channels times positions, as many of those as the linear layer takes."""
    if x.dim() > 2:
        positions, rest = divmod(features, x.shape[1])
        if rest:
            raise ValueError(f"{layer} takes {features} features, no multiple of {x.shape[1]} channels")
        x = F.adaptive_avg_pool1d(x.flatten(2), positions).flatten(1)
    return x


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# residual networks


def _image(key: str) -> Callable[[Tensors], Tensor]:
    return lambda tensors: torch.randn(2, tensors[key].shape[1], 4, 4, generator=_generator())


def _resnet(tensors: Tensors, x: Tensor, heads: int) -> Tensor:
    """torchvision's ResNets and ResNeXts, and the CIFAR ones with padded or projected shortcuts."""
    x = F.relu(tensors.batch_norm("bn1", tensors.conv("conv1", x)))
    stages = sorted(name for name in tensors.children() if name.startswith("layer"))
    for stage in stages:
        for number in tensors.children(f"{stage}."):
            x = _residual(tensors.under(f"{stage}.{number}."), x)
    x = x.mean((2, 3))
    head = next((name for name in ("fc", "linear") if f"{name}.weight" in tensors), None)
    return x if head is None else tensors.linear(head, x)


def _residual(block: Tensors, x: Tensor) -> Tensor:
    h, depth = x, 3 if "conv3.weight" in block else 2
    for n in range(1, depth + 1):
        h = block.batch_norm(f"bn{n}", block.conv(f"conv{n}", h))
        h = F.relu(h) if n < depth else h
    shortcut = next((name for name in ("downsample", "shortcut") if f"{name}.0.weight" in block), None)
    if shortcut:
        x = block.batch_norm(f"{shortcut}.1", block.conv(f"{shortcut}.0", x))
    elif extra := h.shape[1] - x.shape[1]:
        x = F.pad(x, (0, 0, 0, 0, extra // 2, extra - extra // 2))
    return F.relu(h + x)


# transformers


def _patch_image(key: str) -> Callable[[Tensors], Tensor]:
    def make(tensors: Tensors) -> Tensor:
        _, channels, rows, columns = tensors[key].shape
        return torch.randn(1, channels, 2 * rows, 2 * columns, generator=_generator())

    return make


def _torchvision_vit(t: Tensors, x: Tensor, heads: int) -> Tensor:
    x = t.patches("conv_proj", x)
    x = torch.cat([t["class_token"].expand(len(x), -1, -1), x], 1)
    x = x + t["encoder.pos_embedding"][:, : x.shape[1]]
    for number in range(len(t.children("encoder.layers."))):
        block = t.under(f"encoder.layers.encoder_layer_{number}.")
        y = block.layer_norm("ln_1", x)
        qkv = F.linear(y, block["self_attention.in_proj_weight"], block["self_attention.in_proj_bias"])
        x = x + block.linear("self_attention.out_proj", attend(*qkv.chunk(3, -1), heads=heads))
        first, second = ("mlp.0", "mlp.3") if "mlp.0.weight" in block else ("mlp.linear_1", "mlp.linear_2")
        x = x + block.linear(second, F.gelu(block.linear(first, block.layer_norm("ln_2", x))))
    return t.linear("heads.head", t.layer_norm("encoder.ln", x)[:, 0])


def _timm_vit(t: Tensors, x: Tensor, heads: int) -> Tensor:
    x = t.patches("patch_embed.proj", x)
    if "cls_token" in t:
        x = torch.cat([t["cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + t["pos_embed"][:, : x.shape[1]]
    for number in t.children("blocks."):
        block = t.under(f"blocks.{number}.")
        qkv = block.linear("attn.qkv", block.layer_norm("norm1", x))
        y = block.linear("attn.proj", attend(*qkv.chunk(3, -1), heads=heads))
        x = x + (y * block["ls1.gamma"] if "ls1.gamma" in block else y)
        y = block.linear("mlp.fc2", F.gelu(block.linear("mlp.fc1", block.layer_norm("norm2", x))))
        x = x + (y * block["ls2.gamma"] if "ls2.gamma" in block else y)
    x = t.layer_norm("norm", x) if "norm.weight" in t else x
    x = x[:, 0] if "cls_token" in t and "fc_norm.weight" not in t else x.mean(1)
    x = t.layer_norm("fc_norm", x) if "fc_norm.weight" in t else x
    return t.linear("head", x) if "head.weight" in t else x


def _ids(tensors: Tensors) -> Tensor:
    return torch.arange(4)[None]


def _bert(t: Tensors, ids: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Whatever heads the checkpoint holds; a bare encoder shows its residual stream, which then stays."""
    bert = t.under("bert.") if "bert.embeddings.word_embeddings.weight" in t else t
    words = bert["embeddings.word_embeddings.weight"]
    bert.get("embeddings.position_ids")
    x = F.embedding(ids, words) + bert["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = x + F.embedding(ids * 0, bert["embeddings.token_type_embeddings.weight"])
    x = bert.layer_norm("embeddings.LayerNorm", x)
    for number in bert.children("encoder.layer."):
        block = bert.under(f"encoder.layer.{number}.")
        q, k, v = (block.linear(f"attention.self.{name}", x) for name in ("query", "key", "value"))
        y = block.linear("attention.output.dense", attend(q, k, v, heads=heads))
        x = block.layer_norm("attention.output.LayerNorm", x + y)
        y = block.linear("output.dense", F.gelu(block.linear("intermediate.dense", x)))
        x = block.layer_norm("output.LayerNorm", x + y)
    return _bert_heads(t, bert, x, words)


def _bert_heads(t: Tensors, bert: Tensors, x: Tensor, words: Tensor) -> tuple[Tensor, ...]:
    outputs = []
    pooled = torch.tanh(bert.linear("pooler.dense", x[:, 0])) if "pooler.dense.weight" in bert else None
    if "cls.predictions.transform.dense.weight" in t:
        y = F.gelu(t.linear("cls.predictions.transform.dense", x))
        y = t.layer_norm("cls.predictions.transform.LayerNorm", y)
        decoder = t.get("cls.predictions.decoder.weight")
        t.get("cls.predictions.decoder.bias")
        bias = t.get("cls.predictions.bias")
        outputs.append(F.linear(y, words if decoder is None else decoder, bias))
    if "cls.seq_relationship.weight" in t and pooled is not None:
        outputs.append(t.linear("cls.seq_relationship", pooled))
    if "classifier.weight" in t:
        outputs.append(t.linear("classifier", x if pooled is None else pooled))
    if "qa_outputs.weight" in t:
        outputs.append(t.linear("qa_outputs", x))
    if not outputs:
        outputs = [x] if pooled is None else [x, pooled]
    return tuple(outputs)


def _gpt2(t: Tensors, ids: Tensor, heads: int) -> Tensor:
    """With `transformer.` before its keys a language model, else a bare stack that shows its stream."""
    gpt = t.under("transformer.") if "transformer.wte.weight" in t else t
    x = F.embedding(ids, gpt["wte.weight"]) + gpt["wpe.weight"][: ids.shape[1]]
    for number in gpt.children("h."):
        block = gpt.under(f"h.{number}.")
        block.get("attn.bias"), block.get("attn.masked_bias")
        qkv = _conv1d(block, "attn.c_attn", block.layer_norm("ln_1", x))
        x = x + _conv1d(block, "attn.c_proj", attend(*qkv.chunk(3, -1), heads=heads, causal=True))
        y = F.gelu(_conv1d(block, "mlp.c_fc", block.layer_norm("ln_2", x)))
        x = x + _conv1d(block, "mlp.c_proj", y)
    x = gpt.layer_norm("ln_f", x)
    if gpt is t and "lm_head.weight" not in t:
        return x
    head = t.get("lm_head.weight")
    return F.linear(x, gpt["wte.weight"] if head is None else head)


def _conv1d(t: Tensors, key: str, x: Tensor) -> Tensor:
    """Hugging Face's Conv1D: a linear layer with its weight the other way round."""
    return x @ t[f"{key}.weight"] + t[f"{key}.bias"]


def _has(*keys: str) -> Callable[[Tensors], bool]:
    return lambda tensors: all(key in tensors for key in keys)


def _has_prefixed(prefix: str, key: str) -> Callable[[Tensors], bool]:
    return lambda tensors: key in tensors or prefix + key in tensors


FAMILIES: dict[str, Family] = {
    "sequential": Family(_stack, _is_stack, _stack_input),
    "resnet": Family(_resnet, _has("conv1.weight", "bn1.weight", "layer1.0.conv1.weight"), _image("conv1.weight")),
    "vit-torchvision": Family(
        _torchvision_vit, _has("conv_proj.weight", "class_token"), _patch_image("conv_proj.weight"),
        _VIT_HEADS, ("in_proj_weight",),
    ),
    "vit-timm": Family(
        _timm_vit, _has("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"), _patch_image("patch_embed.proj.weight"),
        _VIT_HEADS, ("attn.qkv.weight",),
    ),
    "bert": Family(
        _bert, _has_prefixed("bert.", "embeddings.word_embeddings.weight"), _ids,
        _HEADS, ("self.query.weight", "self.value.weight"),
    ),
    "gpt2": Family(_gpt2, _has_prefixed("transformer.", "wte.weight"), _ids, _HEADS, ("c_attn.weight>",)),
}  # fmt: skip
