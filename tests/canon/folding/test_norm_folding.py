"""What a norm learned goes into the linear layers that read it, and nowhere else."""

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call

from canon.folding.norm_folding import fold_norms


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def lively(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) + (1.5 if parameter.dim() == 1 else 0.0))
    return module.double().eval()


def check(module, x):
    """The function stayed, and keys, order and shapes with it."""
    found = fold_norms(module, (x,))
    before = module.state_dict()
    assert list(found.state) == list(before)
    torch.testing.assert_close(
        functional_call(module, found.state, (x,), tie_weights=False), module(x), rtol=1e-9, atol=1e-9
    )
    for gain in found.folded:
        assert (found.state[gain] == 1).all()
    for kept in found.kept:
        gain = kept.replace(".bias", ".weight")
        went = kept != gain and gain in found.folded
        assert torch.equal(found.state[kept], before[kept] / before[gain] if went else before[kept])
    return found


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_next_linear_layer_takes_it(norm):
    module = lively(nn.Sequential(norm(6), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)))
    found = check(module, double(3, 6))
    assert found.folded == {"0.weight": ("1.weight",)}
    if norm is nn.LayerNorm:
        assert not found.state["0.bias"].any()


def test_a_state_that_was_folded_is_folded_already():
    module = lively(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)))
    once = fold_norms(module, double(3, 6)).state
    twice = fold_norms(module, double(3, 6), once).state
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_reader_without_bias_leaves_the_norm_its_bias():
    module = lively(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4, bias=False)))
    found = check(module, double(3, 6))
    assert found.state["0.bias"].all()
    assert found.kept["0.bias"] == "linear in 1 has no bias to take the norm's; it was divided by the gain"
    with torch.no_grad():
        module[0].weight[2] = 0
    assert "some gain is zero" in check(module, double(3, 6)).kept["0.weight"]


class Residual(nn.Module):
    def __init__(self, post):
        super().__init__()
        self.post, self.norm, self.a, self.b = post, nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.norm(x)
        return (y if self.post else x) + self.a(y) * torch.sigmoid(self.b(y))


def test_several_linear_readers_all_take_it():
    assert check(lively(Residual(False)), double(3, 6)).folded == {"norm.weight": ("a.weight", "b.weight")}


def test_a_reader_that_is_not_linear_keeps_it_with_the_reason():
    kept = check(lively(Residual(True)), double(3, 6)).kept
    assert kept["norm.weight"] == "add reads it, which is not a linear layer"


def test_an_output_and_an_activation_keep_it():
    module = lively(nn.Sequential(nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 6), nn.LayerNorm(6)))
    kept = check(module, double(3, 6)).kept
    assert "gelu in 1" in kept["0.weight"]
    assert "output" in kept["3.weight"]


def test_a_weight_that_something_else_reads_keeps_it():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm, self.head = (
                nn.Embedding(7, 6),
                nn.LayerNorm(6),
                nn.Linear(6, 7, bias=False),
            )
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.norm(self.embed(x)))

    kept = check(lively(Tied()), torch.randint(7, (2, 3))).kept
    assert "is used by embedding in embed too" in kept["norm.weight"]


def test_two_weights_with_one_bias_keep_it():
    module = Residual(False)
    module.b.bias = module.a.bias
    assert "share a bias" in check(lively(module), double(3, 6)).kept["norm.weight"]


def test_a_norm_and_its_reader_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 6)

        def forward(self, x):
            x = x + self.linear(self.norm(x))
            return x + self.linear(self.norm(x))

    assert check(lively(Twice()), double(3, 6)).folded == {"norm.weight": ("linear.weight",)}


def test_a_norm_written_by_hand_over_weights_stored_the_other_way():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(6))
            self.up, self.bias = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(4))

        def forward(self, x):
            y = self.gain * (x * x.square().mean(-1, keepdim=True).rsqrt())
            return torch.addmm(self.bias, y.view(-1, 6), self.up).view(2, 3, 4)

    assert check(lively(ByHand()), double(2, 3, 6)).folded == {"gain": ("up",)}


NORMS = [nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True)]


@pytest.mark.parametrize("norm", NORMS, ids=[type(norm).__name__ for norm in NORMS])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_takes_a_norm_before_it(norm, groups):
    module = lively(nn.Sequential(norm, nn.Dropout(), nn.Conv2d(6, 12, 3, groups=groups), nn.ReLU()))
    found = check(module, double(2, 6, 5, 5))
    assert found.folded == {"0.weight": ("2.weight",)}
    assert not found.kept
    assert not found.state["0.bias"].any()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(6, 4, 3, padding=1), "conv2d in 1 pads with zeros"),
        (nn.Conv2d(6, 4, 3, padding="same"), "conv2d in 1 pads with zeros"),
        (nn.ConvTranspose2d(6, 4, 3, groups=2), "conv_transpose2d in 1 adds up more of its input"),
        (nn.Conv2d(6, 4, 3, bias=False), "conv2d in 1 has no bias"),
    ],
)
def test_a_shift_that_is_none_after_the_convolution_stays(layer, reason):
    found = check(lively(nn.Sequential(nn.BatchNorm2d(6), layer)), double(2, 6, 5, 5))
    assert found.folded == {"0.weight": ("1.weight",)}
    assert found.kept["0.bias"].startswith(reason)


def test_a_batch_norm_before_a_linear_layer_and_before_an_activation():
    found = check(
        lively(
            nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
        ),
        double(3, 6),
    )
    assert found.folded == {"0.weight": ("1.weight",)}
    assert found.kept == {"2.weight": "relu in 3 reads it, which is not a linear layer"}


def test_a_transformer_folds_before_attention_and_before_its_mlp():
    layer = nn.TransformerEncoderLayer(6, 2, 8, norm_first=True, batch_first=True)
    found = check(lively(layer), double(2, 3, 6))
    assert found.folded.keys() == {"norm1.weight", "norm2.weight"}
    after = nn.TransformerEncoderLayer(6, 2, 8, norm_first=False, batch_first=True)
    assert not check(lively(after), double(2, 3, 6)).folded


def test_a_vision_transformer_folds_every_norm():
    vit = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3
    )
    found = check(lively(vit), double(2, 3, 8, 8))
    assert len(found.folded) == 5
    assert not found.kept
