"""Tensors that need not fit in memory."""

from __future__ import annotations

import os
import tempfile
from math import prod

import torch
from torch import Tensor

IN_MEMORY = 1 << 28
"""Bytes of a tensor that is kept in memory as any other."""


def large_zeros(*shape: int) -> Tensor:
    """Zeros (float32); beyond `IN_MEMORY` bytes they lie in a file without a name, where the system has such files.

    The system keeps those pages in memory for which there is room; `TMPDIR` says where the file lies. `OSError` where
    that disk is full.
    """
    size = 4 * prod(shape)
    if size <= IN_MEMORY or not hasattr(os, "posix_fallocate"):
        return torch.zeros(shape)
    descriptor, name = tempfile.mkstemp(prefix="tensor-")
    try:
        try:
            found = torch.from_file(name, shared=True, size=prod(shape))
        finally:
            os.unlink(name)  # before it takes space: a killed process leaves no file
        os.posix_fallocate(descriptor, 0, size)  # a write beyond the disk would end the process
    finally:
        os.close(descriptor)
    return found.view(shape)
