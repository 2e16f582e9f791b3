"""Gradients of any architecture by automatic differentiation: one module, or a population under vmap.

Batch norm uses the batch's own statistics in training; the running ones are estimated afterwards, from
training examples of the network's own classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import replace_all_batch_norm_modules_

from canon.types import StateDict
from weightflow.batched.class_axes import masked_cross_entropy
from weightflow.batched.over_networks import over_networks
from weightflow.batched.parameter_stack import ParameterStack
from weightflow.networks.architectures import Architecture


class Recorded:
    """Losses of the networks of a stack, their gradients written into it.

    Inputs are (networks, batch, *shape), or (batch, *shape) where they are shared; targets
    (networks, batch). Mini-batches are cut into the recipe's `accumulate` parts. `text` is what the
    architecture's readout knows of the tasks. `fixed`, stacked, is what is not trained: buffers, and parameters that
    need no gradient.
    """

    def __init__(
        self,
        architecture: Architecture,
        stack: ParameterStack,
        mask: Tensor,
        shared: bool,
        text: Tensor,
        fixed: StateDict,
    ) -> None:
        self.stack, self.mask, self.shared = stack, mask, shared
        self.readout, self.text = architecture.readout, text
        # one network needs no vmap, whose batched kernels are slower
        self._forward = (
            _one(architecture, stack, fixed)
            if stack.networks == 1
            else _many(architecture, stack, fixed, shared)
        )

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        recipe, total = self.stack.recipe, []
        self.stack.flat_gradient.zero_()
        parts = zip(
            inputs.chunk(recipe.accumulate, dim=0 if self.shared else 1),
            targets.chunk(recipe.accumulate, dim=1),
            strict=True,
        )
        for x, y in parts:
            with torch.autocast(x.device.type, recipe.dtype, enabled=recipe.dtype != torch.float32):
                output = self._forward(x if self.shared or self.stack.networks > 1 else x[0])
            scores = self.readout.scores(output.float(), self.text)
            losses = masked_cross_entropy(scores, y, self.mask, recipe.label_smoothing)
            (losses.sum() / recipe.accumulate).backward()
            total.append(losses.detach())
        return torch.stack(total).mean(0)


class _MeanOverPositions(torch.autograd.Function):
    """The mean over height and width, whose gradient has the memory layout of the activations.

    That of `nn.AdaptiveAvgPool2d(1)` has another one, and ReLU's derivative of operands in two layouts takes several
    times as long.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.shape = images.shape
        return images.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        each = (gradient / (height * width)).expand(ctx.shape)
        return each.contiguous(memory_format=torch.channels_last)


class _GlobalAveragePool(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return _MeanOverPositions.apply(images)


def use_channels_last(module: nn.Module) -> None:
    """Replace each mean over all positions within `module`."""
    for name, part in module.named_children():
        if isinstance(part, nn.AdaptiveAvgPool2d) and part.output_size in (1, (1, 1)):
            setattr(module, name, _GlobalAveragePool())
        else:
            use_channels_last(part)


def _one(architecture: Architecture, stack: ParameterStack, fixed: StateDict) -> Callable[[Tensor], Tensor]:
    module = architecture.build().train().to(stack.flat.device)
    module.load_state_dict({name: tensor[0] for name, tensor in fixed.items()}, strict=False)
    if len(architecture.input_shape) == 3:
        use_channels_last(module)
    for name, parameter in module.named_parameters():
        if name in stack.parameters:
            parameter.data, parameter.grad = stack.parameters[name][0], stack.gradients[name][0]

    def forward(inputs: Tensor) -> Tensor:
        if inputs.dim() == 4:  # the layout that convolutions on processors are written for
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return module(inputs).unsqueeze(0)

    return forward


def _many(
    architecture: Architecture, stack: ParameterStack, fixed: StateDict, shared: bool
) -> Callable[[Tensor], Tensor]:
    skeleton = replace_all_batch_norm_modules_(architecture.build().to("meta")).train()
    leaves = {name: view.detach().requires_grad_() for name, view in stack.parameters.items()}
    for name, leaf in leaves.items():
        leaf.grad = stack.gradients[name]
    own = skeleton.state_dict().keys()  # without running statistics of batch norm
    others = {name: tensor for name, tensor in fixed.items() if name in own}
    return partial(over_networks(skeleton, shared=shared), {**leaves, **others})
