"""Networks ready for the model: tokens, prompts, and the data set's label of each logit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from weightflow.text import PromptBatch


@dataclass(frozen=True)
class Batch:
    """`z` (networks, tokens, width); `labels` (networks, labels of the data): the logit of each, -1 for none.

    The labels stay on the processor, where examples are looked up.
    """

    z: Tensor
    prompts: PromptBatch
    labels: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Batch:
        return Batch(self.z[rows], self.prompts[rows], self.labels[rows])

    def to(self, device: torch.device) -> Batch:
        return Batch(self.z.to(device), self.prompts.to(device), self.labels)

    def __len__(self) -> int:
        return len(self.z)
