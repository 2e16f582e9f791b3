"""Types of state dicts and paths, written once."""

import os
from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""A state dict that is read: tensors by name."""

StateDict = dict[str, Tensor]
"""A state dict that is made or returned."""

PathLike = str | os.PathLike[str]
"""A path of a file or folder, as people write it."""
