"""Decode the flow's coordinates to state dicts and modules."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from canon.errors import WorkError
from canon.types import StateDict
from weightflow.networks.architectures import Architecture
from weightflow.networks.readout import Compared, Cosine
from weightflow.representation import Coordinates
from weightflow.text import Prompt, PromptBatch, TextEncoder


def decode(coordinates: Coordinates, z: Tensor, prompts: PromptBatch) -> StateDict:
    """Tokens (networks, tokens, width) to stacked networks. Raises `WorkError` where one is not finite."""
    # a sum that is finite has finite terms alone, and needs one pass; only then count
    if not z.sum().isfinite() and (lost := int((~z.isfinite().flatten(1).all(dim=1)).sum())):
        raise WorkError(f"{lost} of {len(z)} generated networks are not finite; use more solver steps")
    return coordinates.decode(z, prompts.present)


def to_module(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    prompt: Prompt,
    seeing: TextEncoder | None = None,
) -> nn.Module:
    """One unstacked, possibly padded state as a module in evaluation mode with one logit for each class."""
    module = architecture.build(len(prompt.classes))
    module.load_state_dict(architecture.trim(state, len(prompt.classes)))
    if isinstance(architecture.readout, Cosine):
        module = Compared(module, architecture.readout, prompt, seeing)
    return module.eval()
