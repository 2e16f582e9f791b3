"""Bare checkpoints: the spec from keys, shapes and assumptions holds for the real network."""

import pytest
import torch
import torchvision
from torch import nn

import canon
from canon.errors import InputError
from canon.models.families import recognise
from canon.tracing import recorded_graph


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(5 * 4, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 3),
    )  # fmt: skip


class CifarResNet(torchvision.models.ResNet):
    """Three stages of basic blocks with parameter-free shortcuts, the key names of the common releases."""

    class Block(torchvision.models.resnet.BasicBlock):
        def forward(self, x):
            h = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            extra = h.shape[1] - x.shape[1]
            x = nn.functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, extra // 2, extra // 2)
            )
            return self.relu(h + x)

    def __init__(self):
        nn.Module.__init__(self)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        for n, (before, after) in enumerate([(4, 4), (4, 8), (8, 16)], 1):
            blocks = [self.Block(before, after, 1 if n == 1 else 2), self.Block(after, after)]
            setattr(self, f"layer{n}", nn.Sequential(*blocks))
        self.linear = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def torchvision_vit():
    return torchvision.models.VisionTransformer(16, 8, 2, 3, 192, 64, num_classes=3)


def timm_vit():
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(
        16, 8, embed_dim=192, depth=2, num_heads=3, num_classes=3, init_values=0.1
    )


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=8,
    )  # fmt: skip
    return transformers.BertForPreTraining(config)


def gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11,
        n_embd=128,
        n_layer=2,
        n_head=2,
        n_positions=8,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


IMAGE, IDS = torch.randn(2, 3, 8, 8), torch.randint(0, 11, (2, 6))
NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(2, 4)),
    "cnn": (cnn, IMAGE),
    "vgg": (lambda: torchvision.models.vgg11_bn(num_classes=3), torch.randn(1, 3, 32, 32)),
    "resnet": (lambda: torchvision.models.resnet18(), torch.randn(1, 3, 32, 32)),
    "resnext": (lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=8), torch.randn(1, 3, 32, 32)),
    "cifar resnet": (CifarResNet, IMAGE),
    "vit, torchvision": (torchvision_vit, torch.randn(1, 3, 16, 16)),
    "vit, timm": (timm_vit, torch.randn(1, 3, 16, 16)),
    "bert": (bert, IDS),
    "gpt2": (gpt2, IDS),
}  # fmt: skip
SLOW = {"vgg"}
OWN_SIZES = {"cifar resnet", "resnext"}  # of other widths or fewer blocks than public ones
ASSUMED = {
    "mlp": ["chain", "activation=relu"],
    "cnn": ["chain", "norm=layer", "plain-convolutions"],
    "cifar resnet": ["padding=both", "activation=relu"],
    "resnet": ["activation=relu"],
    "vit, torchvision": ["heads=3"],
    "vit, timm": ["heads=3"],
    "bert": ["heads=2"],
    "gpt2": ["heads=2"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS]
)
def test_the_spec_of_a_bare_checkpoint_holds_for_the_network(name):
    build, example = NETWORKS[name]
    torch.manual_seed(0)
    module = build().eval()
    state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    family = "resnet" if name in OWN_SIZES else None
    found = recognise(state, name=family, assume=ASSUMED.get(name, ())).spec
    traced = canon.trace(module, example)
    check = canon.check_groups(module, example, found)
    assert check.holds, check.failed
    assert check.spec == found  # no scale was taken away either
    assert sum(g.size for g in found.groups.values()) == sum(g.size for g in traced.groups.values())
    assert found.statistics == traced.statistics


def refuse(*args, **kwargs):
    raise RuntimeError("not to be called")


FAST = ("mlp", "gpt2")


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_the_recorded_graph_gives_the_groups_of_the_exported_one(name, monkeypatch):
    torch.manual_seed(0)
    state = NETWORKS[name][0]().state_dict()
    family = "resnet" if name in OWN_SIZES else None
    for assume in {(), tuple(ASSUMED.get(name, ()))}:
        with monkeypatch.context() as without_recording:
            without_recording.setattr(recorded_graph, "record", refuse)
            exported = recognise(state, name=family, assume=assume, verify=False).spec
        with monkeypatch.context() as without_export:
            without_export.setattr(torch.export, "export", refuse)
            assert recognise(state, name=family, assume=assume, verify=False).spec == exported


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in SLOW])
def test_a_bare_checkpoint_is_traced_without_torch_export(name, monkeypatch):
    monkeypatch.setattr(torch.export, "export", refuse)
    state = NETWORKS[name][0]().state_dict()
    family = "resnet" if name in OWN_SIZES else None
    assert recognise(state, name=family, assume=ASSUMED.get(name, ()), verify=False).spec.groups


