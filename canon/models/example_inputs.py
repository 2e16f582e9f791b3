"""Example inputs of modules that come without: what torch.export is run on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...] | dict[str, Any]
LENGTH = 16  # tokens of an example
_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions", "max_sequence_length")


def example_inputs(module: nn.Module) -> Inputs | None:
    """Inputs for a module of transformers, by its configuration, or for one that begins with a linear layer.

    None for any other. A linear layer takes any batch of rows, so the guess cannot change the groups; whether the
    module runs on it is seen when it is traced.
    """
    if isinstance(getattr(module, "main_input_name", None), str) and hasattr(module, "config"):
        inputs = _of_transformers(module)
        if inputs is not None:
            return inputs
    first = next(
        (part for part in module.modules() if next(part.parameters(recurse=False), None) is not None), None
    )
    if isinstance(first, nn.Linear):
        return (torch.randn(2, first.in_features, generator=torch.Generator().manual_seed(0)),)
    return None


def _of_transformers(module: Any) -> Inputs | None:
    """Inputs of a module of transformers by the name of the main one: tokens, pictures or sound; None for others."""
    config, main = module.config, module.main_input_name
    draws = torch.Generator().manual_seed(0)
    if main == "input_ids":
        words = _number(config, "vocab_size")
        if words is None:
            return None
        length = _length(config)
        named: dict[str, Any] = {"input_ids": torch.randint(words, (1, length), generator=draws)}
        if getattr(config, "is_encoder_decoder", False):
            named["decoder_input_ids"] = torch.randint(words, (1, length), generator=draws)
        if getattr(config, "vision_config", None) is not None:
            pictures = _pictures(config.vision_config, draws)
            if pictures is None:
                return None
            named["pixel_values"] = pictures
        return named
    if main == "pixel_values":
        pictures = _pictures(config, draws)
        return None if pictures is None else {"pixel_values": pictures}
    if main == "input_features":
        bands, steps = _number(config, "num_mel_bins"), _number(config, "max_source_positions")
        words = _number(config, "vocab_size")
        if bands is None or steps is None or words is None:
            return None
        sound = torch.randn(1, bands, 2 * steps, generator=draws)
        tokens = torch.randint(words, (1, _length(config)), generator=draws)
        return {"input_features": sound, "decoder_input_ids": tokens}
    return None


def _pictures(config: Any, draws: torch.Generator) -> Tensor | None:
    size, channels = getattr(config, "image_size", 64), _number(config, "num_channels")
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    if channels is None or not isinstance(height, int) or not isinstance(width, int):
        return None
    return torch.randn(1, channels, height, width, generator=draws)


def _length(config: Any) -> int:
    """Tokens of an example: fewer than usual where the network has few positions, of which some hold two more than it takes."""
    most = [_number(config, name) for name in _POSITIONS]
    return max(1, min([LENGTH, *(count - 2 for count in most if count is not None)]))


def _number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    if value is None and getattr(config, "text_config", None) is not None:
        value = getattr(config.text_config, name, None)
    return value if isinstance(value, int) and value > 0 else None
