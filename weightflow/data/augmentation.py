"""Data augmentation of images: random crop and flip.

Padded by four pixels, cut to size again at a random place, mirrored half of the time (He et al. 2016,
arXiv:1512.03385). Pixels beyond the border are the mean of the training images, which is zero here.

Not torchvision's `RandomCrop`: it shifts all images of a batch alike and draws from the global generator, which a resumed run
cannot restore for one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PADDING = 4
AUGMENTATIONS = ("none", "crop_flip")


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (batch, channels, height, width), each moved and mirrored on its own."""
    batch, _, height, width = images.shape
    corner = torch.randint(0, 2 * PADDING + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    across = torch.arange(width)
    rows = corner[0] + torch.arange(height)
    columns = corner[1] + torch.where(mirrored, across.flip(0), across)
    padded = functional.pad(images, [PADDING] * 4)
    picked = padded[torch.arange(batch).view(-1, 1, 1), :, rows[:, :, None], columns[:, None, :]]
    return picked.movedim(-1, 1)
