"""Whether an architecture can take the examples of a data set."""

from __future__ import annotations

import torch

from canon.errors import InputError
from weightflow.data.types import ClassificationData
from weightflow.networks.architectures import Architecture


def check_inputs(architecture: Architecture, data: ClassificationData) -> None:
    """`InputError` where the architecture cannot take the data's examples, before anything is trained."""
    wanted = architecture.readout.width
    if not architecture.has_logits and wanted is None:
        raise InputError(
            f"architecture '{architecture.name}' gives vectors to compare with text, not logits; name the "
            "encoder of the text, for instance --set readout.encoder=wordllama"
        )
    skeleton = architecture.build().to("meta").eval()
    try:
        with torch.no_grad():
            output = skeleton(torch.empty(2, *data.input_shape, device="meta"))
    except RuntimeError as error:
        raise InputError(
            f"architecture '{architecture.name}' with {dict(architecture.arguments)} cannot take examples of "
            f"shape {tuple(data.input_shape)} of data set '{data.name}': {str(error).splitlines()[0]}; "
            "set its arguments to fit, or choose other data"
        ) from None
    if wanted not in (None, output.shape[-1]):
        raise InputError(
            f"architecture '{architecture.name}' gives vectors of {output.shape[-1]} numbers, the text encoder "
            f"vectors of {wanted}; set architecture.arguments.outputs={wanted}, or take another encoder"
        )
