"""Types of state dicts, written once."""

from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""A state dict that is read: tensors by name."""

StateDict = dict[str, Tensor]
"""A state dict that is made or returned."""
