"""Bare checkpoints: the function stays whatever keys and shapes leave open, and what is assumed is said.

Every network here has the keys and shapes of something that a reader might take it for and is not.
"""

import json
import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from canon.actions import permutation
from canon.cli import console
from canon.cli.main import app
from canon.errors import InputError
from canon.io import checkpoint
from canon.models.families import recognise

IMAGE, FLAT, IDS = torch.randn(2, 3, 8, 8), torch.randn(5, 6), torch.arange(6)[None]


class Layers(nn.Module):
    """Numbered layers joined by `join`, a function of the list and the input."""

    def __init__(self, join, *layers, name="layers"):
        super().__init__()
        self.name, self.join = name, join
        self.add_module(name, nn.ModuleList(layers))

    def forward(self, x):
        return self.join(getattr(self, self.name), x)


def residual(layers, x):
    x = layers[0](x)
    for layer in layers[1:-1]:
        x = x + torch.relu(layer(x))
    return layers[-1](x)


def dense(layers, x):
    h = torch.relu(layers[0](x))
    return layers[2](h + torch.relu(layers[1](h)).flip(-1))


def side_by_side(layers, x):
    return sum(torch.relu(layer(x)) for layer in layers)


def gated(layers, x):
    return layers[0](x).softmax(-1) * torch.relu(layers[1](x))


def multiplied(layers, x):
    return layers[2](layers[0](x).sigmoid() * layers[1](x))


class Named(nn.Module):
    """Layers named fc1, fc2, …, joined by `join`."""

    def __init__(self, join, *layers):
        super().__init__()
        self.join = join
        for number, layer in enumerate(layers, 1):
            self.add_module(f"fc{number}", layer)

    def forward(self, x):
        return self.join(list(self.children()), x)


class Local(nn.Module):
    """Mixes neighbouring channels, without parameters."""

    def forward(self, x):
        return x + 0.5 * x.roll(1, 1)


class CumulativeSum(nn.Module):
    """Sums channels up, without parameters."""

    def forward(self, x):
        return x.cumsum(1)


def conv_then(*between):
    return nn.Sequential(nn.Conv2d(3, 8, 3), *between, nn.Conv2d(8, 4, 3))


class Block(nn.Module):
    """Two convolutions with norms; `widen` makes the wider shortcut, `inner` stands between the two."""

    def __init__(self, i, o, widen, inner, act):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, 1 + (i != o), 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.widen, self.inner, self.act, self.wider = widen, inner, act, i != o

    def forward(self, x):
        h = self.bn2(self.conv2(self.inner(self.act(self.bn1(self.conv1(x))))))
        if self.wider:
            x = x[:, :, ::2, ::2]
            x = self.widen(x)
        return self.act(h + x)


class Residual(nn.Module):
    def __init__(
        self,
        widths,
        widen=lambda x: torch.cat([x, x * 0], 1),
        inner=nn.Identity(),
        act=F.relu,
        blocks=1,
        head=True,
    ):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        for n, (i, o) in enumerate(zip((widths[0], *widths), widths, strict=False), 1):
            ends = [(i, o), *[(o, o)] * (blocks - 1)]
            self.add_module(f"layer{n}", nn.Sequential(*[Block(*end, widen, inner, act) for end in ends]))
        self.stages, self.act = len(widths), act
        if head:
            self.linear = nn.Linear(widths[-1], 5)

    def forward(self, x):
        x = self.act(self.bn1(self.conv1(x)))
        maps = [x]
        for n in range(1, self.stages + 1):
            maps.append(getattr(self, f"layer{n}")(maps[-1]))
        return self.linear(maps[-1].mean((2, 3))) if hasattr(self, "linear") else maps


class Grouped(Residual):
    """Blocks of grouped convolutions between which channels are shuffled, as ShuffleNet has them."""

    class Block(nn.Module):
        def __init__(self, i, o):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(i, o, 3, 1, 1, bias=False, groups=4), nn.BatchNorm2d(o)
            self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False, groups=4), nn.BatchNorm2d(o)
            if i != o:
                self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o))

        def forward(self, x):
            h = F.channel_shuffle(F.relu(self.bn1(self.conv1(x))), 4)
            h = self.bn2(self.conv2(h))
            return F.relu(h + (self.downsample(x) if hasattr(self, "downsample") else x))

    def __init__(self, widths):
        super().__init__(widths)
        for n, (i, o) in enumerate(zip((widths[0], *widths), widths, strict=False), 1):
            setattr(self, f"layer{n}", nn.Sequential(self.Block(i, o)))


