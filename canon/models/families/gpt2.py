"""Hugging Face's GPT-2, bare or as a language model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from canon.models.families.base import Family, has_with_prefix
from canon.models.families.example_inputs import token_ids
from canon.models.families.functional import Tensors, attend
from canon.models.families.hyperparameters import Hyperparameters


def _gpt2(t: Tensors, ids: Tensor, given: Hyperparameters) -> Tensor:
    """A language model where it has a head of its own or is said to be tied; else the stream is the output."""
    gpt = _stack(t)
    x = F.embedding(ids, gpt["wte.weight"]) + gpt["wpe.weight"][: ids.shape[1]]
    for number in gpt.children("h."):
        block = gpt.under(f"h.{number}.")
        block.get("attn.bias"), block.get("attn.masked_bias")
        qkv = _conv1d(block, "attn.c_attn", block.layer_norm("ln_1", x))
        x = x + _conv1d(
            block, "attn.c_proj", attend(*qkv.chunk(3, -1), heads=given.heads, width=x.shape[-1], causal=True)
        )
        y = given.activate(_conv1d(block, "mlp.c_fc", block.layer_norm("ln_2", x)))
        x = x + _conv1d(block, "mlp.c_proj", y)
    x = gpt.layer_norm("ln_f", x)
    head = t.get("lm_head.weight")
    if head is None and not given.tied_head:
        return x
    return F.linear(x, gpt["wte.weight"] if head is None else head)


def _stack(t: Tensors) -> Tensors:
    return t.under("transformer.") if "transformer.wte.weight" in t else t


def _conv1d(t: Tensors, key: str, x: Tensor) -> Tensor:
    """Hugging Face's Conv1D: a linear layer with its weight the other way round."""
    return x @ t[f"{key}.weight"] + t[f"{key}.bias"]


GPT2 = Family(
    _gpt2,
    has_with_prefix("transformer.", "wte.weight"),
    token_ids,
    lambda t: "Hugging Face GPT-2",
    takes=("heads", "activation", "tied_head"),
    width=lambda t: _stack(t)["wte.weight"].shape[-1],
)
