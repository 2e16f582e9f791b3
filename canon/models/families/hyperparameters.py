"""Hyperparameters that keys and shapes do not determine: heads, activations, connections of layers.

Each value has an origin: `--assume`, the `config.json` beside the checkpoint, or the file's metadata. A
value without one stays unknown, and what depends on it stays in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from canon.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "elu": F.elu,
    "selu": F.selu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "relu6": F.relu6,
}
PADDING = ("both", "behind", "front")
FLAGS = ("chain", "tied_head", "plain_convolutions")  # said by their name alone
_SYNONYMS = {"swish": "silu", "leaky-relu": "leaky_relu"}

# The keys under which configuration files keep a value.
HEADS = ("num_attention_heads", "num_heads", "n_head", "encoder_attention_heads")
_IN_CONFIG = {
    "heads": HEADS,
    "activation": ("hidden_act", "activation_function", "hidden_activation"),
}
WIDTHS = ("hidden_size", "n_embd", "embed_dim", "d_model")


@dataclass(frozen=True)
class Hyperparameters:
    """Values that the tensors do not show; None (False for what is said by its name alone) where not known.

    `heads` is the number of attention heads; `activation` a name in `ACTIVATIONS`; `chain` says that layers
    follow one another, each once, with nothing between them but element-wise activations, pooling over positions and
    flattening; `plain_convolutions` that none is transposed or has groups; `padding` where a parameter-free shortcut puts its zero channels; `norm`
    "layer" for norms that could also be group norms; `tied_head` that the output layer is the embedding.
    `origins` says where each value is from; `config` is the decoded configuration file.
    """

    heads: int | None = None
    activation: str | None = None
    chain: bool = False
    padding: str | None = None
    norm: str | None = None
    tied_head: bool = False
    plain_convolutions: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def activate(self, x: Tensor) -> Tensor:
        """The activation; GELU stands for an unknown one: entry by entry, without a scale symmetry."""
        return ACTIVATIONS.get(self.activation or "gelu", F.gelu)(x)

    def said(self, names: Iterable[str]) -> tuple[str, ...]:
        """The values among `names` that are known, each with its origin, for reports."""
        known = []
        for name in names:
            if name in self.origins:
                value = getattr(self, name)
                text = name.replace("_", "-") if value is True else f"{name}={value}"
                known.append(f"{text} ({self.origins[name]})")
        return tuple(known)

    def check_width(self, width: int) -> None:
        """Raise `InputError` unless the heads divide `width` and the configuration names this width."""
        if self.heads is not None and (self.heads < 1 or width % self.heads):
            raise InputError(
                f"heads={self.heads} ({self.origins['heads']}) does not divide the width {width}; "
                "give the number of heads that the network was built with"
            )
        for key in WIDTHS:
            if isinstance(self.config.get(key), int) and self.config[key] != width:
                raise InputError(
                    f"config.json says {key}={self.config[key]} and the tensors are {width} wide; "
                    "it belongs to another network"
                )


def parse(
    assumed: Iterable[str], config: Mapping[str, Any] | None = None, metadata: Mapping[str, str] | None = None
) -> Hyperparameters:
    """The values of `assumed` ("heads=12", "chain"), else of the configuration, else of the metadata.

    Raises `InputError` for an unknown name or value, and for a name given twice.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for text in assumed:
        name, value = _parse_one(text)
        if name in values:
            raise InputError(f"--assume {name} was given twice; give it once")
        values[name], origins[name] = value, "--assume"
    for source, where in ((config or {}, "config.json"), (metadata or {}, "the file's metadata")):
        for name, value in _described(source).items():
            if name not in values:
                values[name], origins[name] = value, where
    return Hyperparameters(**values, origins=origins, config=dict(config or {}))


def _parse_one(text: str) -> tuple[str, Any]:
    name, given, value = text.strip().partition("=")
    name, value = name.strip().replace("-", "_"), value.strip()
    if name in FLAGS:
        if value.lower() not in ("", "true", "yes", "1"):
            raise InputError(f"--assume {text}: write {name.replace('_', '-')} alone")
        return name, True
    if name == "heads":
        if not value.isdecimal() or int(value) < 1:
            raise InputError(f"--assume {text}: heads is a positive whole number, as heads=12")
        return name, int(value)
    choices: Mapping[str, Iterable[str]] = {
        "activation": ACTIVATIONS,
        "padding": PADDING,
        "norm": ("layer",),
    }
    if name not in choices:
        raise InputError(
            f"--assume {text}: '{name}' is not known; one of heads=N, activation=NAME, chain, padding=WHERE, "
            "norm=layer, tied-head, plain-convolutions"
        )
    value = _SYNONYMS.get(value, value)
    if not given or value not in choices[name]:
        raise InputError(f"--assume {text}: {name} is one of {', '.join(choices[name])}")
    return name, value


def _described(source: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in _IN_CONFIG["heads"]:
        value = source.get(key)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            found["heads"] = value
            break
    for key in _IN_CONFIG["activation"]:
        value = source.get(key)
        if isinstance(value, str) and _SYNONYMS.get(value, value) in ACTIVATIONS:
            found["activation"] = _SYNONYMS.get(value, value)
            break
    classes = source.get("architectures")
    if isinstance(classes, list) and any(str(name).endswith("LMHeadModel") for name in classes):
        found["tied_head"] = source.get("tie_word_embeddings", True) is True
    return found
