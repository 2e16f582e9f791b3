"""Gradients that are written out are those of automatic differentiation, in float64."""

import pytest
import torch

from weightflow.batched.autograd import Recorded, use_channels_last
from weightflow.batched.config import TrainingRecipe
from weightflow.batched.initialization import initialise
from weightflow.batched.linear_chain import LinearChainLoss, layers_of
from weightflow.batched.parameter_stack import ParameterStack
from weightflow.networks.architectures import Architecture

ARCHITECTURES = {
    "mlp": Architecture("mlp", {"inputs": 6, "hidden": [5, 4]}, (2, 3), 3),
    "no hidden layer": Architecture("mlp", {"inputs": 6, "hidden": []}, (6,), 3),
    "linear head": Architecture("linear_head", {"inputs": 6}, (6,), 3),
    "adapter": Architecture("adapter", {"inputs": 6, "hidden": 4}, (6,), 6),
}
MASK = torch.tensor([[True, True, True], [True, True, False]])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_chain_has_the_gradients_of_automatic_differentiation(name, smoothing, shared, monkeypatch):
    monkeypatch.setattr(TrainingRecipe, "dtype", torch.float64)
    architecture, recipe = ARCHITECTURES[name], TrainingRecipe(label_smoothing=smoothing)
    begin = {n: t.double() for n, t in initialise(architecture, [1, 2]).items()}
    mask = MASK if architecture.has_logits else torch.ones(2, 6, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    shape = (7, *architecture.input_shape) if shared else (2, 7, *architecture.input_shape)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 2, (2, 7), generator=generator)
    written, recorded = ParameterStack(begin, recipe), ParameterStack(begin, recipe)
    layers = layers_of(architecture)
    assert layers is not None
    losses = LinearChainLoss(layers, written, mask, shared)(inputs, targets)
    monkeypatch.setattr(TrainingRecipe, "dtype", torch.float32)  # no autocast; inputs stay float64
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor)
    expected = Recorded(architecture, recorded, mask, shared, torch.empty(2, mask.shape[1], 0), {})(
        inputs, targets
    )
    torch.testing.assert_close(losses, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(written.flat_gradient, recorded.flat_gradient, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_parts_of_a_mini_batch_add_up_to_it(shared):
    """Without batch norm, accumulating changes nothing but rounding."""
    architecture = Architecture("cnn", {"widths": [3]}, (3, 6, 6), 3)
    begin = initialise(architecture, [1, 2])
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((8, 3, 6, 6) if shared else (2, 8, 3, 6, 6), generator=generator)
    targets = torch.randint(0, 2, (2, 8), generator=generator)
    found = []
    for parts in (1, 4):
        stack = ParameterStack(begin, TrainingRecipe(batch_size=8, accumulate=parts))
        losses = Recorded(architecture, stack, MASK, shared, torch.empty(2, 3, 0), {})(inputs, targets)
        found.append((losses, stack.flat_gradient))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_other_architectures_are_no_chain(name):
    arguments = {"cnn": {"widths": [4]}, "vit": {"size": 8, "width": 8, "depth": 1, "heads": 2}}[name]
    assert layers_of(Architecture(name, arguments, (3, 8, 8), 3)) is None


def test_a_stack_of_fewer_goes_on_as_they_were():
    """Networks that stop leave the others' optimizer as it was."""
    generator = torch.Generator().manual_seed(0)
    begin = {"a": torch.randn(3, 2, 2, generator=generator), "b": torch.randn(3, 5, generator=generator)}
    steps = [{n: torch.randn(t.shape, generator=generator) for n, t in begin.items()} for _ in range(4)]
    rows = torch.tensor([0, 2])
    for optimizer in ("adamw", "adam", "sgd"):
        recipe = TrainingRecipe(steps=4, optimizer=optimizer, clip=0.7)
        whole = part = ParameterStack(begin, recipe)
        for number, gradient in enumerate(steps):
            if number == 2:
                part = whole.keep(rows)
            for stack in {id(whole): whole, id(part): part}.values():
                for name, g in gradient.items():
                    stack.gradients[name].copy_(g if stack is whole else g[rows])
                stack.step(number)
        for name, tensor in part.parameters.items():
            assert torch.equal(tensor, whole.parameters[name][rows])


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_one_network_has_the_gradients_of_its_module(name):
    """The mean over positions is written out for a single network; its gradient stays what it was."""
    arguments = {"cnn": {"widths": [3, 4], "stride": 2}, "resnet": {"widths": [4, 4], "blocks": 1}}[name]
    architecture = Architecture(name, arguments, (3, 8, 8), 3)
    begin = initialise(architecture, [1])
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(1, 6, 3, 8, 8, generator=generator), torch.tensor([[0, 1, 2, 0, 1, 2]])
    names = [n for n, _ in architecture.build().named_parameters()]
    stack = ParameterStack({n: begin[n] for n in names}, TrainingRecipe())
    Recorded(architecture, stack, MASK[:1], False, torch.empty(1, 3, 0), {})(inputs, targets)
    module = architecture.build().train()
    module.load_state_dict({n: t[0] for n, t in begin.items()}, strict=False)
    torch.nn.functional.cross_entropy(module(inputs[0]), targets[0]).backward()
    for n, parameter in module.named_parameters():
        torch.testing.assert_close(stack.gradients[n][0], parameter.grad, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_the_mean_over_positions_is_channels_last():
    found: list[torch.Tensor] = []
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d((1, 1))
    )
    use_channels_last(module)
    module[1].register_full_backward_hook(lambda part, into, out: found.append(out[0]))
    module(torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert not found[0].is_contiguous()
