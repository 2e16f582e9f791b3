"""The parameters of many networks in one flat buffer, so that one call updates them all.

Every optimizer used here works element by element: one step on the buffer is one step of each network.
Parameter after parameter lies there, each for all networks: (networks, *shape) is a view that batched
products take as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from canon.types import StateDict
from weightflow.batched.config import OPTIMIZERS, TrainingRecipe


class ParameterStack:
    """Parameters, gradients and optimizer of `networks` networks; `parameters` and `gradients` are views."""

    def __init__(self, state: Mapping[str, Tensor], recipe: TrainingRecipe) -> None:
        self.recipe, self.networks = recipe, len(next(iter(state.values())))
        self._shapes = {name: tensor.shape for name, tensor in state.items()}
        self.flat = torch.cat([tensor.detach().flatten() for tensor in state.values()])
        self.flat_gradient = torch.zeros_like(self.flat)
        self.flat.grad = self.flat_gradient
        self.parameters, self.gradients = self.views(self.flat), self.views(self.flat_gradient)
        more = {"momentum": recipe.momentum} if recipe.optimizer == "sgd" else {}
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            [self.flat], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True, **more
        )

    def views(self, flat: Tensor) -> StateDict:
        """`flat`, laid out as the parameters are, by name."""
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        return {
            name: part.view(shape) for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }

    def step(self, step: int) -> None:
        """Update every network with its gradient."""
        if self.recipe.clip:
            self._clip()
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        self.optimizer.step()

    def _clip(self) -> None:
        """Scale each network's gradient to a norm of at most `recipe.clip`."""
        norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in self.gradients.values()])
        scale = (self.recipe.clip / (norms.square().sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        if bool((scale < 1).any()):
            for gradient in self.gradients.values():
                gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))

    def keep(self, rows: Tensor) -> ParameterStack:
        """Keep only the networks in `rows`, with their optimizer state."""
        less = ParameterStack({name: tensor[rows] for name, tensor in self.parameters.items()}, self.recipe)
        for name, value in self.optimizer.state[self.flat].items():
            if torch.is_tensor(value) and value.shape == self.flat.shape:
                value = torch.cat([t[rows].flatten() for t in self.views(value).values()])
            less.optimizer.state[less.flat][name] = value.clone() if torch.is_tensor(value) else value
        return less