class Writes(nn.Module):
    def forward(self, x):
        return x.clone().add_(1)


class Decides(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = [torch.ones(3)]

    def forward(self, x):
        return x + self.table[0]


@pytest.mark.parametrize("build", [Writes, Decides, Constant])
def test_what_is_not_a_sequence_of_operations_is_not_recorded(build):
    with pytest.raises(recorded_graph.NotRecordable):
        recorded_graph.record(build(), {}, [torch.ones(3)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, "norms in float32"])
@pytest.mark.parametrize(
    ("build", "assume"),
    [
        (cnn, ["chain", "norm=layer", "plain-convolutions"]),
        (CifarResNet, ["padding=both"]),
        (timm_vit, ["heads=3"]),
    ],
)
def test_a_bare_checkpoint_may_have_any_dtype(build, assume, dtype):
    state = build().state_dict()

    def cast(tensor):
        if not tensor.is_floating_point() or (dtype == "norms in float32" and tensor.dim() == 1):
            return tensor
        return tensor.to(torch.bfloat16 if dtype == "norms in float32" else dtype)

    named = "resnet" if build is CifarResNet else None  # of other widths than the public ones
    specs = [
        recognise(given, name=named, assume=assume, verify=False).spec
        for given in (state, {key: cast(tensor) for key, tensor in state.items()})
    ]
    assert specs[0].groups
    assert specs[0] == specs[1]


def test_heads_that_the_shapes_do_not_tell_stay():
    module = torchvision.models.VisionTransformer(16, 8, 1, 5, 40, 64, num_classes=3)
    unknown, told = (recognise(module.state_dict(), given).spec for given in ({}, {"num_heads": "5"}))
    assert any("number of heads" in reason for reason in unknown.frozen.values())
    assert {g.size for g in unknown.groups.values()} == {40, 64}
    assert {(g.size, g.within is None) for g in told.groups.values()} == {
        (40, True),
        (64, True),
        (5, True),
        (8, False),
    }
    assert canon.check_groups(module, torch.randn(1, 3, 16, 16), told).holds


def test_an_unknown_activation_claims_no_scale():
    build, _ = NETWORKS["mlp"]
    found, told = (
        recognise(build().state_dict(), assume=["chain", *said]).spec for said in ((), ["activation=relu"])
    )
    assert {g.scale for g in found.groups.values()} == {"none"}
    assert {g.scale for g in told.groups.values()} == {"positive"}


def test_what_is_not_known_shows_the_ways_out():
    with pytest.raises(InputError, match=r"--model pkg\.mod:build.*\.pt2") as caught:
        recognise({"alpha.inner.weight": torch.zeros(2, 2), "beta.weight": torch.zeros(2, 2)})
    assert "alpha.inner.weight" in str(caught.value)


def test_a_tensor_too_many_is_not_ignored():
    state = dict(torchvision.models.resnet18().state_dict()) | {"layer1.0.se.weight": torch.zeros(3, 3)}
    with pytest.raises(InputError, match=r"resnet: it has no layer1\.0\.se\.weight"):
        recognise(state)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"family 'alexnet' is not known; canon knows .*resnet"):
        recognise({}, name="alexnet")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_weights_that_are_not_real_numbers_are_named(dtype):
    state = {"0.weight": torch.ones(4, 3).to(dtype), "2.weight": torch.ones(2, 4).to(dtype)}
    with pytest.raises(InputError, match=r"0\.weight is of dtype \w+, and weights are real numbers"):
        recognise(state, assume=["chain"])


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="the shapes do not fit"):
        recognise({"0.weight": torch.randn(4, 3), "2.weight": torch.randn(2, 5)}, assume=["chain"])
