"""Check `config.json` against the tensors beside it and against other networks' configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from canon.errors import InputError
from canon.io.checkpoint import Checkpoint
from canon.io.model_config import read_config
from canon.models.families.hyperparameters import HEADS, WIDTHS
from canon.types import like

# What the function of a network depends on, at the top of a configuration.
_STRUCTURE = (
    "model_type",
    *WIDTHS,
    *HEADS,
    "num_key_value_heads",
    "head_dim",
    "d_kv",
    "intermediate_size",
    "num_hidden_layers",
    "n_layer",
    "hidden_act",
    "activation_function",
    "hidden_activation",
)
_LAYERS = ("num_hidden_layers", "n_layer")
_WORDS = re.compile(r"(^|\.)(word_embeddings|embed_tokens|wte|shared|tok_embeddings|embed_in)\.weight")
_NUMBERED = re.compile(r"(?<=\.)(\d+)(?=\.)")


def agreed_config(networks: Sequence[Checkpoint], names: Sequence[str]) -> dict[str, Any]:
    """The configuration beside networks of one architecture; empty where none has one.

    Raises `InputError` where two of them say different things of the structure.
    """
    found = [(read_config(network.path), name) for network, name in zip(networks, names, strict=True)]
    told = [(config, name) for config, name in found if config]
    for config, name in told[1:]:
        for key in _STRUCTURE:
            first, other = told[0][0].get(key), config.get(key)
            if first is not None and other is not None and first != other:
                raise InputError(
                    f"config.json of {told[0][1]} says {key}={first} and that of {name} {key}={other}, with tensors "
                    "of the same shapes; give each network its own configuration"
                )
    return told[0][0] if told else {}


def require_fitting_config(found: Checkpoint, name: str) -> None:
    """`InputError` where a folder's configuration contradicts the tensors in it."""
    if found.folder is None:
        return
    config = read_config(found.path)
    if config.get("quantization_config") and (names := _quantized(found.state)):
        raise InputError(
            f"{name} holds quantized weights ({names[0]}, {like(found.state)[names[0]].dtype}), as quantization_config of "
            "its config.json says; their scales are no part of the network that is matched: give the network in a "
            "floating dtype"
        )
    wrong = _wrong_width(config, found.state) or _wrong_heads(config)
    wrong = wrong or _wrong_layers(config, found.state) or _wrong_words(config, found.state)
    if wrong:
        raise InputError(f"config.json of {name} {wrong}; it belongs to another network")


def _quantized(state: Mapping[str, Tensor]) -> list[str]:
    """Matrices of integers or of one-byte floats, as quantized weights are stored."""
    small = {name: t for name, t in like(state).items() if t.dim() > 1 and not t.is_complex()}
    return [
        name
        for name, t in small.items()
        if (t.is_floating_point() and t.itemsize == 1) or t.dtype in (torch.int8, torch.uint8, torch.int32)
    ]


def _wrong_width(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    sizes = {size for tensor in state.values() for size in tensor.shape}
    keys = ["hidden_size", "n_embd", "d_model", "intermediate_size"]
    if any(
        "expert" in key for key in config
    ):  # the width of layers without experts, of which there may be none
        keys.remove("intermediate_size")
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not any(size and value and size % value == 0 for size in sizes):
            return f"says {key}={value}, and no axis of a tensor is as long or a multiple"
    return None


def _wrong_heads(config: Mapping[str, Any]) -> str | None:
    for key in HEADS:
        value = config.get(key)
        if value is None or isinstance(value, (list, dict)):
            continue
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if not isinstance(value, int) or value < 1:
            return f"says {key}={config[key]!r}, which is not a number of heads"
        width = config.get("hidden_size", config.get("n_embd", config.get("d_model")))
        # Heads of a width of their own need not divide that of the network.
        free = any(config.get(own) is not None for own in ("head_dim", "d_kv", "attention_head_size"))
        if isinstance(width, int) and not free and width % value:
            return f"says {key}={value}, which does not divide the width {width}"
    return None


def _wrong_layers(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    count = next((config[key] for key in _LAYERS if isinstance(config.get(key), int)), None)
    if count is None or "num_hidden_groups" in config:  # layers that share their tensors
        return None
    lists: dict[str, set[str]] = {}
    for name in state:
        for match in _NUMBERED.finditer(name):
            lists.setdefault(name[: match.start()], set()).add(match[0])
    counts = {len(numbers) for numbers in lists.values()}
    extra = config.get("num_nextn_predict_layers")
    most = count + (extra if isinstance(extra, int) else 0)
    # A single layer may be run many times.
    if counts and (1 < max(counts) < count or min(counts) > most):
        return f"says {count} layers, and the tensors are those of {max(counts)}"
    return None


def _wrong_words(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    value = config.get("vocab_size")
    for name, tensor in state.items():
        if isinstance(value, int) and _WORDS.search(name) and tensor.dim() == 2 and len(tensor) != value:
            return f"says vocab_size={value}, and {name} has {len(tensor)} rows"
    return None
