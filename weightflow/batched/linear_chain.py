r"""Hand-written gradients of many chains of linear layers, by batched matrix products.

    a_l = W_l h_{l-1} + b_l,   h_l = phi(a_l),   h_0 = inputs
    d_l = dL/da_l,   dL/dW_l = d_l h_{l-1}^T,   dL/db_l = sum d_l,   d_{l-1} = phi'(a_{l-1}) W_l^T d_l

Where outputs are compared with text, the last layer is a `CosineLayer`. Examples are the last axis, so that each product is one call for all networks; where they share their
mini-batches, the first layers of all networks are one matrix. Recording these few calls for automatic
differentiation, network-wise, takes several times as long as the products do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from weightflow.batched.cosine_layer import CosineLayer
from weightflow.batched.parameter_stack import ParameterStack
from weightflow.networks.architectures import Architecture

Activation = Callable[[Tensor], Tensor]
Derivative = Callable[[Tensor, Tensor], Tensor]

ACTIVATIONS: dict[type[nn.Module], tuple[Activation, Derivative]] = {
    nn.ReLU: (torch.relu, lambda d, a: torch.ops.aten.threshold_backward(d, a, 0)),
    nn.GELU: (functional.gelu, lambda d, a: torch.ops.aten.gelu_backward(d, a)),
}


@dataclass(frozen=True)
class Layer:
    """A linear layer by the prefix of its parameters, and what follows it."""

    prefix: str
    activation: type[nn.Module] | None = None


def layers_of(architecture: Architecture) -> list[Layer] | None:
    """The layers of an architecture that is a chain of linear layers, None for any other."""
    with torch.device("meta"):
        module = architecture.build()
    parts = [("", module)] if isinstance(module, nn.Linear) else list(module.named_children())
    if not isinstance(module, (nn.Linear, nn.Sequential)):
        return None
    layers: list[Layer] = []
    for name, part in parts:
        if isinstance(part, nn.Linear) and part.bias is not None:
            layers.append(Layer(f"{name}." if name else ""))
        elif type(part) in ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1] = Layer(layers[-1].prefix, type(part))
        elif not isinstance(part, nn.Flatten) or layers:
            return None
    return layers if layers and layers[-1].activation is None else None


class LinearChainLoss:
    """Losses of the networks of a stack, their gradients written into it.

    Inputs are (networks, batch, *shape), or (batch, *shape) where they are shared; targets
    (networks, batch). Products are of the recipe's precision.
    """

    def __init__(
        self,
        layers: list[Layer],
        stack: ParameterStack,
        mask: Tensor,
        shared: bool,
        vectors: Tensor | None = None,
    ) -> None:
        self.layers, self.stack, self.shared = layers, stack, shared
        self.smoothing, self.dtype = stack.recipe.label_smoothing, stack.recipe.dtype
        self.absent = None if mask.all() else ~mask.unsqueeze(-1)
        self.uniform = mask.to(stack.flat.dtype).unsqueeze(-1) / mask.sum(-1).view(-1, 1, 1)
        own = self.dtype == stack.flat.dtype
        # copies of the precision of the products, all parameters at once
        self.flat = stack.flat if own else torch.empty_like(stack.flat, dtype=self.dtype)
        self.flat_gradient = stack.flat_gradient if own else torch.empty_like(self.flat)
        self.parameters, self.gradients = stack.views(self.flat), stack.views(self.flat_gradient)
        last = layers[-1].prefix
        self.compared = (
            None
            if vectors is None
            else CosineLayer(stack.parameters[f"{last}weight"], stack.parameters[f"{last}bias"], vectors)
        )

    @torch.no_grad()
    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.flat is not self.stack.flat:
            self.flat.copy_(self.stack.flat)
        x = inputs.flatten(1 if self.shared else 2).to(self.dtype)
        before = [x.mT]  # (inputs, batch), for all or for each network
        sums: list[Tensor] = []
        linear = self.layers if self.compared is None else self.layers[:-1]
        for layer in linear:
            sums.append(self._linear(layer, before[-1], len(targets)))
            before.append(ACTIVATIONS[layer.activation][0](sums[-1]) if layer.activation else sums[-1])
        if self.compared is None:
            losses, d = self._cross_entropy(before[-1], targets)
        else:
            losses, d = self._compared(self.compared, before[-1], targets)
        for i in range(len(linear) - 1, -1, -1):
            layer = self.layers[i]
            if layer.activation:
                d = ACTIVATIONS[layer.activation][1](d, sums[i])
            self._gradient(layer, d, before[i])
            if i:
                d = torch.bmm(self.parameters[f"{layer.prefix}weight"].mT, d)
        if self.flat is not self.stack.flat:
            self.stack.flat_gradient.copy_(self.flat_gradient)
        return losses

    def _linear(self, layer: Layer, h: Tensor, networks: int) -> Tensor:
        weight = self.parameters[f"{layer.prefix}weight"]
        bias = self.parameters[f"{layer.prefix}bias"].unsqueeze(-1)
        if h.dim() == 3:
            return torch.baddbmm(bias, weight, h)
        return torch.mm(weight.flatten(0, 1), h).view(networks, -1, h.shape[1]).add_(bias)

    def _gradient(self, layer: Layer, d: Tensor, h: Tensor) -> None:
        weight = self.gradients[f"{layer.prefix}weight"]
        if h.dim() == 3:
            torch.bmm(d, h.mT, out=weight)
        else:
            torch.mm(d.reshape(-1, d.shape[2]), h.mT, out=weight.flatten(0, 1))
        torch.sum(d, -1, out=self.gradients[f"{layer.prefix}bias"])

    def _compared(self, layer: CosineLayer, h: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Losses, and the derivative by what enters the compared layer."""
        h = h.to(self.stack.flat.dtype).expand(len(targets), -1, -1)
        losses, d = self._cross_entropy(layer.scores(h), targets)
        weight, bias, by_h = layer.gradients(d.to(h.dtype))
        self.gradients[f"{self.layers[-1].prefix}weight"].copy_(weight)
        self.gradients[f"{self.layers[-1].prefix}bias"].copy_(bias)
        return losses, by_h.to(self.dtype)

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of each network, and the derivative by its logits (networks, classes, batch)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if self.absent is not None:
            logits = logits.masked_fill(self.absent, -torch.inf)
        log_p, chosen = logits.log_softmax(1), targets.unsqueeze(1)
        losses = -log_p.gather(1, chosen).squeeze(1).mean(1)
        d = log_p.exp()
        if self.smoothing:
            present = log_p if self.absent is None else log_p.masked_fill(self.absent, 0)
            losses = (1 - self.smoothing) * losses - self.smoothing * (present * self.uniform).sum(1).mean(1)
            d -= self.smoothing * self.uniform
        d.scatter_add_(1, chosen, d.new_full((), self.smoothing - 1).expand(chosen.shape))
        return losses, d.div_(targets.shape[1]).to(self.dtype)
