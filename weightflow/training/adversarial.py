"""Adversarial training: a discriminator learns to tell networks of the zoo from predicted ones.

Text2Weight (arXiv:2508.13633): an MLP of widths 512 and 256 with binary cross-entropy, Adam with betas
(0.5, 0.999); the generator's loss gains weight * BCE(D(x_1 predicted), real). Its weight is not known from
the paper (its released code multiplies by 0), so it is a setting, and 0 switches everything off. The
activation and the learning rate are not known either: leaky ReLU and 2e-4 are those of DCGAN
(arXiv:1511.06434), whose betas these are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from canon.errors import InputError
from weightflow.training.processes import Processes
from weightflow.training.state_dicts import load_weights, optimizer_tensors, pack, restore_optimizer, unpack


@dataclass(frozen=True)
class AdversaryConfig:
    """`weight` of the adversarial term in the generator's loss; `widths` of the discriminator's layers."""

    weight: float = 0.0
    widths: tuple[int, ...] = (512, 256)
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        if self.weight < 0 or self.learning_rate <= 0:
            raise InputError(
                f"adversary: weight {self.weight} must not be negative, learning_rate {self.learning_rate} positive"
            )


def discriminator(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Flat networks (networks, inputs) to one logit each: above zero for real."""
    layers: list[nn.Module] = []
    for before, after in pairwise((inputs, *widths)):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear((inputs, *widths)[-1], 1))


class Adversary:
    """The discriminator and its optimizer. `entries` (tokens, width) says which entries it looks at."""

    def __init__(
        self,
        config: AdversaryConfig,
        entries: Tensor,
        seed: int,
        device: torch.device = torch.device("cpu"),
        processes: Processes = Processes(),
    ) -> None:
        self._entries = entries.flatten().nonzero().squeeze(1).to(device)
        self._processes = processes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = discriminator(len(self._entries), config.widths).to(device)
        self._optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, betas=(0.5, 0.999)
        )

    def loss(self, z: Tensor) -> Tensor:
        """The adversarial loss of generated networks (networks, tokens, width)."""
        return self._cross_entropy(z, real=True)

    def train_step(self, real: Tensor, generated: Tensor) -> float:
        """One step of the discriminator; returns its loss, log 4 / 2 where it cannot tell them apart."""
        loss = (
            self._cross_entropy(real, real=True) + self._cross_entropy(generated.detach(), real=False)
        ) / 2
        # the generator's step left gradients here
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._processes.average([p.grad for p in self.model.parameters() if p.grad is not None])
        self._optimizer.step()
        return float(loss.detach())

    def _cross_entropy(self, z: Tensor, real: bool) -> Tensor:
        logits = self.model(z.flatten(1)[:, self._entries])
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

    def tensors(self) -> dict[str, Tensor]:
        """The state that an exact resume needs."""
        return {
            **pack("model", self.model.state_dict()),
            **pack("optimizer", optimizer_tensors(self.model, self._optimizer)),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        load_weights(self.model, unpack("model", tensors), "the adversary's state")
        restore_optimizer(self.model, self._optimizer, unpack("optimizer", tensors))