class PreActivation(nn.Module):
    """Norms before convolutions, under the keys of norms behind them: widths do not tell."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)

        def forward(self, x):
            return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        for n in range(1, 5):
            self.add_module(f"layer{n}", nn.Sequential(self.Block(8)))
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn1(x)).mean((2, 3)))


def torchvision_vit(width=64, heads=8):
    return torchvision.models.VisionTransformer(8, 4, 2, heads, width, 32, num_classes=3)


def timm_vit(width=192, heads=6, **options):
    timm = pytest.importorskip("timm")
    return timm.models.VisionTransformer(
        8, 4, embed_dim=width, depth=2, num_heads=heads, num_classes=3, **options
    )


def bert(width=384, heads=12, kind="BertModel", **options):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=width, num_hidden_layers=1, num_attention_heads=heads, intermediate_size=24,
        max_position_embeddings=8, **options,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


def gpt2(width=128, heads=4, kind="GPT2LMHeadModel", **options):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_embd=width, n_layer=1, n_head=heads, n_positions=8, bos_token_id=0, eos_token_id=0,
        use_cache=False, **options,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


class Encoder(nn.Module):
    """Shows the hidden states of a GPT-2 under the keys of a language model without its tied head."""

    def __init__(self):
        super().__init__()
        self.transformer = gpt2(kind="GPT2Model")

    def forward(self, x):
        return self.transformer(x).last_hidden_state


class MaskedAndPooled(nn.Module):
    """A BERT whose callers read its pooled output, under the keys of a masked language model with a pooler."""

    def __init__(self):
        super().__init__()
        whole = bert(48, 4, "BertForPreTraining")
        self.bert, self.cls = whole.bert, nn.Module()
        self.cls.predictions = whole.cls.predictions

    def forward(self, x):
        hidden, pooled = self.bert(x)[:2]
        return torch.cat([self.cls.predictions(hidden)[:, 0], pooled], -1)


def linears(*widths):
    return [nn.Linear(i, o) for i, o in pairwise(widths)]


NETWORKS = {
    "heads, BERT": (bert, IDS),
    "heads, BERT with a classifier": (lambda: bert(128, 8, "BertForSequenceClassification"), IDS),
    "heads, BERT language model": (lambda: bert(256, 2, "BertForMaskedLM"), IDS),
    "heads, GPT-2": (gpt2, IDS),
    "heads, bare GPT-2": (lambda: gpt2(256, 16, "GPT2Model"), IDS),
    "heads, GPT-2 of 192": (lambda: gpt2(192, 12), IDS),
    "heads, torchvision ViT": (torchvision_vit, IMAGE),
    "heads, torchvision ViT of 384": (lambda: torchvision_vit(384, 12), IMAGE),
    "heads, timm ViT": (timm_vit, IMAGE),
    "heads, timm ViT without a class token": (
        lambda: timm_vit(128, 8, class_token=False, global_pool="avg"),
        IMAGE,
    ),
    "hidden states of a GPT-2": (Encoder, IDS),
    "list, residual": (lambda: Layers(residual, *linears(6, 8, 8, 8, 3)), FLAT),
    "list, residual blocks": (lambda: Layers(residual, *linears(6, 6, 6, 6, 6), name="blocks"), FLAT),
    "list, flipped skip": (lambda: Layers(dense, *linears(6, 8, 8, 3)), FLAT),
    "list, experts": (lambda: Layers(side_by_side, *[nn.Linear(6, 6) for _ in range(4)], name="experts"), FLAT),
    "list, experts without bias": (
        lambda: Layers(side_by_side, *[nn.Linear(6, 6, bias=False) for _ in range(3)]),
        FLAT,
    ),
    "list, a gate": (lambda: Layers(gated, nn.Linear(6, 6), nn.Linear(6, 6)), FLAT),
    "list, a product": (lambda: Layers(multiplied, nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)), FLAT),
    "names, residual": (lambda: Named(residual, *linears(6, 8, 8, 8, 3)), FLAT),
    "names, side by side": (lambda: Named(side_by_side, nn.Linear(6, 6), nn.Linear(6, 6)), FLAT),
    "names, flipped skip": (lambda: Named(dense, *linears(6, 8, 8, 3)), FLAT),
    "between, channel shuffle": (lambda: conv_then(nn.ChannelShuffle(4), nn.ReLU()), IMAGE),
    "between, group norm": (lambda: conv_then(nn.GroupNorm(4, 8, affine=False), nn.ReLU()), IMAGE),
    "between, local response norm": (lambda: conv_then(nn.LocalResponseNorm(3), nn.ReLU()), IMAGE),
    "between, a wider local response norm": (lambda: conv_then(nn.ReLU(), nn.LocalResponseNorm(5)), IMAGE),
    "between, cumulative sums": (lambda: conv_then(nn.Softmax(1), CumulativeSum()), IMAGE),
    "between, a mixing module": (lambda: conv_then(Local()), IMAGE),
    "between, nothing numbered apart": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=1), Local(), nn.Conv2d(8, 4, 3)),
        IMAGE,
    ),
    "between, pixel shuffle": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 4, 3)),
        IMAGE,
    ),
    "between, group norm with a gain": (lambda: conv_then(nn.GroupNorm(4, 8), nn.ReLU()), IMAGE),
    "padding behind": (lambda: Residual((8, 16)), IMAGE),
    "padding behind, three stages": (lambda: Residual((4, 8, 16)), IMAGE),
    "padding in front": (lambda: Residual((4, 8, 16), lambda x: torch.cat([x * 0, x], 1)), IMAGE),
    "padding in front, of CIFAR": (
        lambda: Residual((16, 32, 64), lambda x: torch.cat([x * 0, x], 1), blocks=3),
        IMAGE,
    ),
    "activation, SiLU": (lambda: Residual((16, 32, 64), act=F.silu, blocks=3), IMAGE),
    "activation, GELU": (lambda: Residual((16, 32, 64), act=F.gelu, blocks=3), IMAGE),
    "activation, tanh": (lambda: Residual((16, 32, 64), act=torch.tanh, blocks=3), IMAGE),
    "channels repeated": (lambda: Residual((4, 8, 16), lambda x: x.repeat_interleave(2, 1)), IMAGE),
    "blocks with a shuffle": (lambda: Residual((8, 16), inner=nn.ChannelShuffle(2)), IMAGE),
    "blocks with a shuffle, three stages": (
        lambda: Residual((4, 8, 16), inner=nn.ChannelShuffle(2)),
        IMAGE,
    ),
    "padding behind, of CIFAR": (lambda: Residual((16, 32, 64), blocks=3), IMAGE),
    "channels repeated, of CIFAR": (
        lambda: Residual((16, 32, 64), lambda x: x.repeat_interleave(2, 1), blocks=3),
        IMAGE,
    ),
    "blocks with a shuffle, of CIFAR": (
        lambda: Residual((16, 32, 64), inner=nn.ChannelShuffle(4)),
        IMAGE,
    ),
    "blocks with a norm over neighbours, of CIFAR": (
        lambda: Residual((16, 32, 64), act=lambda x: F.local_response_norm(F.relu(x), 5)),
        IMAGE,
    ),
    "maps of all stages, of CIFAR": (lambda: Residual((16, 32, 64), blocks=3, head=False), IMAGE),
    "pooled output beside a language model": (MaskedAndPooled, IDS),
    "pre-activation": (PreActivation, IMAGE),
    "groups, of CIFAR": (lambda: Grouped((16, 32, 64)), IMAGE),
}  # fmt: skip


def noisy(build, seed):
    """Random weights in which every bias, gain and statistic counts."""
    torch.manual_seed(seed)
    module = build().eval()
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand_like(tensor))
    return module


def output(module, state, x):
    module = module.double()
    module.load_state_dict(
        {k: v.double() if v.is_floating_point() else v for k, v in state.items()}, strict=False
    )
    with torch.no_grad():
        found = module(x.double() if x.is_floating_point() else x)
    if isinstance(found, list):
        return torch.cat([part.flatten() for part in found])
    return found if isinstance(found, torch.Tensor) else found[0]


@pytest.fixture
def canon(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = console.run_cli(app, line.split(), name="canon")
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def save(build):
    modules = [noisy(build, seed) for seed in (0, 1)]
    for module, name in zip(modules, "ab", strict=True):
        state = {k: v.clone() for k, v in module.state_dict().items() if k != "lm_head.weight"}
        torch.save(state, f"{name}.pt")
    return modules[1]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_bare_checkpoint_keeps_its_function(canon, name):
    build, x = NETWORKS[name]
    module = save(build)
    before = output(module, checkpoint.read("b.pt").state, x)
    for command in (
        "align a.pt b.pt --balance --quiet",
        "canonicalize b.pt",
    ):
        code, out, err = canon(f"{command} --json --out c.pt")
        assert (code, err) == (0, "")
        report = json.loads(out)
        after = output(module, checkpoint.read("c.pt").state, x)
        assert float((before - after).abs().max() / before.abs().max()) < (
            1e-5 if "balance" in command else 1e-10
        )
        assert report["verified"] or report["assumptions"]
        assert report["verified"] is (report["moved_fraction"] == 0)
    code, out, _ = canon("verify b.pt c.pt --json")
    assert code == (3 if report["moved_fraction"] else 0)
    assert json.loads(out)["same"] in (None, True)


def test_a_scale_is_taken_only_where_the_activation_is_stated(canon):
    """SiLU under the keys of a public ResNet: balancing as if it were ReLU would change it."""
    build = lambda: Residual((16, 32, 64), act=F.silu, blocks=3)  # noqa: E731
    module = save(build)
    state = checkpoint.read("b.pt").state
    state["layer1.0.bn1.weight"] *= 7
    torch.save(state, "b.pt")
    before = output(module, state, IMAGE)
    assert canon("align a.pt b.pt --balance --quiet --out c.pt")[0] == 0
    after = output(module, checkpoint.read("c.pt").state, IMAGE)
    assert torch.allclose(before, after, rtol=1e-5, atol=1e-5)
    found = json.loads(canon("inspect b.pt --json")[1])
    assert {group["scale"] for group in found["groups"]} == {"none"}
    told = json.loads(canon("inspect b.pt --assume activation=relu --json")[1])
    assert "positive" in {group["scale"] for group in told["groups"]}
    assert "activation=relu (--assume)" in told["assumptions"]


def shared(layer, between=nn.ReLU):
    return nn.Sequential(
        nn.Linear(6, 8), layer, between(), nn.Linear(8, 8), layer, between(), nn.Linear(8, 3)
    )


def transposed(kernel):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, kernel, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 3, 3),
    )


STATED = {
    "a batch norm twice": (lambda: shared(nn.BatchNorm1d(8)), FLAT, "chain"),
    "a layer norm twice": (lambda: shared(nn.LayerNorm(8)), FLAT, "chain --assume norm=layer"),
    "slopes twice": (lambda: shared(nn.PReLU(8), nn.Identity), FLAT, "chain"),
    "a convolution that may be transposed": (
        lambda: transposed(4),
        IMAGE,
        "chain",
    ),
    "a transposed convolution of three by three": (
        lambda: transposed(3),
        IMAGE,
        "chain",
    ),
    "a decoder": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
        ),
        IMAGE,
        "chain",
    ),
    "a generator with norms": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 8, 4, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 4, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 4),
        ),
        IMAGE,
        "chain",
    ),
    "a first convolution with groups": (
        lambda: nn.Sequential(
            nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3)
        ),
        torch.randn(2, 6, 8, 8),
        "chain",
    ),
    "a first convolution that is depthwise": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv1d(4, 8, 1), nn.ReLU(), nn.Conv1d(8, 4, 3)
        ),
        torch.randn(2, 4, 8),
        "chain",
    ),
    "plain convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)
        ),
        IMAGE,
        "chain --assume plain-convolutions",
    ),
    "two poolings side by side": (
        lambda: Named(
            lambda layers, x: layers[2](
                torch.cat([(h := layers[1](layers[0](x).relu())).amax((2, 3)), h.mean((2, 3))], 1)
            ),
            nn.Conv2d(3, 6, 3),
            nn.Conv2d(6, 8, 3),
            nn.Linear(16, 4),
        ),
        IMAGE,
        "chain --assume plain-convolutions",
    ),
    "a gain for each position": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(6, 8, 3, padding=1),
            nn.RMSNorm(8),
            nn.ReLU(),
            nn.Conv1d(8, 4, 3),
        ),
        torch.randn(2, 3, 8),
        "chain --assume plain-convolutions",
    ),
    "convolutions over as many positions as channels": (
        lambda: Named(
            lambda layers, x: layers[3](layers[2](layers[1](layers[0](x))).mean(2)),
            nn.Conv1d(3, 4, 3, padding=1),
            nn.BatchNorm1d(4),
            nn.Conv1d(4, 4, 1),
            nn.Linear(4, 3),
        ),
        torch.randn(2, 3, 4),
        "chain --assume plain-convolutions",
    ),
}


@pytest.mark.parametrize("name", STATED)
def test_what_is_stated_keeps_the_function_of_every_network_that_it_is_true_of(canon, name):
    build, x, stated = STATED[name]
    module = save(build)
    before = output(module, checkpoint.read("b.pt").state, x)
    for command in ("align a.pt b.pt --quiet", "canonicalize b.pt"):
        code, out, err = canon(f"{command} --json --out c.pt --assume {stated}")
        assert (code, err) == (0, "")
        after = output(module, checkpoint.read("c.pt").state, x)
        assert float((before - after).abs().max() / before.abs().max()) < 1e-10
        assert json.loads(out)["moved_fraction"] > 0


UNDECIDED = {
    "transposed convolutions that may be plain": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3, bias=False), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, bias=False)),
        "0 may be a convolution or a transposed one, or have groups; --assume plain-convolutions",
    ),
    "numbers against the order": (
        lambda: nn.ModuleDict({"fc2": nn.Linear(8, 8), "fc1": nn.Linear(8, 8), "out": nn.Linear(8, 3)}),
        "the file lists fc1 behind fc2, so it does not tell the order of calls",
    ),
    "norms behind all layers": (
        lambda: nn.ModuleDict(
            {"fc1": nn.Linear(6, 8), "fc2": nn.Linear(8, 8), "bn1": nn.BatchNorm1d(8), "bn2": nn.BatchNorm1d(8), "fc3": nn.Linear(8, 3)}
        ),
        "the file does not list bn1 behind layer 1",
    ),
    "a norm behind all layers": (
        lambda: nn.ModuleDict({"enter": nn.Linear(6, 8), "leave": nn.Linear(8, 8), "norm": nn.BatchNorm1d(8)}),
        "the file lists norm behind all layers, and it may stand behind enter",
    ),
    "a convolution over steps": (
        lambda: nn.ModuleDict({"emb": nn.Embedding(11, 3), "conv": nn.Conv1d(3, 8, 3), "fc": nn.Linear(8, 3)}),
        "conv is a convolution and is given steps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDECIDED)
def test_a_chain_of_which_something_is_left_open_is_refused(name):
    build, message = UNDECIDED[name]
    with pytest.raises(InputError, match=message):
        recognise(build().state_dict(), assume=["chain"])


def random_chain(seed):
    """A chain of convolutions, transposed or grouped, norms and linear layers, and an input for it; None where none fits."""
    rng = random.Random(seed)
    channels = taken = rng.choice([2, 4, 6])
    layers, positions = [], 6
    for _ in range(rng.choice([1, 2, 3, 4])):
        given, size = rng.choice([2, 4, 6]), rng.choice([1, 3])
        kind = rng.choice([nn.Conv1d, nn.ConvTranspose1d])
        options = {"padding": size // 2, "bias": rng.random() < 0.7, "groups": rng.choice([1, 1, 2])}
        norm = rng.choice(
            [nn.BatchNorm1d, nn.BatchNorm1d, nn.PReLU, lambda n: nn.GroupNorm(2, n), lambda n: nn.RMSNorm(6)]
        )
        layers += [kind(channels, given, size, **options), norm(given) if rng.random() < 0.5 else nn.ReLU()]
        channels = given
    if rng.random() < 0.5:
        wide = rng.choice([1, 2, 3])
        layers += [
            nn.AdaptiveAvgPool1d(wide),
            nn.Flatten(),
            nn.Linear(channels * wide, 5),
            nn.Tanh(),
            nn.Linear(5, 3),
        ]
    return nn.Sequential(*layers), torch.randn(2, taken, positions, dtype=torch.float64)


def test_random_chains_keep_their_function_or_are_refused():
    moved = 0
    for seed in range(60):
        torch.manual_seed(seed)
        module, x = random_chain(seed)
        module = noisy(lambda module=module: module, seed).double()
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        try:
            spec = recognise(state, assume=["chain"], verify=False).spec
        except InputError:
            continue
        before = output(module, state, x)
        changed = permutation.apply(
            spec, permutation.random(spec, torch.Generator().manual_seed(seed)), state
        )
        torch.testing.assert_close(output(module, changed, x), before, rtol=1e-9, atol=1e-9)
        moved += bool(spec.groups)
    assert moved > 5


def test_norms_are_found_before_and_behind_the_layer_of_their_number():
    behind = {
        "fc1": nn.Linear(6, 8),
        "bn1": nn.BatchNorm1d(8),
        "fc2": nn.Linear(8, 8),
        "bn2": nn.BatchNorm1d(8),
    }
    before = {
        "bn1": nn.BatchNorm1d(6),
        "fc1": nn.Linear(6, 8),
        "bn2": nn.BatchNorm1d(8),
        "fc2": nn.Linear(8, 3),
    }
    for layers in (behind | {"fc3": nn.Linear(8, 3)}, before):
        assert recognise(nn.ModuleDict(layers).state_dict(), assume=["chain"]).spec.groups
    either = {"bn1": nn.BatchNorm1d(8), "fc1": nn.Linear(8, 8), "fc2": nn.Linear(8, 3)}
    with pytest.raises(InputError, match="does not list bn1 behind layer 1"):
        recognise(nn.ModuleDict(either).state_dict(), assume=["chain"])


def test_what_stays_says_how_to_let_it_move():
    state = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).state_dict()
    found = recognise(state, assume=["chain"])
    assert "0 takes the input, so it may have groups" in found.spec.frozen["0.weight axis 0"]
    told = recognise(state, assume=["chain", "plain-convolutions"])
    assert next(iter(told.spec.groups.values())).size == 8
    assert "plain-convolutions (--assume)" in told.assumptions


def test_a_batch_norm_that_is_shared_is_known_by_its_statistics_alone():
    # As safetensors hold them, twice; gain and bias are those that it began with.
    state = {name: tensor.clone() for name, tensor in shared(nn.BatchNorm1d(8)).state_dict().items()}
    state |= {f"{n}.running_mean": torch.arange(8.0) for n in (1, 4)}
    assert len(recognise(state, assume=["chain"]).spec.groups) == 1
    state["4.running_mean"] = torch.arange(8.0) + 1
    assert len(recognise(state, assume=["chain"]).spec.groups) == 2


def test_heads_stay_where_attention_is_not_as_wide_as_the_network():
    state = dict(bert(48, 12).state_dict())
    attention = "encoder.layer.0.attention."
    for name in ("query", "key", "value"):  # half of the heads are pruned, the others as wide as before
        state |= {
            f"{attention}self.{name}.{leaf}": torch.randn(24, 48)[:, : 48**n].squeeze(1)
            for n, leaf in enumerate(("bias", "weight"))
        }
    state[f"{attention}output.dense.weight"] = torch.randn(48, 24)
    spec = recognise(state, assume=["heads=12"]).spec
    assert "heads=12 does not tell" in spec.frozen[f"{attention}self.query.weight axis 0"]
    assert not spec.axes[f"{attention}self.value.weight"][0].groups
    assert list(spec.groups) == ["encoder.layer.0.intermediate.dense"]


@pytest.mark.parametrize("bias", [False, True])
def test_channels_of_heads_stay_where_positions_may_rotate_them(canon, bias):
    """timm's Eva has the keys of a VisionTransformer, and rotary positions, where its queries have no bias."""
    pytest.importorskip("timm")
    from timm.models.eva import Eva

    module = save(
        (lambda: timm_vit(24, 3))
        if bias
        else lambda: Eva(
            8, 4, embed_dim=24, depth=2, num_heads=3, num_classes=3, qkv_bias=False, init_values=None
        )
    )
    before = output(module, checkpoint.read("b.pt").state, IMAGE)
    code, out, err = canon("align a.pt b.pt --quiet --balance --json --out c.pt --assume heads=3")
    assert (code, err) == (0, "")
    after = output(module, checkpoint.read("c.pt").state, IMAGE)
    assert float((before - after).abs().max() / before.abs().max()) < 1e-5
    sizes = [group["size"] for group in json.loads(out)["groups"]]
    assert sizes.count(3) == 2  # heads move in both blocks
    assert sizes.count(8) == (
        4 if bias else 2
    )  # and channels of values; of queries and keys where none rotates


