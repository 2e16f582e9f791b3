"""Every architecture of a user is run for many networks, whether torch can compute them together or not."""

import pytest
import torch
from torch import nn

from weightflow.batched.over_networks import over_networks


class LastState(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent, self.head = recurrent(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


class Decides(nn.Module):
    """Each network decides by its own values, which cannot be computed for several at once."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.first(x) if self.first.bias.sum() > 0 else self.second(x)


MODULES = {
    "linear": lambda: nn.Linear(4, 3),
    "gru": lambda: LastState(nn.GRU),
    "lstm": lambda: LastState(nn.LSTM),
    "rnn": lambda: LastState(nn.RNN),
    "decides": Decides,
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    "attention": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1, enable_nested_tensor=False
    ),
}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_slopes_are_those_of_each_network(name, shared):
    torch.manual_seed(0)
    networks = [MODULES[name]().eval() for _ in range(3)]
    inputs = torch.randn(3, 2, 5, 4)
    stacked = {
        key: torch.stack([n.state_dict()[key] for n in networks]).requires_grad_()
        for key in networks[0].state_dict()
    }
    forward = over_networks(MODULES[name]().to("meta").eval(), shared=shared)
    outputs = forward(stacked, inputs[0] if shared else inputs)
    outputs.square().sum().backward()
    for number, network in enumerate(networks):
        expected = network(inputs[0 if shared else number])
        torch.testing.assert_close(outputs[number], expected)
        torch.testing.assert_close(forward(stacked, inputs[0] if shared else inputs)[number], expected)
        expected.square().sum().backward()
        for key, parameter in network.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(stacked[key].grad[number], parameter.grad, rtol=1e-4, atol=1e-5)


def test_an_error_of_the_network_itself_is_not_hidden():
    forward = over_networks(nn.Linear(4, 3).to("meta"))
    with pytest.raises(RuntimeError, match="Expected size"):
        forward({"weight": torch.zeros(2, 3, 4), "bias": torch.zeros(2, 3)}, torch.zeros(2, 1, 5))