def test_heads_that_keys_tell_have_no_scale(canon):
    """YOSO normalizes queries, keys and what attention gives, under the keys of BERT."""
    transformers = pytest.importorskip("transformers")
    config = transformers.YosoConfig(
        vocab_size=11, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=20,
        max_position_embeddings=12, conv_window=None, use_expectation=True,
    )  # fmt: skip
    module = save(lambda: transformers.YosoModel(config))
    before = output(module, checkpoint.read("b.pt").state, IDS)
    assert canon("align a.pt b.pt --quiet --balance --json --out c.pt --assume heads=4")[0] == 0
    after = output(module, checkpoint.read("c.pt").state, IDS)
    assert float((before - after).abs().max() / before.abs().max()) < 1e-5


def test_a_square_table_is_not_taken_for_a_layer(canon):
    save(lambda: nn.Sequential(nn.Embedding(8, 8), nn.ReLU(), nn.Linear(8, 3)))
    code, _, err = canon("align a.pt b.pt --assume chain --out c.pt")
    assert code == 2
    assert "0 may be an embedding or a linear layer" in err


@pytest.mark.parametrize("source", ["--assume", "config.json"])
def test_heads_move_whole_where_their_number_is_known(canon, tmp_path, source):
    module = save(bert)
    line = "align a.pt b.pt --quiet --json --out c.pt"
    if source == "--assume":
        line += " --assume heads=12"
    else:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "other", "num_attention_heads": 12}))
    code, out, err = canon(line)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert f"heads=12 ({source})" in report["assumptions"]
    assert 12 in {group["size"] for group in report["groups"]}
    before, after = (output(module, checkpoint.read(f"{n}.pt").state, IDS) for n in "bc")
    assert torch.allclose(before, after, rtol=1e-10)


def test_every_command_takes_and_names_an_assumption(canon):
    save(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    for line in (
        "align a.pt b.pt --quiet --out c.pt",
        "canonicalize a.pt --out c.pt",
        "merge a.pt b.pt --quiet --out m.pt",
        "inspect a.pt",
    ):
        code, out, _ = canon(f"{line} --assume chain")
        assert code == 0
        assert "assuming chain (--assume)" in out
        assert json.loads(canon(f"{line} --assume chain --json")[1])["assumptions"] == ["chain (--assume)"]
    code, out, _ = canon("verify b.pt a.pt --assume chain")
    assert code == 3
    assert "undecided under these assumptions" in out


def test_a_mean_of_networks_that_were_not_aligned_says_so(canon):
    save(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    code, _, err = canon("merge a.pt b.pt --quiet --out m.pt")
    assert code == 0
    assert "b.pt was not aligned" in err
    assert "--assume chain" in err


@pytest.mark.parametrize("heads", ["7", "5"])
def test_heads_that_do_not_divide_the_width_are_refused(canon, tmp_path, heads):
    save(bert)
    code, out, err = canon(f"align a.pt b.pt --assume heads={heads} --out c.pt")
    assert (code, out) == (2, "")
    assert err == (
        f"error: heads={heads} (--assume) does not divide the width 384; "
        "give the number of heads that the network was built with\n"
    )
    assert not (tmp_path / "c.pt").exists()


def test_a_configuration_of_another_network_is_refused(canon, tmp_path):
    save(bert)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12, "hidden_size": 768}))
    code, _, err = canon("align a.pt b.pt --out c.pt")
    assert code == 2
    assert "config.json says hidden_size=768 and the tensors are 384 wide" in err
    (tmp_path / "config.json").write_text("{")
    code, _, err = canon("align a.pt b.pt --out c.pt")
    assert code == 2
    assert "config.json cannot be read" in err


def test_a_public_architecture_is_named_and_not_verified(canon):
    save(torchvision.models.resnet18)
    code, out, _ = canon("inspect a.pt")
    assert code == 0
    assert "assuming the torchvision ResNet-18 architecture (keys and shapes fit) (not verified)" in out


def test_a_share_of_parameters_counts_what_moves(canon):
    save(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)))
    found = json.loads(canon("inspect a.pt --assume chain --json")[1])
    assert found["parameters_in_moving_groups"] == 4 * 6 + 6 + 6 * 3
    assert (found["axes_that_move"], found["axes"]) == (3, 6)
